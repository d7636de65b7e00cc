//! The on-disk records of an output, under `_legenda/`: the manifest with the planned spans, and the ledger
//! of committed spans. `_legenda/` stands for the folder next to the output, `OUT.legenda`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    job::Job,
    span::{Fingerprint, Span, SpanId},
};

/// The version of the formats in this module; readers reject other versions.
pub const LEDGER_VERSION: u32 = 2;

/// The manifest of a run (`_legenda/plan.json`), written at its start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The [`LEDGER_VERSION`] of the writer.
    pub version: u32,
    /// The fingerprint of the job.
    pub fingerprint: Fingerprint,
    /// The inputs of the fingerprint by key, so that an error can name the differences.
    pub identity: BTreeMap<String, serde_json::Value>,
    /// The spans: first those of files that earlier runs processed, then the others in input order.
    pub spans: Vec<Span>,
    /// Committed spans that are kept although they are not in `spans`: their input changed or was deleted,
    /// or another job answered them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptSpan>,
    /// The columns found in the source files, for the next run. The format is private to the pipeline.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub columns: serde_json::Value,
}

/// A committed span that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSpan {
    /// The name of the span.
    pub id: SpanId,
    /// The span.
    pub span: Span,
}

impl Manifest {
    /// Returns whether the job of this manifest wrote `entry`, for any input.
    #[must_use]
    pub fn made(&self, entry: &LedgerEntry) -> bool {
        entry.span.id(&self.fingerprint) == entry.id
    }
}

/// The job of a run (`_legenda/job.json`), used to retry its rejects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredJob {
    /// The [`LEDGER_VERSION`] of the writer.
    pub version: u32,
    /// The folder for resolving relative paths of the job.
    pub base_dir: String,
    /// The job, with overrides applied.
    pub job: Job,
}

/// A committed span (`_legenda/ledger/<span>.json`), written after its part. Authoritative on resume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The [`LEDGER_VERSION`] of the writer.
    pub version: u32,
    /// The name of the span.
    pub id: SpanId,
    /// The span.
    pub span: Span,
    /// The number of input rows.
    pub rows_in: u64,
    /// The number of answered rows.
    pub answers: u64,
    /// The number of rejected rows by code.
    pub rejects: BTreeMap<String, u64>,
    /// The number of generated tokens.
    pub tokens_generated: u64,
    /// The part files: none if every row was rejected, and one more for each retry that answered rejects.
    pub parts: Vec<CommittedFile>,
    /// The file with the rejects, if there are any.
    pub rejects_file: Option<CommittedFile>,
    /// The number of retries of its rejects.
    #[serde(default)]
    pub retries: u32,
    /// The previous entry while a retry rewrites a part with inline rejects. It is valid until the part is
    /// the one that this entry names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<LedgerEntry>>,
}

/// A file of a committed span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedFile {
    /// The path in the output, `part-….parquet`, or in the folder next to it,
    /// `rejects/rejects-….parquet`.
    pub name: String,
    /// The number of rows.
    pub rows: u64,
    /// The SHA-256 of the file in hex.
    pub sha256: String,
    /// The file in `_legenda/schemas/` with the Arrow schema, if the format does not store one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
}

impl LedgerEntry {
    /// Returns the number of rejected rows.
    #[must_use]
    pub fn n_rejects(&self) -> u64 {
        self.rejects.values().sum()
    }

    /// Returns the files of the span, parts first.
    pub fn files(&self) -> impl Iterator<Item = &CommittedFile> {
        self.parts.iter().chain(&self.rejects_file)
    }

    /// Returns whether every input row is answered or rejected.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.rows_in == self.answers + self.n_rejects()
    }
}
