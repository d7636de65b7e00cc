//! The spans with rows in flight: outcomes arrive in any order, spans leave when they are whole. No files
//! and no clocks.

use std::{
    collections::{HashMap, hash_map::Entry},
    ops::Range,
    sync::Arc,
};

use tokio::sync::OwnedSemaphorePermit;

use crate::run::stage::{
    Carried, Reject, RowKey, Stage,
    answer::{Answer, Origin},
    carry::RowsRead,
};

/// The result of a row.
#[derive(Clone)]
pub(super) enum Settled {
    Answered { input_sha256: String, answer: Arc<Answer>, origin: Origin },
    Rejected(Reject),
}

impl Settled {
    pub(super) fn answer(&self) -> Option<&Answer> {
        self.shared_answer().map(Arc::as_ref)
    }

    /// Returns the answer if the model computed it for this row.
    pub(super) fn computed(&self) -> Option<&Answer> {
        match self {
            Self::Answered { answer, origin: Origin::Model, .. } => Some(answer),
            _ => None,
        }
    }

    /// Returns the result for a duplicate row.
    fn as_duplicate(&self) -> Self {
        match self.clone() {
            Self::Answered { input_sha256, answer, .. } => {
                Self::Answered { input_sha256, answer, origin: Origin::Duplicate }
            }
            rejected => rejected,
        }
    }

    /// Returns the answer, to be used for duplicates.
    pub(super) fn shared_answer(&self) -> Option<&Arc<Answer>> {
        match self {
            Self::Answered { answer, .. } => Some(answer),
            Self::Rejected(_) => None,
        }
    }

    pub(super) fn reject(&self) -> Option<&Reject> {
        match self {
            Self::Answered { .. } => None,
            Self::Rejected(reject) => Some(reject),
        }
    }
}

/// A span with rows in flight.
pub(super) struct OpenSpan {
    /// The rows to read, as positions within the row group.
    pub(super) rows: Vec<usize>,
    pub(super) settled: Vec<Option<Settled>>,
    pub(super) n_settled: usize,
    /// The rows that were read so far.
    pub(super) rows_read: Vec<RowsRead>,
    /// For each row, whether it was read or found unreadable.
    pub(super) is_read: Vec<bool>,
    /// The span's trace.
    pub(super) trace: tracing::Span,
    /// Limits the number of open spans: held until the span is committed. `None` for a piece of a span.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

impl OpenSpan {
    /// Returns whether every row is settled and its carried columns are known. A duplicate row can be settled
    /// before it is read.
    fn is_whole(&self) -> bool {
        self.n_settled == self.rows.len() && self.is_read.iter().all(|is_read| *is_read)
    }

    fn note_read(&mut self, rows: Range<usize>) {
        for is_read in self.is_read.get_mut(rows).into_iter().flatten() {
            *is_read = true;
        }
    }
}

/// The spans with rows in flight.
#[derive(Default)]
pub(super) struct OpenSpans {
    open: HashMap<usize, OpenSpan>,
    /// Duplicate rows that were settled before their span was opened.
    early: HashMap<usize, Vec<(RowKey, Settled)>>,
}

/// What an outcome changes.
#[derive(Default)]
pub(super) struct Changes {
    /// The results of the rows that it settles, each with the index of its span.
    pub(super) settled: Vec<(usize, Settled)>,
    /// The spans that it completes.
    pub(super) whole: Vec<usize>,
}

impl OpenSpans {
    /// Opens a span of `rows`, or opens it again if it is read from its start once more.
    pub(super) fn open(
        &mut self,
        span_idx: usize,
        rows: Vec<usize>,
        permit: OwnedSemaphorePermit,
        trace: impl FnOnce() -> tracing::Span,
    ) -> Changes {
        let n_rows = rows.len();
        match self.open.entry(span_idx) {
            // Settled rows stay settled: a duplicate row must not be settled twice.
            Entry::Occupied(mut span) => {
                let span = span.get_mut();
                span.rows_read.clear();
                span.is_read.fill(false);
                span.permit = Some(permit);
            }
            Entry::Vacant(entry) => {
                entry.insert(OpenSpan {
                    rows,
                    settled: std::iter::repeat_with(|| None).take(n_rows).collect(),
                    n_settled: 0,
                    rows_read: Vec::new(),
                    is_read: vec![false; n_rows],
                    trace: trace(),
                    permit: Some(permit),
                });
            }
        }
        let mut changes = Changes::default();
        for (key, settled) in self.early.remove(&span_idx).unwrap_or_default() {
            self.settle_row(key, settled, &mut changes);
        }
        if n_rows == 0 {
            changes.whole.push(span_idx);
        }
        changes
    }

