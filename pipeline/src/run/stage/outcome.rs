//! What passes from the stages to `collect`: how rows end.

use std::sync::Arc;

use arrow::array::RecordBatch;
use legenda_schemas::cause::chain;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    answer::{Answer, Origin},
    message::RowKey,
};
use crate::base::{budget::Reservation, guard::GuardError};

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
    pub(super) fn rejected(
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

    pub(super) fn rejects(&self, key: RowKey, stage: Stage) -> Outcome {
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
