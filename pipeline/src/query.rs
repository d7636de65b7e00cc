//! `source.query`: SQL over the cheap columns of the table.
//!
//! A query says which rows are read, and may compute columns of them, from further tables too. It never
//! sees the media columns, so filtering a large table of pictures reads none of them.

#[cfg(feature = "sql")]
mod sql;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::RecordBatch,
    compute::cast,
    datatypes::{DataType, Field, FieldRef, Schema},
};
use legenda_schemas::{
    job::Source,
    span::{SourceObject, Span},
};
use parquet::arrow::ArrowWriter;
use tempfile::NamedTempFile;

use crate::source::{
    BytesRead, SourceError, SourceTable, TableFile, column::holds_bytes, computed::Computed,
    list_files, reader::FileReader,
};

/// Why a query cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The program was built without SQL.
    #[error(
        "`source.query` needs the cargo feature `sql`, which this program was built without: \
         build it with default features, or remove the key"
    )]
    LeftOut,
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
    #[error(
        "`source.query` computes the column `{column}`, which the table has: give it another name, by `AS`"
    )]
    Taken {
        /// The column.
        column: String,
    },
    /// The query computes a column that nobody can read.
    #[error("`source.query` gives the column `{column}`, which is {kind}: leave it out")]
    Bytes {
        /// The column.
        column: String,
        /// Its type.
        kind: String,
    },
    /// A further table cannot be read.
    #[error("`source.tables.{name}`: {source}")]
    Table {
        /// Its name.
        name: String,
        /// Why.
        source: Box<SourceError>,
    },
    /// Polars refuses the query.
    #[error("`source.query` fails on `{path}`: {problem}")]
    Failed {
        /// The file.
        path: String,
        /// What Polars says.
        problem: String,
    },
}

/// The query of a job, and the further tables that it may join.
#[derive(Debug)]
pub struct Query {
    text: String,
    tables: Vec<(String, SourceTable)>,
}

/// A further table, where Polars can read it.
struct Joined {
    name: String,
    files: Vec<CheapColumns>,
}

/// The columns of a file that a query may see, where Polars can read them.
struct CheapColumns {
    path: PathBuf,
    names: Vec<String>,
    /// Keeps a temporary file there.
    _copy: Option<NamedTempFile>,
    /// Rows that are damaged.
    damaged: Vec<u64>,
}

/// What a query says of a file.
struct Answer {
    /// The rows that it keeps, ascending.
    rows: Vec<u64>,
    /// Their numbers and the columns computed of them, as Parquet, if there are any.
    computed: Option<NamedTempFile>,
}

impl Query {
    /// Reads the query of a job, and where the rows of the tables are that it may join; paths are
    /// resolved against `base_dir`.
    ///
    /// # Errors
    ///
    /// [`QueryError::Table`].
    pub fn of(
        source: &Source,
        base_dir: &Path,
        media_bytes_max: u64,
    ) -> Result<Option<Self>, QueryError> {
        let Some(text) = &source.query else { return Ok(None) };
        let open = |(name, path): (&String, &String)| {
            list_files(std::slice::from_ref(path), base_dir, None, false)
                .and_then(|listing| SourceTable::open(&listing.files, media_bytes_max))
                .map(|table| (name.clone(), table))
                .map_err(|source| QueryError::Table { name: name.clone(), source: source.into() })
        };
        let tables = source.tables.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Some(Self { text: text.clone(), tables }))
    }

    /// Returns what tells whether a further table has changed: names, sizes and times of its files.
    #[must_use]
    pub fn tables_identity(&self) -> Option<serde_json::Value> {
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
    pub fn ask(
        &self,
        files: &mut [TableFile],
        bytes_read: &BytesRead,
        limit: Option<u64>,
    ) -> Result<KeptRows, QueryError> {
        let joined: Vec<Joined> = self
            .tables
            .iter()
            .map(|(name, table)| Joined::of(name, table))
            .collect::<Result<_, _>>()?;
        let mut left = limit.map_or(usize::MAX, |rows| usize::try_from(rows).unwrap_or(usize::MAX));
        let mut by_file = HashMap::new();
        for file in files {
            let cheap = CheapColumns::of(file, bytes_read)?;
            let Answer { mut rows, computed } = answer(&self.text, file, &cheap, &joined)?;
            if let Some(computed) = computed {
                let computed = Computed::of(computed.path(), rows.clone()).map_err(|error| {
                    QueryError::Failed {
                        path: file.object.path.clone(),
                        problem: error.to_string(),
                    }
                })?;
                if let Some((column, kind)) = computed.bytes_column() {
                    return Err(QueryError::Bytes { column, kind });
                }
                file.add_computed(computed);
            }
            // What a damaged row holds nobody knows: it is kept, and rejected with the reason.
            if !cheap.damaged.is_empty() {
                rows.extend(cheap.damaged);
                rows.sort_unstable();
                rows.dedup();
            }
            rows.truncate(left);
            left -= rows.len();
            by_file.insert(file.object.path.clone(), rows);
        }
        Ok(KeptRows { by_file })
    }
}