    /// Notes that rows of an open span were read, and keeps their carried columns.
    pub(super) fn read(
        &mut self,
        first: RowKey,
        n_rows: usize,
        carried: Option<Carried>,
    ) -> Changes {
        let mut changes = Changes::default();
        let Some(span) = self.open.get_mut(&first.span_idx) else { return changes };
        let rows_read = &mut span.rows_read;
        // If some rows are read again, all are, so keeping others is useless.
        let is_kept = |rows: &RowsRead| rows.carried.is_some();
        let carried = carried.filter(|_| rows_read.iter().all(is_kept));
        if carried.is_none() {
            rows_read.iter_mut().for_each(|rows| rows.carried = None);
        }
        rows_read.push(RowsRead { first: first.row_idx, n_rows, carried });
        span.note_read(first.row_idx..first.row_idx + n_rows);
        changes.whole.extend(span.is_whole().then_some(first.span_idx));
        changes
    }

    /// Settles a row and its duplicates.
    pub(super) fn settle(
        &mut self,
        key: RowKey,
        settled: &Settled,
        duplicates: &[RowKey],
    ) -> Changes {
        let mut changes = Changes::default();
        for duplicate in duplicates {
            let settled = settled.as_duplicate();
            if self.open.contains_key(&duplicate.span_idx) {
                self.settle_row(*duplicate, settled, &mut changes);
            } else {
                self.early.entry(duplicate.span_idx).or_default().push((*duplicate, settled));
            }
        }
        self.settle_row(key, settled.clone(), &mut changes);
        changes
    }

    fn settle_row(&mut self, key: RowKey, settled: Settled, changes: &mut Changes) {
        let RowKey { span_idx, row_idx } = key;
        let Some(span) = self.open.get_mut(&span_idx) else { return };
        if settled.reject().is_some_and(|reject| reject.stage == Stage::Scan) {
            span.note_read(row_idx..row_idx + 1);
        }
        let Some(slot) = span.settled.get_mut(row_idx) else { return };
        // If several chunks of a row fail, the first one settles it.
        if slot.is_none() {
            *slot = Some(settled.clone());
            span.n_settled += 1;
            changes.settled.push((span_idx, settled));
        }
        changes.whole.extend(span.is_whole().then_some(span_idx));
    }

    /// Removes a whole span.
    pub(super) fn close(&mut self, span_idx: usize) -> Option<OpenSpan> {
        self.open.remove(&span_idx)
    }

