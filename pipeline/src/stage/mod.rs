//! The stages of a run and what passes between them.
//!
//! ```text
//! scan ──ScannedBatch──► prepare ──PreparedRow──► encode ──EncodedRow──► generate
//!   │                       │                       │                      │
//!   └───────────────────────┴── Outcome ────────────┴──────────────────────┴──► collect
//! ```
//!
//! Where embeddings are made, `embed` stands in the place of `encode` and `generate`.
//!
//! A row leaves the path as an [`Outcome`] at the stage that settles it: an answer, or a reject.

mod again;
pub mod answer;
pub(crate) mod ask;
mod carry;
pub mod collect;
mod decode;
pub mod embed;
pub mod encode;
pub mod generate;
pub mod hearing;
pub mod parts;
pub mod prepare;
pub mod scan;

use std::{fmt, sync::Arc};

use arrow::array::RecordBatch;
use legenda_models::{Prompt, Sample};
use legenda_schemas::{
    flag::Flags,
    ledger::LedgerEntry,
    span::{Span, SpanId},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use answer::{Answer, Origin};
use parts::Part;

use crate::{budget::Reservation, guard::GuardError, plan::RunPlan, retry::Rejects};

/// A span that is still to be done.
#[derive(Clone, Debug)]
pub struct OutstandingSpan {
    /// The span.
    pub span: Span,
    /// Its name.
    pub id: SpanId,
    /// Which file of the source it is of, so that the names of parts are in input order.
    pub file_number: usize,
    /// Where it is done but for its rejects, which are tried again.
    pub retry: Option<Retry>,
}

/// The rejects of a committed span that are tried again.
#[derive(Clone, Debug)]
pub struct Retry {
    /// The span's entry so far.
    pub earlier: LedgerEntry,
    /// The rejects of the span.
    pub rejects: Rejects,
    /// The rows that are tried again, as positions within the row group, ascending.
    pub rows: Vec<usize>,
}

impl OutstandingSpan {
    /// Returns the rows that are to be read, as positions within the row group, ascending.
    #[must_use]
    pub fn rows(&self, plan: &RunPlan) -> Vec<usize> {
        self.retry.as_ref().map_or_else(|| plan.rows_of(&self.span), |retry| retry.rows.clone())
    }
}

/// Where a row stands: the row `row_idx` of the outstanding span `span_idx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowKey {
    /// Which outstanding span.
    pub span_idx: usize,
    /// Which of the span's rows that are read.
    pub row_idx: usize,
}

/// Rows as they were read: what leaves `scan`.
pub struct ScannedBatch {
    /// Where the first row stands; the others follow.
    pub first: RowKey,
    /// Which row of its file each row is.
    pub file_rows: Vec<u64>,
    /// The file they came from.
    pub file: Arc<str>,
    /// The columns that are read.
    pub rows: RecordBatch,
}

/// A row, or a part of one, whose media are decoded and processed: what leaves `prepare`.
pub struct PreparedRow {
    /// Where it stands.
    pub key: RowKey,
    /// Which part of the row it is.
    pub part: Part,
    /// What tells this row's input and its random stream.
    pub identity: RowIdentity,
    /// The model's input.
    pub sample: Sample,
}

/// The input of a row and its random stream.
#[derive(Clone, Debug)]
pub struct RowIdentity {
    /// SHA-256 of prompt and media, hex.
    pub input_sha256: String,
    /// The seed of its draws.
    pub seed: u64,
    /// The flags of the input, known once its media are decoded.
    pub flags: Flags,
}

/// A row, or a part of one, whose media are encoded: what leaves `encode`.
pub struct EncodedRow {
    /// Where it stands.
    pub key: RowKey,
    /// Which part of the row it is.
    pub part: Part,
    /// What tells this row's input and its random stream.
    pub identity: RowIdentity,
    /// What the decoder is prefilled with.
    pub prompt: Prompt,
}

/// What became of a row, or what `collect` must know of its span.
pub enum Outcome {
    /// `scan` begins a span.
    Opened {
        /// Which outstanding span.
        span_idx: usize,
        /// The rows that are read, as positions within the row group.
        rows: Vec<usize>,
        /// Given back when the span is committed.
        permit: OwnedSemaphorePermit,
    },
    /// Some rows of a span were read.
    Read {
        /// Where the first row stands.
        first: RowKey,
        /// How many they are.
        n_rows: usize,
        /// The columns to carry, where there is memory to keep them.
        carried: Option<Carried>,
    },
    /// A row has its answer.
    Answered {
        /// Where it stands.
        key: RowKey,
        /// SHA-256 of prompt and media, hex.
        input_sha256: String,
        /// The answer.
        answer: Arc<Answer>,
        /// Who has computed it.
        origin: Origin,
    },
    /// A row cannot be answered.
    Rejected {
        /// Where it stands.
        key: RowKey,
        /// Why.
        reject: Reject,
    },
}

impl Outcome {
    /// Makes the outcome of a row that a stage cannot answer because of `error`.
    fn rejected(
        key: RowKey,
        stage: Stage,
        code: &'static str,
        error: &dyn std::error::Error,
    ) -> Self {
        Self::Rejected { key, reject: Reject { stage, code, message: error.to_string() } }
    }
}

/// Columns that are carried from the table to the answers.
pub struct Carried {
    /// The columns of some rows.
    pub rows: RecordBatch,
    /// Their memory.
    pub reservation: Reservation,
}

/// The way of outcomes to `collect`.
pub type Outcomes = mpsc::Sender<Outcome>;

/// Outcomes that may wait; `collect` only waits for the disk, so few are enough.
pub const OUTCOMES_MAX: usize = 1024;

/// A stage that rejects rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading the table.
    Scan,
    /// Decoding and processing.
    Prepare,
    /// The encoders.
    Encode,
    /// The decoder.
    Generate,
    /// The model, where it makes embeddings.
    Embed,
}

impl Stage {
    /// Returns the name used in rejects.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Prepare => "prepare",
            Self::Encode => "encode",
            Self::Generate => "generate",
            Self::Embed => "embed",
        }
    }
}

/// A panic inside the model, or what runs it, on one row.
#[derive(Debug, thiserror::Error)]
#[error("the model panicked on this row: {problem}")]
pub struct ModelPanic {
    /// The message of the panic.
    pub problem: String,
}

impl ModelPanic {
    /// The reject code.
    pub const CODE: &'static str = "model_panicked";

    fn rejects(&self, key: RowKey, stage: Stage) -> Outcome {
        Outcome::rejected(key, stage, Self::CODE, self)
    }
}

impl From<GuardError> for ModelPanic {
    fn from(error: GuardError) -> Self {
        let problem = match error {
            GuardError::Panic { problem } => problem,
            other => other.to_string(),
        };
        Self { problem }
    }
}

/// Why a row is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Where it happened.
    pub stage: Stage,
    /// One of a small, stable set.
    pub code: &'static str,
    /// What is wrong and what would mend it.
    pub message: String,
}

impl ScannedBatch {
    /// Returns where the row at `offset` stands.
    fn key(&self, offset: usize) -> RowKey {
        RowKey { row_idx: self.first.row_idx + offset, ..self.first }
    }
}

impl fmt::Debug for ScannedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScannedBatch({:?}, {} rows)", self.first, self.rows.num_rows())
    }
}

impl fmt::Debug for PreparedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreparedRow({:?}, {} bytes)", self.key, self.sample.size_bytes())
    }
}

impl fmt::Debug for EncodedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedRow({:?}, {} tokens)", self.key, self.prompt.n_tokens())
    }
}
