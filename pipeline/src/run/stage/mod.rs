//! The stages of a run and the messages between them.
//!
//! ```text
//! scan ──ScannedBatch──► prepare ──PreparedRow──► encode ──EncodedRow──► generate
//!   │                       │                       │                      │
//!   └───────────────────────┴── Outcome ────────────┴──────────────────────┴──► collect
//! ```
//!
//! For embedding models, `embed` replaces `encode` and `generate`.
//!
//! A row leaves the path as an [`Outcome`] at the stage that settles it with an answer or a reject.

mod admission;
pub(crate) mod answer;
mod carry;
pub(crate) mod chunks;
pub(crate) mod collect;
mod decode;
pub(crate) mod embed;
pub(crate) mod encode;
pub(crate) mod generate;
pub(crate) mod prepare;
pub(crate) mod prompt;
mod reread;
pub(crate) mod scan;
pub(crate) mod sequential;

use std::{fmt, sync::Arc};

use arrow::array::RecordBatch;
use legenda_models::{Prompt, Sample};
use legenda_schemas::{
    cause::chain,
    flag::Flags,
    ledger::LedgerEntry,
    span::{Span, SpanId},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use answer::{Answer, Origin};
use chunks::Chunk;

use crate::{
    base::{budget::Reservation, guard::GuardError},
    run::{plan::RunPlan, retry::Rejects},
};

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

/// The row `row_idx` of the outstanding span `span_idx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RowKey {
    /// The index of the outstanding span.
    pub span_idx: usize,
    /// The index among the rows of the span that are read.
    pub row_idx: usize,
}

/// A batch of rows as read from the table: the output of `scan`.
pub(crate) struct ScannedBatch {
    /// The key of the first row; the others follow.
    pub first: RowKey,
    /// The row number of each row within its file.
    pub file_rows: Vec<u64>,
    /// The file that contains the rows.
    pub file: Arc<str>,
    /// The columns that were read.
    pub rows: RecordBatch,
}

/// A row, or a chunk of one, with decoded and preprocessed media: the output of `prepare`.
pub(crate) struct PreparedRow {
    /// The row.
    pub key: RowKey,
    /// The chunk of the row.
    pub chunk: Chunk,
    /// The input digest and the random seed.
    pub identity: RowIdentity,
    /// The model's input.
    pub sample: Sample,
}

/// The input digest and the random seed of a row.
#[derive(Clone, Debug)]
pub(crate) struct RowIdentity {
    /// SHA-256 of prompt and media, hex.
    pub input_sha256: String,
    /// The seed for sampling.
    pub seed: u64,
    /// The flags of the input, set while its media are decoded.
    pub flags: Flags,
}

/// A row, or a chunk of one, with encoded media: the output of `encode`.
pub(crate) struct EncodedRow {
    /// The row.
    pub key: RowKey,
    /// The chunk of the row.
    pub chunk: Chunk,
    /// The input digest and the random seed.
    pub identity: RowIdentity,
    /// The prompt to prefill the decoder with.
    pub prompt: Prompt,
}

/// The result of a row, or an event that `collect` needs to track its span.
pub(crate) enum Outcome {
    /// `scan` starts a span.
    Opened {
        /// The index of the outstanding span.
        span_idx: usize,
        /// The rows to read, as positions within the row group.
        rows: Vec<usize>,
        /// Released when the span is committed.
        permit: OwnedSemaphorePermit,
    },
    /// Some rows of a span were read.
    Read {
        /// The key of the first row.
        first: RowKey,
        /// The number of rows.
        n_rows: usize,
        /// The carried columns, if there was memory to keep them.
        carried: Option<Carried>,
    },
    /// The row was answered.
    Answered {
        /// The row.
        key: RowKey,
        /// SHA-256 of prompt and media, hex.
        input_sha256: String,
        /// The answer.
        answer: Arc<Answer>,
        /// The source of the answer.
        origin: Origin,
    },
    /// The row was rejected.
    Rejected {
        /// The row.
        key: RowKey,
        /// The reason.
        reject: Reject,
    },
}

impl Outcome {
    /// Returns the outcome of a row that a stage rejects because of `error`.
    fn rejected(
        key: RowKey,
        stage: Stage,
        code: &'static str,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        Self::Rejected { key, reject: Reject { stage, code, message: chain(error) } }
    }
}

/// Columns that are carried from the table to the answers.
pub(crate) struct Carried {
    /// The carried columns of some rows.
    pub rows: RecordBatch,
    /// The memory they use.
    #[expect(dead_code, reason = "dropping it releases the memory")]
    pub(crate) reservation: Reservation,
}

/// The channel to `collect`.
pub(crate) type Outcomes = mpsc::Sender<Outcome>;

/// The capacity of the channel to `collect`, which only waits for the disk, so a small one is enough.
pub(crate) const OUTCOMES_MAX: usize = 1024;

/// A stage that rejects rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Reading the table.
    Scan,
    /// Decoding and processing.
    Prepare,
    /// The encoders.
    Encode,
    /// The decoder.
    Generate,
    /// The embedding model.
    Embed,
}

impl Stage {
    /// Returns the name used in rejects.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Prepare => "prepare",
            Self::Encode => "encode",
            Self::Generate => "generate",
            Self::Embed => "embed",
        }
    }
}

/// A panic of the model or its runtime on one row.
#[derive(Debug, thiserror::Error)]
#[error("the model panicked on this row: {problem}")]
pub(crate) struct ModelPanic {
    /// The panic message.
    pub problem: String,
}

impl ModelPanic {
    /// The reject code.
    pub(crate) const CODE: &'static str = "model_panicked";

    fn rejects(&self, key: RowKey, stage: Stage) -> Outcome {
        Outcome::rejected(key, stage, Self::CODE, self)
    }
}

impl From<GuardError> for ModelPanic {
    fn from(error: GuardError) -> Self {
        let problem = match error {
            GuardError::Panic { problem } => problem,
            other => chain(&other),
        };
        Self { problem }
    }
}

/// The reason a row is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reject {
    /// The stage that rejected the row.
    pub stage: Stage,
    /// The reject code, one of a small, stable set.
    pub code: &'static str,
    /// The cause and the remedy.
    pub message: String,
}

impl ScannedBatch {
    /// Returns the key of the row at `offset`.
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
