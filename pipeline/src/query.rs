//! `source.query`: SQL over the cheap columns of the table. The only place that names Polars.
//!
//! A query says which rows are read. It never sees the media columns, so filtering a large table
//! of pictures reads none of them.

use std::{collections::HashMap, path::Path, sync::Arc};

use legenda_schemas::span::Span;
use parquet::arrow::ArrowWriter;
use tempfile::NamedTempFile;

use crate::source::{
    BytesRead, SourceTable,
    column::holds_bytes,
    table::{FileReader, TableFile},
};

/// The name of the table in a query.
#[cfg(feature = "sql")]
const TABLE: &str = "source";
/// The column that numbers the rows of a file, in queries.
#[cfg(feature = "sql")]
const ROW: &str = "legenda_row";

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
    /// The query computes columns.
    #[error(
        "`source.query` computes the column `{column}`, but a query only chooses rows: compute it \
         in `task.prompt`, and select columns of the table only"
    )]
    Computed {
        /// The column.
        column: String,
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

/// The rows of a table that a query keeps.
#[derive(Debug)]
pub struct KeptRows {
    /// Row numbers of each file, ascending, by the file's path.
    by_file: HashMap<String, Vec<u64>>,
}

impl KeptRows {
    /// Asks `query` of every file of the table; with a `limit`, only the first rows are kept.
    ///
    /// # Errors
    ///
    /// [`QueryError`].
    pub fn ask(query: &str, table: &SourceTable, limit: Option<u64>) -> Result<Self, QueryError> {
        let mut left = limit.map_or(usize::MAX, |rows| usize::try_from(rows).unwrap_or(usize::MAX));
        let by_file = table.files.iter().map(|file| {
            let fields = file.schema.fields().iter();
            let cheap: Vec<String> = fields
                .filter(|field| !holds_bytes(field.data_type()))
                .map(|field| field.name().clone())
                .collect();
            let mut rows = if file.is_local_parquet() {
                rows_kept(file.path(), &cheap, query)?
            } else {
                let (copy, damaged) = copy_columns(file, &cheap, &table.bytes_read)?;
                let mut rows = rows_kept(copy.path(), &cheap, query)?;
                // What a damaged row holds nobody knows: it is kept, and rejected with the reason.
                rows.extend(damaged);
                rows.sort_unstable();
                rows.dedup();
                rows
            };
            rows.truncate(left);
            left -= rows.len();
            Ok((file.object.path.clone(), rows))
        });
        Ok(Self { by_file: by_file.collect::<Result<_, _>>()? })
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
    let mut writer = ArrowWriter::try_new(copy.as_file(), Arc::new(schema), None)
        .map_err(|error| failed(&error))?;
    let (mut damaged, mut n_rows) = (Vec::new(), 0);
    for (row_group, size) in file.row_groups.iter().enumerate() {
        let all = 0..size.n_rows;
        let rows = reader.read(row_group, &[all], Some(columns), COPIED_ROWS);
        for batch in rows.map_err(|error| failed(&error))? {
            let batch = batch.map_err(|error| failed(&error))?;
            writer.write(&batch.rows).map_err(|error| failed(&error))?;
            damaged.extend(batch.damaged.iter().map(|one| n_rows + one.row as u64));
            n_rows += batch.rows.num_rows() as u64;
        }
    }
    writer.close().map_err(|error| failed(&error))?;
    Ok((copy, damaged))
}

/// Rows that are copied at a time for a query.
const COPIED_ROWS: usize = 8192;

/// Returns the rows of the Parquet file at `path` that `query` keeps, ascending, counted from the
/// file's first row. The query sees `columns` only.
///
/// # Errors
///
/// [`QueryError`].
#[cfg(feature = "sql")]
fn rows_kept(path: &Path, columns: &[String], query: &str) -> Result<Vec<u64>, QueryError> {
    use polars::prelude::{IdxCa, LazyFrame, PlRefPath, PolarsError, ScanArgsParquet, col};
    use polars::sql::SQLContext;

    let failed = |error: PolarsError| QueryError::Failed {
        path: path.display().to_string(),
        problem: error.to_string(),
    };
    let with_row = numbered(query)?;
    let source = PlRefPath::try_from_path(path).map_err(failed)?;
    let cheap: Vec<_> = columns.iter().map(|name| col(name.as_str())).collect();
    let table = LazyFrame::scan_parquet(source, ScanArgsParquet::default())
        .map_err(failed)?
        .select(cheap)
        .with_row_index(ROW, None);
    let mut context = SQLContext::new();
    context.register(TABLE, table);
    let mut kept = context.execute(&with_row).map_err(failed)?;
    let schema = kept.collect_schema().map_err(failed)?;
    let known = |name: &str| name == ROW || columns.iter().any(|column| column == name);
    if let Some(column) = schema.iter_names().find(|name| !known(name)) {
        return Err(QueryError::Computed { column: column.to_string() });
    }
    let frame = kept.select([col(ROW)]).collect().map_err(failed)?;
    let rows: &IdxCa = frame.column(ROW).and_then(|column| column.idx()).map_err(failed)?;
    let mut rows: Vec<u64> = rows.iter().flatten().map(u64::from).collect();
    rows.sort_unstable();
    let n_rows = rows.len();
    rows.dedup();
    if rows.len() < n_rows {
        let problem = "it gives a row more than once".to_owned();
        return Err(QueryError::Shape { problem });
    }
    Ok(rows)
}

/// Tells that this program was built without SQL.
///
/// # Errors
///
/// [`QueryError::LeftOut`], always.
#[cfg(not(feature = "sql"))]
fn rows_kept(_path: &Path, _columns: &[String], _query: &str) -> Result<Vec<u64>, QueryError> {
    Err(QueryError::LeftOut)
}

/// Adds the row number to what the query selects, so that its rows can be told.
#[cfg(feature = "sql")]
fn numbered(query: &str) -> Result<String, QueryError> {
    let query = query.trim();
    let (first, rest) = query.split_once(char::is_whitespace).unwrap_or((query, ""));
    if !first.eq_ignore_ascii_case("select") {
        let problem = format!("it begins with `{first}`");
        return Err(QueryError::Shape { problem });
    }
    let rest = rest.trim_start();
    let lower = rest.to_lowercase();
    if lower.starts_with("distinct") || lower.contains("group by") {
        let problem = "`DISTINCT` and `GROUP BY` merge rows".to_owned();
        return Err(QueryError::Shape { problem });
    }
    // `*` stands for every column, the number among them.
    let selected = if rest.starts_with('*') { String::new() } else { format!("{ROW}, ") };
    Ok(format!("SELECT {selected}{rest}"))
}

#[cfg(feature = "sql")]
#[cfg(test)]
mod tests {
    use std::{fs::File, path::Path, sync::Arc};

    use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;

    use super::{QueryError, rows_kept};

    fn table(path: &Path) -> Vec<String> {
        let n: ArrayRef = Arc::new(Int64Array::from_iter_values(0..6));
        let lang: ArrayRef = Arc::new(StringArray::from(vec!["en", "de", "en", "fr", "en", "de"]));
        let image: ArrayRef = Arc::new(BinaryArray::from(vec![&b"x"[..]; 6]));
        let batch =
            RecordBatch::try_from_iter([("n", n), ("lang", lang), ("image", image)]).unwrap();
        let mut writer =
            ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        vec!["n".to_owned(), "lang".to_owned()]
    }

    #[test]
    fn a_query_chooses_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.parquet");
        let columns = table(&path);
        let kept = |query: &str| rows_kept(&path, &columns, query);
        assert_eq!(kept("SELECT * FROM source WHERE lang = 'en'").unwrap(), [0, 2, 4]);
        assert_eq!(kept("select n from source where n > 2 and lang <> 'fr'").unwrap(), [4, 5]);
        assert_eq!(kept("SELECT n FROM source ORDER BY n DESC LIMIT 2").unwrap(), [4, 5]);
        assert!(kept("SELECT * FROM source WHERE n > 99").unwrap().is_empty());
    }

    #[test]
    fn queries_that_cannot_choose_rows_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.parquet");
        let columns = table(&path);
        let refused = |query: &str| rows_kept(&path, &columns, query).unwrap_err();
        assert!(matches!(refused("DELETE FROM source"), QueryError::Shape { .. }));
        assert!(matches!(refused("SELECT DISTINCT lang FROM source"), QueryError::Shape { .. }));
        assert!(matches!(refused("SELECT n + 1 AS m FROM source"), QueryError::Computed { .. }));
        assert!(matches!(refused("SELECT image FROM source"), QueryError::Failed { .. }));
        assert!(matches!(refused("SELECT n FROM other"), QueryError::Failed { .. }));
    }
}