/// Asks `query` of a file, whose cheap columns and further tables Polars can read.
#[cfg(feature = "sql")]
fn answer(
    query: &str,
    file: &TableFile,
    cheap: &CheapColumns,
    joined: &[Joined],
) -> Result<Answer, QueryError> {
    let taken: Vec<&str> = file.schema.fields().iter().map(|field| field.name().as_str()).collect();
    sql::answer(query, &file.object.path, cheap, &taken, joined)
}

/// Tells that this program was built without SQL.
#[cfg(not(feature = "sql"))]
fn answer(
    _query: &str,
    _file: &TableFile,
    _cheap: &CheapColumns,
    _joined: &[Joined],
) -> Result<Answer, QueryError> {
    Err(QueryError::LeftOut)
}

impl Joined {
    fn of(name: &str, table: &SourceTable) -> Result<Self, QueryError> {
        let files = table.files.iter().map(|file| CheapColumns::of(file, &table.bytes_read));
        Ok(Self { name: name.to_owned(), files: files.collect::<Result<_, _>>()? })
    }
}

impl CheapColumns {
    fn of(file: &TableFile, bytes_read: &BytesRead) -> Result<Self, QueryError> {
        let fields = file.schema.fields().iter();
        let cheap = fields.filter(|field| !holds_bytes(field.data_type()));
        let names: Vec<String> = cheap.map(|field| field.name().clone()).collect();
        if file.is_local_parquet() {
            let path = file.path().to_owned();
            return Ok(Self { path, names, _copy: None, damaged: Vec::new() });
        }
        let (copy, damaged) = copy_columns(file, &names, bytes_read)?;
        Ok(Self { path: copy.path().to_owned(), names, _copy: Some(copy), damaged })
    }
}

/// The rows of a table that a query keeps.
#[derive(Debug)]
pub struct KeptRows {
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
    pub fn of(&self, span: &Span) -> &[u64] {
        let rows = self.by_file.get(&span.object.path).map(Vec::as_slice).unwrap_or_default();
        let start = rows.partition_point(|&row| row < span.file_row_start);
        let end = rows.partition_point(|&row| row < span.file_row_start + span.n_rows as u64);
        &rows[start..end]
    }
}

/// Copies `columns` of a file to a temporary Parquet file, where a query can read them; tells which of
/// the rows are damaged.
///
/// # Errors
///
/// [`QueryError::Failed`].
fn copy_columns(
    file: &TableFile,
    columns: &[String],
    bytes_read: &BytesRead,
) -> Result<(NamedTempFile, Vec<u64>), QueryError> {
    let failed = |error: &dyn std::fmt::Display| QueryError::Failed {
        path: file.object.path.clone(),
        problem: error.to_string(),
    };
    let reader = FileReader::open(file, bytes_read).map_err(|error| failed(&error))?;
    let copy = NamedTempFile::new().map_err(|error| failed(&error))?;
    let roots = columns.iter().filter_map(|name| file.schema.index_of(name).ok());
    let schema = file.schema.project(&roots.collect::<Vec<_>>()).map_err(|error| failed(&error))?;
    let fields = schema.fields().iter().map(queried_field).collect::<Vec<_>>();
    let schema = Arc::new(Schema::new(fields));
    let mut writer = ArrowWriter::try_new(copy.as_file(), Arc::clone(&schema), None)
        .map_err(|error| failed(&error))?;
    let (mut damaged, mut n_rows) = (Vec::new(), 0);
    for (row_group, size) in file.row_groups.iter().enumerate() {
        let all = 0..size.n_rows;
        let rows = reader.read(row_group, &[all], Some(columns), COPIED_ROWS);
        for batch in rows.map_err(|error| failed(&error))? {
            let batch = batch.map_err(|error| failed(&error))?;
            let columns = batch.rows.columns().iter().zip(schema.fields());
            let columns = columns.map(|(column, field)| cast(column, field.data_type()));
            let rows = columns.collect::<Result<_, _>>();
            let rows = rows.and_then(|columns| RecordBatch::try_new(Arc::clone(&schema), columns));
            writer.write(&rows.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
            damaged.extend(batch.damaged.iter().map(|one| n_rows + one.row as u64));
            n_rows += batch.rows.num_rows() as u64;
        }
    }
    writer.close().map_err(|error| failed(&error))?;
    Ok((copy, damaged))
}

/// Returns a column as a query sees it: types that this build of Polars lacks become the nearest that it
/// has. The rows that are kept are read from the file itself.
fn queried_field(field: &FieldRef) -> FieldRef {
    let queried = match field.data_type() {
        DataType::Decimal128(_, 0) | DataType::Date32 | DataType::Timestamp(_, None) => {
            DataType::Utf8
        }
        DataType::Decimal128(..) => DataType::Float64,
        DataType::Int8 | DataType::Int16 => DataType::Int32,
        DataType::UInt8 | DataType::UInt16 => DataType::UInt32,
        DataType::List(item) => DataType::List(queried_field(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(queried_field).collect()),
        other => other.clone(),
    };
    Arc::new(Field::new(field.name(), queried, field.is_nullable()))
}

/// Rows that are copied at a time for a query.
const COPIED_ROWS: usize = 8192;
