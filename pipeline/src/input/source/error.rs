//! The errors of tables.

use std::{io::ErrorKind, path::PathBuf};

use legenda_models::HubError;
use legenda_schemas::cause::{Cause, chain};

use crate::base::store::{LocationError, StoreFault, fault_of, is_url};

/// The disk or the store failed after retries. No row is rejected for that.
#[derive(Debug, thiserror::Error)]
#[error("failed to read `{path}`")]
pub struct SourceFailed {
    /// The file.
    pub path: String,
    /// The error of the system or the store.
    pub source: Cause,
}

/// An error that makes the whole source unreadable; single rows are rejected instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// An entry of `source.paths` matches no file.
    #[error("`source.paths`: no readable file matches `{entry}`{skipped}")]
    NothingFound {
        /// The entry, resolved against the job file's folder.
        entry: String,
        /// The files that exist, in parentheses; empty if there are none.
        skipped: String,
    },
    /// A dataset of the Hub cannot be listed.
    #[error("failed to list the dataset in `source.paths`")]
    Dataset(#[from] HubError),
    /// An entry of `source.paths` is not a glob pattern.
    #[error("`source.paths`: invalid glob pattern `{entry}`")]
    Pattern {
        /// The entry.
        entry: String,
        /// The cause.
        source: Cause,
    },
    /// A URL of `source.paths` cannot be used.
    #[error("invalid `source.paths`")]
    Location(#[from] LocationError),
    /// A file cannot be opened.
    #[error("failed to read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is not Parquet or its footer is damaged.
    #[error("`{path}` is not a readable Parquet file")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The reader's error.
        source: parquet::errors::ParquetError,
    },
    /// A file that earlier runs have read is no longer readable.
    #[error("failed to read `{path}`, which earlier runs have answered")]
    OutOfReach {
        /// The file.
        path: PathBuf,
    },
    /// A file does not have the expected format.
    #[error("failed to read `{path}` as {format}: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The expected format.
        format: &'static str,
        /// The cause.
        problem: String,
    },
    /// A file has an unsupported format.
    #[error("`{}` is {kind}, which is not supported", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The format.
        kind: &'static str,
        /// The remedy.
        remedy: &'static str,
    },
    /// `source.schema` names a column that does not exist.
    #[error("`source.schema`: column `{column}` does not exist; available columns: {available}")]
    UnknownTyped {
        /// The column.
        column: String,
        /// The existing columns.
        available: String,
    },
    /// `source.schema` is set, but a file declares its own types.
    #[error(
        "`source.schema` only applies to CSV and JSON Lines, but `{}` declares its own types",
        path.display()
    )]
    TypedFile {
        /// The file.
        path: PathBuf,
    },
    /// A column named in the job is missing.
    #[error(
        "`{key}`: column `{column}` does not exist in `{path}`; available columns: {available}"
    )]
    MissingColumn {
        /// The key of the job file.
        key: String,
        /// The column.
        column: String,
        /// The file.
        path: PathBuf,
        /// The existing columns.
        available: String,
    },
    /// A column has the wrong type for its use.
    #[error("`{key}`: column `{column}` of `{path}` has type {actual}, expected {expected}")]
    ColumnType {
        /// The key of the job file.
        key: String,
        /// The column.
        column: String,
        /// The file.
        path: PathBuf,
        /// Its Arrow type.
        actual: String,
        /// The expected types.
        expected: &'static str,
    },
    /// A column has different types in two source files.
    #[error("column `{column}` has type {actual} in `{path}` but {expected} in `{first}`")]
    Differs {
        /// The column.
        column: String,
        /// The file that differs.
        path: PathBuf,
        /// Its type there.
        actual: String,
        /// The first file.
        first: PathBuf,
        /// Its type there.
        expected: String,
    },
    /// A carried column has a reserved name.
    #[error("column `{column}` of `{path}` has a name reserved for answers")]
    ReservedColumn {
        /// The column.
        column: String,
        /// The file.
        path: PathBuf,
    },
}

impl SourceError {
    /// Returns whether a single file is at fault, so that others may be readable.
    pub(crate) fn is_of_file(&self) -> bool {
        match self {
            Self::Parquet { .. } | Self::Format { .. } | Self::Foreign { .. } => true,
            Self::Io { source, .. } => matches!(
                source.kind(),
                ErrorKind::PermissionDenied
                    | ErrorKind::NotFound
                    | ErrorKind::InvalidData
                    | ErrorKind::UnexpectedEof
            ),
            _ => false,
        }
    }

    /// Returns the file at fault and the problem.
    pub(crate) fn path_and_problem(&self) -> (String, String) {
        let shown = |path: &PathBuf| path.to_string_lossy().into_owned();
        match self {
            Self::Parquet { path, source } => (shown(path), chain(source)),
            Self::Format { path, format, problem } => {
                (shown(path), format!("invalid {format}: {problem}"))
            }
            Self::Foreign { path, kind, remedy } => {
                (shown(path), format!("{kind}, which is not supported: {remedy}"))
            }
            Self::Io { path, source } => (shown(path), chain(source)),
            error => (String::new(), chain(error)),
        }
    }

    /// Returns whether the error is transient, such as an unavailable store.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Io { path, source } if is_url(&path.to_string_lossy())
            && source.kind() == ErrorKind::Other
            && !fault_of(source).is_some_and(StoreFault::is_configuration))
    }
}
