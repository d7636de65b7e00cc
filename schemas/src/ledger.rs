//! The on-disk records under `_legenda/` of an output: the plan of spans and what is committed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::span::{Fingerprint, Span, SpanId};

/// The version of the formats in this module; a reader refuses others.
pub const LEDGER_VERSION: u32 = 1;

/// What a run set out to do (`_legenda/plan.json`), fixed at its start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`LEDGER_VERSION`] of the writer.
    pub version: u32,
    /// The job's fingerprint.
    pub fingerprint: Fingerprint,
    /// What the fingerprint was taken of, key by key, so that a refusal can name what differs.
    pub identity: BTreeMap<String, serde_json::Value>,
    /// The spans, in the order of the input.
    pub spans: Vec<Span>,
}

impl Plan {
    /// Returns the rows of all spans.
    #[must_use]
    pub fn n_rows(&self) -> u64 {
        self.spans.iter().map(|span| span.n_rows as u64).sum()
    }
}

/// One committed span (`_legenda/ledger/<span>.json`), written after its part: the truth on resume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// [`LEDGER_VERSION`] of the writer.
    pub version: u32,
    /// The span's name.
    pub id: SpanId,
    /// The span.
    pub span: Span,
    /// Rows of the input.
    pub rows_in: u64,
    /// Rows answered.
    pub answers: u64,
    /// Rows rejected, by code.
    pub rejects: BTreeMap<String, u64>,
    /// Tokens generated for the answers.
    pub tokens_generated: u64,
    /// SHA-256 of the part, hex; none when the span has no part because every row was rejected.
    pub part_sha256: Option<String>,
    /// SHA-256 of the span's file under `rejects/`, hex; none when there is none.
    pub rejects_sha256: Option<String>,
}

impl LedgerEntry {
    /// Returns the number of rejected rows.
    #[must_use]
    pub fn n_rejects(&self) -> u64 {
        self.rejects.values().sum()
    }

    /// Returns whether every input row is accounted for.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.rows_in == self.answers + self.n_rejects()
    }
}
