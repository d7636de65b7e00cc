//! Rows that go through the model in parts, such as sounds longer than it hears.

use std::collections::{HashMap, HashSet};

use legenda_models::Generation;
use tokio::sync::oneshot;

use super::RowKey;
use crate::stop::Stop;

/// What goes through the model of a row at a time.
#[derive(Debug)]
pub enum Part {
    /// One of the parts of a row, which are answered in any order and joined.
    OfSeveral(Place),
    /// A window of a sound, on whose answer the next one depends: it goes back to `prepare`.
    Window(oneshot::Sender<Generation>),
}

/// Which part of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its place, from 0.
    pub idx: usize,
    /// The parts of the row, 1 for a row that is whole.
    pub n_parts: usize,
}

#[cfg(test)]
impl Place {
    /// A row that is whole.
    const WHOLE: Self = Self { idx: 0, n_parts: 1 };
}

/// Answers that wait for those of the other parts of their rows. A row that is rejected by one of its
/// parts leaves the others here.
#[derive(Debug, Default)]
pub struct WaitingParts {
    rows: HashMap<RowKey, Vec<Option<Generation>>>,
}

impl WaitingParts {
    /// Takes the answer of a part; returns those of all parts, in order, if it was the last.
    pub fn take(
        &mut self,
        key: RowKey,
        part: Place,
        generation: Generation,
    ) -> Option<Vec<Generation>> {
        if part.n_parts == 1 {
            return Some(vec![generation]);
        }
        let waiting = self.rows.entry(key).or_insert_with(|| vec![None; part.n_parts]);
        if let Some(place) = waiting.get_mut(part.idx) {
            *place = Some(generation);
        }
        if waiting.iter().any(Option::is_none) {
            return None;
        }
        self.rows.remove(&key).map(|parts| parts.into_iter().flatten().collect())
    }
}

/// Decides which rows a stage works on while the run is to stop: those that have begun, and no others.
#[derive(Debug)]
pub struct Admission<'a> {
    stop: &'a Stop,
    /// Rows whose first part was turned away.
    refused: HashSet<RowKey>,
}

impl<'a> Admission<'a> {
    /// Admits every row until `stop` is requested.
    #[must_use]
    pub fn new(stop: &'a Stop) -> Self {
        Self { stop, refused: HashSet::new() }
    }

    /// Returns whether a part of a row is worked on. After the grace of the stop none is.
    pub fn admits(&mut self, key: RowKey, part: &Part) -> bool {
        if !self.stop.is_requested() {
            return true;
        }
        let has_begun = match part {
            Part::OfSeveral(place) => place.idx > 0 && !self.refused.contains(&key),
            Part::Window(_) => true,
        };
        let admits = has_begun && !self.stop.is_over();
        if !admits {
            self.refused.insert(key);
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use legenda_models::{FinishReason, Trial};

    use super::*;

    fn generation(text: &str) -> Generation {
        Generation {
            token_ids: vec![1],
            text: text.to_owned(),
            finish_reason: FinishReason::Stop,
            n_prompt_tokens: 1,
            logprob_mean: 0.0,
            trial: Trial::default(),
        }
    }

    #[test]
    fn a_stop_lets_only_rows_in_that_have_begun() {
        let key = |row_idx| RowKey { span_idx: 0, row_idx };
        let part = |idx| Part::OfSeveral(Place { idx, n_parts: 3 });
        let stop = Stop::default();
        let mut admission = Admission::new(&stop);
        assert!(admission.admits(key(0), &part(0)));
        stop.request(Duration::from_secs(60));
        assert!(admission.admits(key(0), &part(1)));
        assert!(!admission.admits(key(1), &part(0)));
        assert!(!admission.admits(key(1), &part(1)), "its first part was turned away");
        assert!(admission.admits(key(2), &Part::Window(oneshot::channel().0)));
        let stop = Stop::default();
        stop.request(Duration::ZERO);
        assert!(!Admission::new(&stop).admits(key(0), &part(1)), "the grace is over");
    }

    #[test]
    fn a_row_is_answered_when_its_last_part_is() {
        let key = |row_idx| RowKey { span_idx: 0, row_idx };
        let part = |idx| Place { idx, n_parts: 3 };
        let mut waiting = WaitingParts::default();
        assert!(waiting.take(key(0), part(2), generation("c")).is_none());
        assert!(waiting.take(key(0), part(0), generation("a")).is_none());
        assert!(waiting.take(key(1), part(1), generation("x")).is_none(), "another row");
        let whole = waiting.take(key(2), Place::WHOLE, generation("whole")).unwrap();
        assert_eq!(whole[0].text, "whole");
        let parts = waiting.take(key(0), part(1), generation("b")).unwrap();
        let texts: Vec<&str> = parts.iter().map(|part| part.text.as_str()).collect();
        assert_eq!(texts, ["a", "b", "c"]);
    }
}
