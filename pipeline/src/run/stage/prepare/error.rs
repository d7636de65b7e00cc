//! The errors that reject a row before it reaches the model.

use legenda_models::ProcessError;
use legenda_schemas::cause::Cause;

use crate::{
    input::media::{MediaError, locate::LocateError},
    run::stage::{Outcome, RowKey, Stage, prompt::PromptError},
};

/// An error that rejects a row.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("column `{column}`")]
    Media { column: String, source: MediaError },
    #[error("column `{column}`")]
    Locate { column: String, source: LocateError },
    #[error(transparent)]
    Prompt(#[from] PromptError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("column `{column}` is null, but the task `{task}` requires it")]
    Missing { column: String, task: &'static str },
    #[error("the row has no text, image or audio input")]
    Nothing,
    #[error(
        "the texts of the row need {bytes} bytes of memory, but `limits.memory` leaves {bytes_max}: raise it"
    )]
    TextExceedsMemory { bytes: u64, bytes_max: u64 },
    #[error("failed to prepare the row")]
    Panic { source: Cause },
}

impl PrepareError {
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Media { source, .. } => source.code(),
            Self::Locate { source, .. } => source.code(),
            Self::Prompt(error) => error.code(),
            Self::Process(error) => error.code(),
            Self::Missing { .. } => "media_missing",
            Self::Nothing => "row_empty",
            Self::TextExceedsMemory { .. } => "text_exceeds_memory",
            Self::Panic { .. } => "decoder_panicked",
        }
    }
}

/// Returns the error of a medium in a column.
pub(super) fn media_error(column: &Option<String>, source: MediaError) -> PrepareError {
    PrepareError::Media { column: column.clone().unwrap_or_default(), source }
}

/// Returns the outcome of a row that an error rejects.
pub(super) fn rejected(key: RowKey, error: &PrepareError) -> Outcome {
    Outcome::rejected(key, Stage::Prepare, error.code(), error)
}
