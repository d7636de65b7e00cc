//! Errors of using an output.

use legenda_schemas::ledger::LEDGER_VERSION;

use crate::base::store::{ReadError, WriteError};

/// An error of using an output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The folder cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The folder cannot be read.
    #[error(transparent)]
    Store(#[from] ReadError),
    /// A file of the ledger is damaged.
    #[error("failed to read `{path}` of the output's ledger")]
    Read {
        /// The file.
        path: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// There is no output.
    #[error("`{path}` is not the output of a run: found no ledger in or beside it")]
    NoOutput {
        /// The folder.
        path: String,
    },
    /// Another version of this program wrote the output.
    #[error(
        "`{path}` has ledger format version {version}, but this program supports {LEDGER_VERSION}"
    )]
    Version {
        /// The file.
        path: String,
        /// Its version.
        version: u32,
    },
    /// Another job wrote the output.
    #[error("`{path}` contains answers of a different job; differences: {differing}")]
    OtherJob {
        /// The output folder.
        path: String,
        /// The changed keys.
        differing: String,
    },
    /// The answers of another job have an incompatible schema.
    #[error(
        "`{path}` contains answers of a different job with a different schema; differences: {differing}"
    )]
    OtherShape {
        /// The output folder.
        path: String,
        /// The changed keys.
        differing: String,
    },
    /// The folder has files of another program.
    #[error("`{path}` has part files but no ledger in or beside it (`{path}.legenda`)")]
    Foreign {
        /// The output folder.
        path: String,
    },
    /// Another run is writing to the output.
    #[error("another run ({owner}) is writing to `{path}`")]
    Locked {
        /// The output folder.
        path: String,
        /// The owner of the lock.
        owner: String,
    },
}
