//! Queries as Polars runs them, over columns in memory: with `interchange.rs` the only place that names it.

use std::thread;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use legenda_schemas::cause::Cause;
use polars::{
    prelude::{Column, DataFrame, IntoLazy as _, NamedFrom as _, PolarsError, Series, col},
    sql::SQLContext,
};

use super::{
    QueryError, interchange,
    statement::{ROW, Statement, TABLE},
};

/// The stack of the thread that reads and runs a query; only what is used of it takes memory.
const STACK_BYTES: usize = 512 << 20;

/// A table, or a chunk of it, as a query sees it.
pub(super) struct Frame(DataFrame);

/// What a query says of a chunk of a file.
pub(super) struct Answer {
    /// The rows of the file that it keeps, ascending.
    pub rows: Vec<u64>,
    /// The columns that it computes of them.
    pub computed: RecordBatch,
}

/// A file that a query is asked of.
pub(super) struct QueriedFile<'a> {
    /// Its path, for errors.
    pub path: &'a str,
    /// The columns that a query may see.
    pub cheap: &'a [String],
    /// All its columns.
    pub taken: &'a [&'a str],
}

impl Frame {
    /// Takes rows whose columns are those of `schema`.
    ///
    /// # Errors
    ///
    /// What Polars says of a column.
    pub(super) fn new(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Self, PolarsError> {
        let n_rows = batches.iter().map(RecordBatch::num_rows).sum();
        let empty = [RecordBatch::new_empty(schema.clone())];
        let batches = if batches.is_empty() { &empty } else { batches };
        let columns = schema.fields().iter().enumerate().map(|(idx, field)| {
            let chunks = batches.iter().map(|batch| batch.column(idx));
            interchange::to_polars(field.name(), chunks).map(Column::from)
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        DataFrame::new(n_rows, columns).map(Self)
    }

    /// Numbers the rows from `first` on.
    fn numbered(self, first: u64) -> Result<DataFrame, PolarsError> {
        let numbers: Vec<u64> = (first..).take(self.0.height()).collect();
        let mut frame = self.0;
        frame.with_column(Series::new(ROW.into(), numbers).into())?;
        Ok(frame)
    }
}

/// Calls `work` on a thread whose stack a query of the greatest length fits on.
///
/// # Errors
///
/// A panic of it, or why there is no thread.
pub(super) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    thread::scope(|threads| {
        let thread = thread::Builder::new()
            .name("query".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(threads, work)
            .map_err(|error| format!("failed to start a thread: {error}"))?;
        thread.join().map_err(|_| "Polars panicked on it".to_owned())
    })
}

/// Asks a query of the rows of `file` from `first_row` on, which `frame` holds; it may join `tables`.
///
/// # Errors
///
/// [`QueryError`].
pub(super) fn answer(
    statement: &Statement,
    file: &QueriedFile<'_>,
    first_row: u64,
    frame: Frame,
    tables: &[(String, Frame)],
) -> Result<Answer, QueryError> {
    let failed =
        |problem: String| QueryError::Failed { path: file.path.to_owned(), source: problem.into() };
    on_large_stack(|| answer_here(statement, file, first_row, frame, tables))
        .unwrap_or_else(|problem| Err(failed(problem)))
}

fn answer_here(
    statement: &Statement,
    file: &QueriedFile<'_>,
    first_row: u64,
    frame: Frame,
    tables: &[(String, Frame)],
) -> Result<Answer, QueryError> {
    let failed = |source: Cause| QueryError::Failed { path: file.path.to_owned(), source };
    let refused = |error: PolarsError| failed(error.into());
    let shape = |problem: &str| QueryError::Shape { problem: problem.to_owned() };
    let mut context = SQLContext::new();
    context.register(TABLE, frame.numbered(first_row).map_err(refused)?.lazy());
    for (name, Frame(table)) in tables {
        context.register(name, table.clone().lazy());
    }
    let mut kept = context.execute(&statement.sql).map_err(refused)?;
    let schema = kept.collect_schema().map_err(refused)?;
    let is_computed = |name: &&str| *name != ROW && !statement.is_own(name, file.cheap);
    let names = schema.iter_names().map(|name| name.as_str());
    let computed: Vec<String> = names.filter(is_computed).map(str::to_owned).collect();
    if let Some(column) = computed.iter().find(|name| file.taken.contains(&name.as_str())) {
        return Err(QueryError::Taken { column: column.clone() });
    }
    let columns = std::iter::once(ROW).chain(computed.iter().map(String::as_str)).map(col);
    let frame = kept
        .select(columns.collect::<Vec<_>>())
        .sort([ROW], Default::default())
        .collect()
        .map_err(refused)?;
    let numbers = frame.column(ROW).and_then(|column| column.u64()).map_err(refused)?;
    let rows: Vec<u64> = numbers.iter().flatten().collect();
    if rows.len() < numbers.len() {
        return Err(shape("a join gives rows that are not rows of `source`"));
    }
    if rows.windows(2).any(|two| two[0] == two[1]) {
        return Err(shape("it gives a row more than once"));
    }
    let computed = interchange::to_arrow(frame.columns().iter().skip(1), rows.len());
    Ok(Answer { rows, computed: computed.map_err(|error| failed(error.into()))? })
}
