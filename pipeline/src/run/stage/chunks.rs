//! Rows that go through the model in chunks, such as audio longer than its input window.

use std::collections::{HashMap, HashSet};

use legenda_models::Generation;
use tokio::sync::oneshot;

use super::RowKey;
use crate::run::stop::Stop;

/// The unit of a row that goes through the model at a time.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// One of the chunks of a row, which are answered in any order and joined.
    Indexed(ChunkIndex),
    /// A window of sequential long audio: the answer decides where the next window starts, so it returns
    /// to `prepare`.
    Window(oneshot::Sender<Generation>),
}

/// The position of a chunk in its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkIndex {
    /// The position, from 0.
    pub idx: usize,
    /// The number of chunks in the row; 1 for an unsplit row.
    pub n_chunks: usize,
}

#[cfg(test)]
impl ChunkIndex {
    /// An unsplit row.
    const WHOLE: Self = Self { idx: 0, n_chunks: 1 };
}

/// Answers of chunks whose rows are incomplete. If one chunk rejects its row, the answers of the others
/// stay here.
#[derive(Debug, Default)]
pub(crate) struct PendingChunks {
    rows: HashMap<RowKey, Vec<Option<Generation>>>,
}

impl PendingChunks {
    /// Adds the answer of a chunk; returns the answers of all chunks, in order, if it was the last.
    pub(crate) fn take(
        &mut self,
        key: RowKey,
        chunk: ChunkIndex,
        generation: Generation,
    ) -> Option<Vec<Generation>> {
        if chunk.n_chunks == 1 {
            return Some(vec![generation]);
        }
        let waiting = self.rows.entry(key).or_insert_with(|| vec![None; chunk.n_chunks]);
        if let Some(chunk) = waiting.get_mut(chunk.idx) {
            *chunk = Some(generation);
        }
        if waiting.iter().any(Option::is_none) {
            return None;
        }
        self.rows.remove(&key).map(|chunks| chunks.into_iter().flatten().collect())
    }
}

/// Decides which rows a stage accepts while the run stops: only rows that have started.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    stop: &'a Stop,
    /// Rows whose first chunk was refused.
    refused: HashSet<RowKey>,
}

impl<'a> Admission<'a> {
    /// Admits every row until `stop` is requested.
    #[must_use]
    pub(crate) fn new(stop: &'a Stop) -> Self {
        Self { stop, refused: HashSet::new() }
    }

    /// Returns whether a chunk is accepted. After the grace period none is.
    pub(crate) fn admits(&mut self, key: RowKey, chunk: &Chunk) -> bool {
        if !self.stop.is_requested() {
            return true;
        }
        let has_begun = match chunk {
            Chunk::Indexed(chunk) => chunk.idx > 0 && !self.refused.contains(&key),
            Chunk::Window(_) => true,
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
        let chunk = |idx| Chunk::Indexed(ChunkIndex { idx, n_chunks: 3 });
        let stop = Stop::default();
        let mut admission = Admission::new(&stop);
        assert!(admission.admits(key(0), &chunk(0)));
        stop.request(Duration::from_secs(60));
        assert!(admission.admits(key(0), &chunk(1)));
        assert!(!admission.admits(key(1), &chunk(0)));
        assert!(!admission.admits(key(1), &chunk(1)), "its first chunk was refused");
        assert!(admission.admits(key(2), &Chunk::Window(oneshot::channel().0)));
        let stop = Stop::default();
        stop.request(Duration::ZERO);
        assert!(!Admission::new(&stop).admits(key(0), &chunk(1)), "the grace is over");
    }

    #[test]
    fn a_row_is_answered_when_its_last_chunk_is() {
        let key = |row_idx| RowKey { span_idx: 0, row_idx };
        let chunk = |idx| ChunkIndex { idx, n_chunks: 3 };
        let mut waiting = PendingChunks::default();
        assert!(waiting.take(key(0), chunk(2), generation("c")).is_none());
        assert!(waiting.take(key(0), chunk(0), generation("a")).is_none());
        assert!(waiting.take(key(1), chunk(1), generation("x")).is_none(), "another row");
        let whole = waiting.take(key(2), ChunkIndex::WHOLE, generation("whole")).unwrap();
        assert_eq!(whole[0].text, "whole");
        let chunks = waiting.take(key(0), chunk(1), generation("b")).unwrap();
        let texts: Vec<&str> = chunks.iter().map(|chunk| chunk.text.as_str()).collect();
        assert_eq!(texts, ["a", "b", "c"]);
    }
}
