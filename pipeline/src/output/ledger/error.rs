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
    #[error(
        "failed to read `{path}` of the output's ledger: {problem}; restore the file, or start over with `--overwrite`"
    )]
    Read {
        /// The file.
        path: String,
        /// The cause.
        problem: String,
    },
    /// There is no output.
    #[error("`{path}` is not the output of a run: found no ledger in or beside it")]
    NoOutput {
        /// The folder.
        path: String,
    },
    /// Another version of this program wrote the output.
    #[error(
        "`{path}` has ledger format version {version}, but this program supports {LEDGER_VERSION}: use the program that wrote it, or start over with `--overwrite`"
    )]
    Version {
        /// The file.
        path: String,
        /// Its version.
        version: u32,
    },
    /// Another job wrote the output.
    #[error(
        "`{path}` contains answers of a different job; differences: {differing}; choose another `output.path`, replace them with `--overwrite`, or see `--stale`"
    )]
    OtherJob {
        /// The output folder.
        path: String,
        /// The changed keys.
        differing: String,
    },
    /// The answers of another job have an incompatible schema.
    #[error(
        "`{path}` contains answers of a different job with a different schema; differences: {differing}; choose another `output.path`, or recompute them with `--stale redo`"
    )]
    OtherShape {
        /// The output folder.
        path: String,
        /// The changed keys.
        differing: String,
    },
    /// The folder has files of another program.
    #[error(
        "`{path}` has part files but no ledger in or beside it (`{path}.legenda`): move the ledger there, or choose another `output.path`"
    )]
    Foreign {
        /// The output folder.
        path: String,
    },
    /// Another run is writing to the output.
    #[error(
        "another run ({owner}) is writing to `{path}`: wait for it, or choose another `output.path`"
    )]
    Locked {
        /// The output folder.
        path: String,
        /// The owner of the lock.
        owner: String,
    },
}
