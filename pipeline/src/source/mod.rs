//! What a run reads: which files, their schema, their spans, their rows.

mod arrow_ipc;
pub(crate) mod batch;
pub mod cell;
pub mod column;
mod compact;
mod compressed;
pub mod computed;
mod contents;
pub mod conversation;
pub(crate) mod convert;
mod csv;
pub mod file;
mod footer;
mod foreign;
mod json;
mod json_lines;
pub mod known;
pub mod listing;
mod media;
pub mod names;
mod numbers;
pub mod pages;
mod parquet;
pub mod partitions;
mod portable;
pub mod reader;
mod records;
pub mod roots;
pub mod rows;
mod shape;
pub mod skipped;
mod steps;
mod stored;
pub mod table;
pub mod table_file;
mod tar;
pub mod text_bytes;
mod typed;
mod unify;
mod unify_declared;
mod walk;
mod widen;
mod windows;

#[cfg(test)]
mod tests;

pub use file::BytesRead;
pub use listing::{Listed, Listing, list_files};
pub use rows::ReadRows;
pub use skipped::Skipped;
pub use table::{OpenTable, SourceTable};
pub use table_file::TableFile;

use std::{io::ErrorKind, path::PathBuf};

use legenda_models::HubError;

use crate::store::{LocationError, StoreFault, fault_of, is_url};

/// The disk or the store failed, again and again. No row is rejected for that.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "cannot read `{path}`: {problem}; what was committed is safe, run the same command again once this is mended"
)]
pub struct SourceFailed {
    /// The file.
    pub path: String,
    /// What the system or the store says.
    pub problem: String,
}

/// Why a source cannot be read at all; single rows are rejected instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// An entry of `source.paths` names nothing.
    #[error(
        "`source.paths` names `{entry}`, which has no file to read{skipped}: correct the path or pattern, or set `source.format`"
    )]
    NothingFound {
        /// The entry, resolved against the job file's folder.
        entry: String,
        /// Which files are there, in parentheses; empty if there are none.
        skipped: String,
    },
    /// A dataset of the Hub cannot be listed.
    #[error("`source.paths`: {0}")]
    Dataset(#[from] HubError),
    /// An entry of `source.paths` is no glob pattern.
    #[error("`source.paths` holds the pattern `{entry}`, which cannot be read: {problem}")]
    Pattern {
        /// The entry.
        entry: String,
        /// What is wrong.
        problem: String,
    },
    /// A URL of `source.paths` cannot be used.
    #[error("`source.paths`: {0}")]
    Location(#[from] LocationError),
    /// A file cannot be opened.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is no Parquet file or its footer is damaged.
    #[error("`{path}` is no readable Parquet file: replace it, or leave it out of `source.paths`")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The reader's reason.
        source: ::parquet::errors::ParquetError,
    },
    /// A file that earlier runs have read cannot be read any more.
    #[error(
        "cannot read `{path}`, whose rows earlier runs have answered: make it readable again, or remove it if its answers are to go"
    )]
    OutOfReach {
        /// The file.
        path: PathBuf,
    },
    /// A file is not what it is taken for.
    #[error(
        "`{path}` cannot be read as {format}: {problem}; replace it, leave it out of `source.paths`, or say what it is by `source.format`"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What it is taken for.
        format: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A file is of a kind that is not read.
    #[error("`{}` is {kind}, which cannot be read: {remedy}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// `source.schema` names a column that no file has.
    #[error(
        "`source.schema` names the column `{column}`, which the table does not have; it has {available}"
    )]
    UnknownTyped {
        /// The column.
        column: String,
        /// The columns there are.
        available: String,
    },
    /// `source.schema` is set, and the types of a file are not to be chosen.
    #[error(
        "`source.schema` sets types of CSV and JSON Lines; `{}` has types of its own: remove the key",
        path.display()
    )]
    TypedFile {
        /// The file.
        path: PathBuf,
    },
    /// A column that the job names is missing.
    #[error(
        "`{key}` names the column `{column}`, which `{path}` does not have; it has {available}"
    )]
    MissingColumn {
        /// The key of the job file.
        key: String,
        /// The column.
        column: String,
        /// The file.
        path: PathBuf,
        /// The columns it has.
        available: String,
    },
    /// A column has a type that cannot be what the job says it is.
    #[error(
        "`{key}` names the column `{column}` of `{path}`, which is {actual}; expected {expected}"
    )]
    ColumnType {
        /// The key of the job file.
        key: String,
        /// The column.
        column: String,
        /// The file.
        path: PathBuf,
        /// Its Arrow type.
        actual: String,
        /// What would do.
        expected: &'static str,
    },
    /// A column differs between two files of the source.
    #[error(
        "the column `{column}` is {actual} in `{path}` but {expected} in `{first}`: make the files alike, or leave the column out by `output.columns`"
    )]
    Differs {
        /// The column.
        column: String,
        /// The file that differs.
        path: PathBuf,
        /// The type there.
        actual: String,
        /// The first file.
        first: PathBuf,
        /// The type there.
        expected: String,
    },
    /// A carried column has a name that the answer table uses.
    #[error(
        "the column `{column}` of `{path}` has a name that the answers use: name the columns to carry in `output.columns`, or rename it"
    )]
    ReservedColumn {
        /// The column.
        column: String,
        /// The file.
        path: PathBuf,
    },
}

impl SourceError {
    /// Returns whether a file is at fault, so that others may still be read.
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

    /// Returns the file that is at fault, and what is wrong with it.
    pub(crate) fn told(&self) -> (String, String) {
        let shown = |path: &PathBuf| path.to_string_lossy().into_owned();
        match self {
            Self::Parquet { path, source } => (shown(path), source.to_string()),
            Self::Format { path, format, problem } => {
                (shown(path), format!("cannot be read as {format}: {problem}"))
            }
            Self::Foreign { path, kind, remedy } => {
                (shown(path), format!("is {kind}, which cannot be read: {remedy}"))
            }
            Self::Io { path, source } => (shown(path), source.to_string()),
            error => (String::new(), error.to_string()),
        }
    }

    /// Returns whether the same may succeed later, with nothing changed: a store is away for a while.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Io { path, source } if is_url(&path.to_string_lossy())
            && source.kind() == ErrorKind::Other
            && !fault_of(source).is_some_and(StoreFault::is_configuration))
    }
}
