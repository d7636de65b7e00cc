//! The spans that a run still has to process.

use legenda_schemas::{
    ledger::LedgerEntry,
    span::{Span, SpanId},
};

use crate::run::{plan::RunPlan, retry::Rejects};

/// A span that still has to be processed.
#[derive(Clone, Debug)]
pub(crate) struct OutstandingSpan {
    /// The span.
    pub span: Span,
    /// Its id.
    pub id: SpanId,
    /// The index of its source file, so that part names sort in input order.
    pub file_number: usize,
    /// Set if the span is committed and only its rejects are retried.
    pub retry: Option<Retry>,
}

/// The rejects of a committed span that are retried.
#[derive(Clone, Debug)]
pub(crate) struct Retry {
    /// The span's current entry.
    pub earlier: LedgerEntry,
    /// The rejects of the span.
    pub rejects: Rejects,
    /// The rows to retry, as ascending positions within the row group.
    pub rows: Vec<usize>,
}

impl OutstandingSpan {
    /// Returns the rows to read, as ascending positions within the row group.
    #[must_use]
    pub(crate) fn rows(&self, plan: &RunPlan) -> Vec<usize> {
        self.retry.as_ref().map_or_else(|| plan.rows_of(&self.span), |retry| retry.rows.clone())
    }
}