    /// Returns the spans that are not whole, by their indices.
    pub(super) fn into_unfinished(self) -> Vec<(usize, OpenSpan)> {
        let mut open: Vec<(usize, OpenSpan)> = self.open.into_iter().collect();
        open.sort_unstable_by_key(|(span_idx, _)| *span_idx);
        open
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    use super::{Changes, OpenSpans, Settled};
    use crate::run::stage::{Reject, RowKey, Stage};

    #[derive(Clone, Debug)]
    enum Event {
        Open(usize),
        Read { span_idx: usize, first: usize, n_rows: usize },
        Settle { key: RowKey, duplicates: Vec<RowKey> },
    }

    /// Spans by their numbers of rows, and the events of a run over them: reads of whole spans, and each row
    /// settled once by its own outcome or as the duplicate of an earlier row, in any order that stages allow.
    fn runs() -> impl Strategy<Value = (Vec<usize>, Vec<Event>)> {
        prop::collection::vec(0_usize..6, 1..5).prop_flat_map(|sizes| {
            let keys: Vec<RowKey> = sizes
                .iter()
                .enumerate()
                .flat_map(|(span_idx, n)| (0..*n).map(move |row_idx| RowKey { span_idx, row_idx }))
                .collect();
            let n_keys = keys.len();
            let of_rows = prop::collection::vec((any::<bool>(), any::<u8>()), n_keys);
            let splits = prop::collection::vec(1_usize..4, sizes.len());
            let order = prop::collection::vec(any::<u32>(), sizes.len() * 7 + n_keys);
            (Just(sizes), of_rows, splits, order).prop_map(
                move |(sizes, of_rows, splits, order)| {
                    let mut duplicates = vec![Vec::new(); n_keys];
                    let mut is_duplicate = vec![false; n_keys];
                    for (idx, (wants, of)) in of_rows.iter().enumerate().skip(1) {
                        let original = usize::from(*of) % idx;
                        if *wants && !is_duplicate[original] {
                            is_duplicate[idx] = true;
                            duplicates[original].push(keys[idx]);
                        }
                    }
                    let mut events = Vec::new();
                    for (span_idx, n_rows) in sizes.iter().enumerate() {
                        events.push(Event::Open(span_idx));
                        for first in (0..*n_rows).step_by(splits[span_idx]) {
                            let n_rows = splits[span_idx].min(n_rows - first);
                            events.push(Event::Read { span_idx, first, n_rows });
                        }
                    }
                    for (idx, key) in keys.iter().enumerate() {
                        if !is_duplicate[idx] {
                            let duplicates = duplicates[idx].clone();
                            events.push(Event::Settle { key: *key, duplicates });
                        }
                    }
                    // Any order in which a span is opened before its own events.
                    let mut keyed: Vec<(u32, Event)> = order.into_iter().zip(events).collect();
                    keyed.sort_by_key(|(at, _)| *at);
                    let events: Vec<Event> = keyed.into_iter().map(|(_, event)| event).collect();
                    let (opens, others): (Vec<_>, Vec<_>) =
                        events.into_iter().partition(|event| matches!(event, Event::Open(_)));
                    let mut ordered: Vec<Event> = Vec::new();
                    let mut opened = BTreeSet::new();
                    for event in others {
                        let span_idx = match &event {
                            Event::Open(span_idx) | Event::Read { span_idx, .. } => *span_idx,
                            Event::Settle { key, .. } => key.span_idx,
                        };
                        if opened.insert(span_idx) {
                            ordered.push(Event::Open(span_idx));
                        }
                        ordered.push(event);
                    }
                    for open in opens {
                        if matches!(open, Event::Open(span_idx) if opened.insert(span_idx)) {
                            ordered.push(open);
                        }
                    }
                    (sizes, ordered)
                },
            )
        })
    }

    proptest! {
        #[test]
        fn every_span_is_whole_once_and_every_row_is_settled_once((sizes, events) in runs()) {
            let free = Arc::new(Semaphore::new(sizes.len()));
            let mut spans = OpenSpans::default();
            let mut settled = vec![0; sizes.len()];
            let mut whole = BTreeSet::new();
            for event in events {
                let changes: Changes = match event {
                    Event::Open(span_idx) => {
                        let permit = Arc::clone(&free).try_acquire_owned().unwrap();
                        spans.open(span_idx, (0..sizes[span_idx]).collect(), permit, tracing::Span::none)
                    }
                    Event::Read { span_idx, first, n_rows } => {
                        spans.read(RowKey { span_idx, row_idx: first }, n_rows, None)
                    }
                    Event::Settle { key, duplicates } => {
                        let stage = Stage::Prepare;
                        let reject = Reject { stage, code: "test", message: String::new() };
                        spans.settle(key, &Settled::Rejected(reject), &duplicates)
                    }
                };
                for (span_idx, _) in changes.settled {
                    settled[span_idx] += 1;
                    prop_assert!(!whole.contains(&span_idx));
                }
                for span_idx in changes.whole {
                    prop_assert!(whole.insert(span_idx), "span {} was whole twice", span_idx);
                    let span = spans.close(span_idx).unwrap();
                    prop_assert_eq!(span.n_settled, sizes[span_idx]);
                    prop_assert!(span.settled.iter().all(Option::is_some));
                    prop_assert!(span.is_read.iter().all(|is_read| *is_read));
                }
            }
            prop_assert_eq!(&settled, &sizes);
            prop_assert_eq!(whole.len(), sizes.len());
            prop_assert!(spans.into_unfinished().is_empty());
            prop_assert_eq!(free.available_permits(), sizes.len());
        }
    }
}
