//! Errors of an export.

use legenda_schemas::cause::Cause;

use crate::{base::store::ReadError, output::ledger::LedgerError};

/// An error of exporting an output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// There is no output, or its ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A file of the output cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file of the output is damaged or missing.
    #[error("failed to read `{path}`")]
    Damaged {
        /// The file.
        path: String,
        /// The cause.
        source: Cause,
    },
    /// No row has an answer.
    #[error("`{path}` has no answers")]
    NoAnswers {
        /// The output.
        path: String,
    },
    /// A chosen column does not exist.
    #[error("column `{column}` does not exist{suggestion}; available columns: {available}")]
    Column {
        /// The column.
        column: String,
        /// A suggestion, or an empty text.
        suggestion: String,
        /// The existing columns.
        available: String,
    },
    /// A part has a column that earlier parts do not have.
    #[error("`{path}` has the column `{column}`, which earlier parts of the output do not have")]
    Differs {
        /// The part.
        path: String,
        /// The column.
        column: String,
    },
    /// The file exists.
    #[error("`{path}` already exists")]
    Exists {
        /// The file.
        path: String,
    },
    /// The file would be among the parts of the output.
    #[error("`{path}` is inside the output")]
    Inside {
        /// The file.
        path: String,
    },
    /// The file cannot be written.
    #[error("failed to write `{path}`")]
    Write {
        /// The file.
        path: String,
        /// The cause.
        source: Cause,
    },
}

impl ExportError {
    /// Returns whether the command or the output must change before it can succeed.
    #[must_use]
    pub fn is_config(&self) -> bool {
        matches!(
            self,
            Self::NoAnswers { .. }
                | Self::Column { .. }
                | Self::Differs { .. }
                | Self::Exists { .. }
                | Self::Inside { .. }
        )
    }
}
