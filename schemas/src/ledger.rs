//! The on-disk records under `_legenda/` of an output, which stands for the folder beside it: the plan of
//! spans and what is committed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    job::Job,
    span::{Fingerprint, Span, SpanId},
};

/// The version of the formats in this module; a reader refuses others.
pub const LEDGER_VERSION: u32 = 2;

/// What a run set out to do (`_legenda/plan.json`), fixed at its start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`LEDGER_VERSION`] of the writer.
    pub version: u32,
    /// The job's fingerprint.
    pub fingerprint: Fingerprint,
    /// What the fingerprint was taken of, key by key, so that a refusal can name what differs.
    pub identity: BTreeMap<String, serde_json::Value>,
    /// The spans: those of files that earlier runs have done, then the others in the order of the input.
    pub spans: Vec<Span>,
    /// Committed spans that stay though they are none of these: their input has changed or gone, or
    /// another job has answered them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptSpan>,
    /// The columns that the files of the source were found to have, for the next run; the pipeline's.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub columns: serde_json::Value,
}

/// A committed span that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSpan {
    /// Its name.
    pub id: SpanId,
    /// The span.
    pub span: Span,
}

impl Plan {
    /// Returns whether `entry` was made by the job of this plan, of whatever input.
    #[must_use]
    pub fn made(&self, entry: &LedgerEntry) -> bool {
        entry.span.id(&self.fingerprint) == entry.id
    }
}

/// The job of a run (`_legenda/job.json`), so that what it could not do can be tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredJob {
    /// [`LEDGER_VERSION`] of the writer.
    pub version: u32,
    /// The folder that relative paths of the job are resolved against.
    pub base_dir: String,
    /// The job, with what was given in the place of its values.
    pub job: Job,
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
    /// The files of its answers: none when every row was rejected, and another for each retry that
    /// answered some of its rejects.
    pub parts: Vec<CommittedFile>,
    /// The file of its rejects, unless there are none.
    pub rejects_file: Option<CommittedFile>,
    /// How often its rejects were tried again.
    #[serde(default)]
    pub retries: u32,
    /// While a part is written again, with rejects in it that are answered now: the entry as it was
    /// before, which counts until the part is the one that this entry names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<LedgerEntry>>,
}

/// A file of a committed span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedFile {
    /// Where it lies in the output: `part-….parquet`, or among the rejects beside it:
    /// `rejects/rejects-….parquet`.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// SHA-256 of its bytes, hex.
    pub sha256: String,
    /// The file of `_legenda/schemas/` with its Arrow schema, where its format has none itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
}

impl LedgerEntry {
    /// Returns the number of rejected rows.
    #[must_use]
    pub fn n_rejects(&self) -> u64 {
        self.rejects.values().sum()
    }

    /// Returns the files of the span, those of its answers first.
    pub fn files(&self) -> impl Iterator<Item = &CommittedFile> {
        self.parts.iter().chain(&self.rejects_file)
    }

    /// Returns whether every input row is accounted for.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.rows_in == self.answers + self.n_rejects()
    }
}
