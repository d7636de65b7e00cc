//! Why an output cannot be used.

use legenda_schemas::ledger::LEDGER_VERSION;

use crate::store::{ReadError, WriteError};

/// Why an output cannot be used.
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
        "cannot read `{path}` of the output's ledger: {problem}; restore it, or start anew with `--overwrite`"
    )]
    Read {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// There is no output.
    #[error("`{path}` is not the output of a run: it has no ledger, in it or beside it")]
    NoOutput {
        /// The folder.
        path: String,
    },
    /// Another version of this program wrote there.
    #[error(
        "`{path}` has version {version} of the ledger's format, this program reads {LEDGER_VERSION}: use the program that wrote it, or start anew with `--overwrite`"
    )]
    Version {
        /// The file.
        path: String,
        /// Its version.
        version: u32,
    },
    /// Another job wrote there.
    #[error(
        "`{path}` holds the answers of another job; what differs: {differing}; choose another `output.path`, replace them with `--overwrite`, or see `--stale`"
    )]
    OtherJob {
        /// The output folder.
        path: String,
        /// The keys.
        differing: String,
    },
    /// Answers of another job cannot stay beside those of this one.
    #[error(
        "`{path}` holds the answers of another job, of another shape; what differs: {differing}; choose another `output.path`, or do them again with `--stale redo`"
    )]
    OtherShape {
        /// The output folder.
        path: String,
        /// The keys.
        differing: String,
    },
    /// A folder with files that are not ours.
    #[error(
        "`{path}` has part files but no ledger, in it or beside it (`{path}.legenda`): move the ledger there, or choose another `output.path`"
    )]
    Foreign {
        /// The output folder.
        path: String,
    },
    /// Another run is writing there now.
    #[error(
        "another run ({owner}) is writing to `{path}`: wait for it, or choose another `output.path`"
    )]
    Locked {
        /// The output folder.
        path: String,
        /// Who it says it is.
        owner: String,
    },
}
