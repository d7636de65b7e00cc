//! Splits the settled rows of an incomplete span into spans of their own when a run ends early.

use legenda_schemas::span::Fingerprint;

use super::{OutstandingSpan, open_spans::OpenSpan};
use crate::{
    output::ledger::slice,
    run::stage::{Retry, carry::RowsRead},
};

/// Returns the settled rows of a span as complete spans, one for each run of consecutive rows. A span
/// whose rejects are retried gives one piece.
pub(super) fn pieces(
    outstanding: &OutstandingSpan,
    open: &OpenSpan,
    fingerprint: &Fingerprint,
) -> Vec<(OutstandingSpan, OpenSpan)> {
    let is_settled = |row_idx: &usize| open.settled[*row_idx].is_some() && open.is_read[*row_idx];
    let settled: Vec<usize> = (0..open.rows.len()).filter(is_settled).collect();
    if let Some(retry) = &outstanding.retry {
        let rows = settled.iter().map(|row_idx| retry.rows[*row_idx]).collect();
        let retry = Some(Retry { rows, ..retry.clone() });
        let piece = (!settled.is_empty())
            .then(|| (OutstandingSpan { retry, ..outstanding.clone() }, open.piece(&settled)));
        return piece.into_iter().collect();
    }
    let runs = settled.chunk_by(|one, next| one + 1 == *next);
    runs.filter_map(|run| {
        let (first, last) = (open.rows[*run.first()?], open.rows[*run.last()?]);
        let span = slice(&outstanding.span, first, last + 1)?;
        let id = span.id(fingerprint);
        Some((OutstandingSpan { span, id, ..outstanding.clone() }, open.piece(run)))
    })
    .collect()
}

impl OpenSpan {
    /// Returns some rows of the span; their carried columns are read again.
    fn piece(&self, row_idxs: &[usize]) -> Self {
        let was_read = |row_idx: &usize| {
            self.rows_read
                .iter()
                .any(|rows| (rows.first..rows.first + rows.n_rows).contains(row_idx))
        };
        let rows_read = row_idxs.iter().enumerate().filter(|(_, row_idx)| was_read(row_idx));
        Self {
            rows: row_idxs.iter().map(|row_idx| self.rows[*row_idx]).collect(),
            settled: row_idxs.iter().map(|row_idx| self.settled[*row_idx].clone()).collect(),
            n_settled: row_idxs.len(),
            rows_read: rows_read
                .map(|(first, _)| RowsRead { first, n_rows: 1, carried: None })
                .collect(),
            is_read: vec![true; row_idxs.len()],
            trace: self.trace.clone(),
            permit: None,
        }
    }
}
