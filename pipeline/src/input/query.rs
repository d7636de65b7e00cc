//! `source.query`: SQL over the cheap columns of the table.
//!
//! A query says which rows are read, and may compute columns of them, from further tables too. It never
//! sees the media columns, so filtering a large table of pictures reads none of them.

#[cfg(feature = "sql")]
mod asking;
#[cfg(feature = "sql")]
mod columns;
#[cfg(feature = "sql")]
mod engine;
#[cfg(feature = "sql")]
mod interchange;
#[cfg(feature = "sql")]
mod statement;
#[cfg(all(test, feature = "sql"))]
mod tests;

use std::{collections::HashMap, path::Path};

use legenda_schemas::{
    cause::Cause,
    job::{Limits, Source},
    span::{SourceObject, Span},
};

use crate::input::source::{BytesRead, SourceError, SourceTable, TableFile, list_files};

/// Why a query cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The program was built without SQL.
    #[error("`source.query` needs the cargo feature `sql`, which this program was built without")]
    LeftOut,
    /// The query is not SQL.
    #[error("invalid `source.query`")]
    Syntax {
        /// The error of the parser.
        source: Cause,
    },
    /// A query that compares rows needs more of a table than fits into memory.
    #[error(
        "`source.query` compares rows, and what it uses of `{table}` takes more than {mib_max} MiB, a quarter \
         of `limits.memory`"
    )]
    TooLarge {
        /// The file, or the further table.
        table: String,
        /// What may be taken.
        mib_max: u64,
    },
    /// The query does not begin with `SELECT`, or cannot keep the rows apart.
    #[error(
        "`source.query` must be a plain `SELECT … FROM source WHERE …`, whose rows are rows of \
         the table: {problem}"
    )]
    Shape {
        /// What is wrong.
        problem: String,
    },
    /// The query computes a column under a name that there is.
    #[error("`source.query` computes the column `{column}`, which the table has")]
    Taken {
        /// The column.
        column: String,
    },
    /// The query computes a column that nobody can read.
    #[error("`source.query` gives the column `{column}`, which is {kind}")]
    Bytes {
        /// The column.
        column: String,
        /// Its type.
        kind: String,
    },
    /// A further table cannot be read.
    #[error("invalid `source.tables.{name}`")]
    Table {
        /// Its name.
        name: String,
        /// Why.
        source: Box<SourceError>,
    },
    /// Polars refuses the query.
    #[error("`source.query` fails on `{path}`")]
    Failed {
        /// The file.
        path: String,
        /// The error of Polars, or of reading the columns.
        source: Cause,
    },
}

/// The query of a job, and the further tables that it may join.
#[derive(Debug)]
pub(crate) struct Query {
    #[cfg_attr(not(feature = "sql"), expect(dead_code, reason = "such a program refuses the job"))]
    text: String,
    tables: Vec<(String, SourceTable)>,
    /// How many bytes of a table may be in memory together.
    #[cfg_attr(not(feature = "sql"), expect(dead_code, reason = "such a program refuses the job"))]
    bytes_max: u64,
}

impl Query {
    /// Reads the query of a job, and where the rows of the tables are that it may join; paths are
    /// resolved against `base_dir`.
    ///
    /// # Errors
    ///
    /// [`QueryError::Table`], [`QueryError::LeftOut`].
    pub(crate) fn of(
        source: &Source,
        base_dir: &Path,
        limits: &Limits,
    ) -> Result<Option<Self>, QueryError> {
        let Some(text) = &source.query else { return Ok(None) };
        if cfg!(not(feature = "sql")) {
            return Err(QueryError::LeftOut);
        }
        let media_bytes_max = limits.media_bytes.0;
        let open = |(name, path): (&String, &String)| {
            list_files(std::slice::from_ref(path), base_dir, None, false)
                .and_then(|listing| SourceTable::open(&listing.files, media_bytes_max))
                .map(|table| (name.clone(), table))
                .map_err(|source| QueryError::Table { name: name.clone(), source: source.into() })
        };
        let tables = source.tables.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Some(Self { text: text.clone(), tables, bytes_max: limits.memory.0 / 4 }))
    }

    /// Returns what tells whether a further table has changed: names, sizes and times of its files.
    #[must_use]
    pub(crate) fn tables_identity(&self) -> Option<serde_json::Value> {
        let named = |file: &TableFile| {
            let path = file.path().file_name().unwrap_or_default().to_string_lossy();
            serde_json::json!(SourceObject { path: path.into_owned(), ..file.object.clone() })
        };
        let tables = self.tables.iter().map(|(name, table)| {
            (name.clone(), table.files.iter().map(named).collect::<Vec<_>>().into())
        });
        let tables: serde_json::Map<_, _> = tables.collect();
        (!tables.is_empty()).then_some(tables.into())
    }

    /// Asks of `files` of a table, which were not asked before, which rows to read, and adds to them the
    /// columns that the query computes; with a `limit`, only the first rows are kept.
    ///
    /// # Errors
    ///
    /// [`QueryError`].
    pub(crate) fn ask(
        &self,
        files: &mut [TableFile],
        bytes_read: &BytesRead,
        limit: Option<u64>,
    ) -> Result<KeptRows, QueryError> {
        #[cfg(feature = "sql")]
        let kept = asking::ask(self, files, bytes_read, limit);
        #[cfg(not(feature = "sql"))]
        let kept = {
            let _unused = (files, bytes_read, limit);
            Err(QueryError::LeftOut)
        };
        kept
    }
}

/// The rows of a table that a query keeps.
#[derive(Debug, Default)]
pub(crate) struct KeptRows {
    /// Row numbers of each file, ascending, by the file's path.
    by_file: HashMap<String, Vec<u64>>,
}

impl KeptRows {
    /// Adds the rows that are kept of other files.
    pub(crate) fn extend(&mut self, others: Self) {
        self.by_file.extend(others.by_file);
    }

    /// Returns the kept rows of a span, counted from the file's first row.
    #[must_use]
    pub(crate) fn of(&self, span: &Span) -> &[u64] {
        let rows = self.by_file.get(&span.object.path).map(Vec::as_slice).unwrap_or_default();
        let start = rows.partition_point(|&row| row < span.file_row_start);
        let end = rows.partition_point(|&row| row < span.file_row_start + span.n_rows as u64);
        &rows[start..end]
    }
}
