//! Reads the rows of an output together with their references.

use std::collections::{HashMap, HashSet};

use arrow::{
    array::{Array, AsArray, ListLikeArray, RecordBatch},
    datatypes::DataType,
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use legenda_schemas::{
    cause::Cause,
    ledger::{CommittedFile, LedgerEntry},
    table::ANSWER_COLUMN,
};

use super::Pair;
use crate::{
    base::store::ReadError,
    input::source::cell::text_cell,
    output::ledger::{LedgerError, OutputFiles},
    run::retry::row_numbers,
};

/// An error of evaluating an output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file is damaged.
    #[error("failed to read `{path}`")]
    Damaged {
        /// The file.
        path: String,
        /// The cause.
        source: Cause,
    },
    /// A column is missing or has the wrong type.
    #[error("`{path}` has no column `{column}` of text{hint}; available columns: {available}")]
    Column {
        /// The file.
        path: String,
        /// The column.
        column: String,
        /// Other allowed types.
        hint: &'static str,
        /// The available columns.
        available: String,
    },
    /// Rows cannot be matched.
    #[error("cannot match rows of `{path}` to the input table ({reason})")]
    NoKey {
        /// The file.
        path: String,
        /// The reason.
        reason: &'static str,
    },
    /// Two rows have the same id.
    #[error("two rows of `{path}` have the same `{column}`: `{id}`")]
    Twice {
        /// The output.
        path: String,
        /// The column.
        column: String,
        /// The id.
        id: String,
    },
}

/// The key of a row: its id, or its file and row number.
pub type Key = (String, u64);

/// Reads every row of an output that has a reference in the column `reference`, a text or a list of texts.
/// Rejected rows count as unanswered. Rows are keyed by the column `id`, or by their row numbers.
///
/// # Errors
///
/// [`EvalError`].
pub fn rows(
    output: &OutputFiles,
    reference: &str,
    id: Option<&str>,
) -> Result<HashMap<Key, Pair>, EvalError> {
    let mut rows = HashMap::new();
    for entry in output.read_entries()? {
        read_span(output, &entry, reference, id, &mut rows)?;
    }
    Ok(rows)
}

fn read_span(
    output: &OutputFiles,
    entry: &LedgerEntry,
    reference: &str,
    id: Option<&str>,
    rows: &mut HashMap<Key, Pair>,
) -> Result<(), EvalError> {
    let path_of = |file: &CommittedFile| output.folder.path_of(&file.name);
    let mut rejected = HashSet::new();
    if let Some(file) = &entry.rejects_file {
        for batch in read(output, file)? {
            let numbers = row_numbers(&batch);
            for row in 0..batch.num_rows() {
                let number = numbers.map_or(0, |numbers| numbers.value(row));
                rejected.insert(number);
                let place = (entry.span.object.path.clone(), number);
                let pair = Pair {
                    answer: None,
                    references: references(&batch, row, reference, &path_of(file))?,
                };
                add(output, &batch, row, id, place, pair, rows)?;
            }
        }
    }
    // The rows of the span in its part, in order.
    let first = entry.span.file_row_start;
    let mut places =
        (first..first + entry.span.n_rows as u64).filter(|row| !rejected.contains(row));
    for file in &entry.parts {
        let is_in_order = entry.retries == 0 && entry.rows_in == entry.span.n_rows as u64;
        for batch in read(output, file)? {
            // Partitioned answers contain their row numbers.
            let numbers = row_numbers(&batch);
            if id.is_none() && numbers.is_none() && !is_in_order {
                let retried = entry.retries > 0;
                let reason = if retried { "rejects were retried" } else { "a query selected rows" };
                return Err(EvalError::NoKey { path: path_of(file), reason });
            }
            let answers = batch.column_by_name(ANSWER_COLUMN);
            let answers =
                answers.ok_or_else(|| missing(&batch, ANSWER_COLUMN, "", &path_of(file)))?;
            for row in 0..batch.num_rows() {
                let number = match numbers {
                    Some(numbers) => numbers.value(row),
                    None => places.next().unwrap_or_default(),
                };
                let place = (entry.span.object.path.clone(), number);
                let pair = Pair {
                    answer: text_cell(answers.as_ref(), row).map(str::to_owned),
                    references: references(&batch, row, reference, &path_of(file))?,
                };
                add(output, &batch, row, id, place, pair, rows)?;
            }
        }
    }
    Ok(())
}

/// Adds a row, unless it has no reference.
fn add(
    output: &OutputFiles,
    batch: &RecordBatch,
    row: usize,
    id: Option<&str>,
    place: Key,
    pair: Pair,
    rows: &mut HashMap<Key, Pair>,
) -> Result<(), EvalError> {
    if pair.references.is_empty() {
        return Ok(());
    }
    let path = || output.folder.path_of("");
    let key = match id {
        None => place,
        Some(name) => {
            let column = batch.column_by_name(name);
            let column = column.ok_or_else(|| missing(batch, name, " or integers", &path()))?;
            let show = || -> Result<String, ArrowError> {
                let options = FormatOptions::default();
                Ok(ArrayFormatter::try_new(column.as_ref(), &options)?.value(row).to_string())
            };
            let shown = show()
                .map_err(|error| EvalError::Damaged { path: path(), source: error.into() })?;
            (shown, 0)
        }
    };
    match rows.insert(key.clone(), pair) {
        None => Ok(()),
        Some(_) => Err(EvalError::Twice {
            path: path(),
            column: id.unwrap_or("place").to_owned(),
            id: key.0,
        }),
    }
}

fn references(
    batch: &RecordBatch,
    row: usize,
    name: &str,
    path: &str,
) -> Result<Vec<String>, EvalError> {
    let refuse = || missing(batch, name, " or text lists", path);
    let column = batch.column_by_name(name).ok_or_else(refuse)?;
    if column.is_null(row) {
        return Ok(Vec::new());
    }
    let texts = |values: &dyn Array, items: std::ops::Range<usize>| -> Vec<String> {
        items.filter_map(|item| text_cell(values, item)).map(str::to_owned).collect()
    };
    match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            Ok(texts(column.as_ref(), row..row + 1))
        }
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            Ok(texts(list.values().as_ref(), list.element_range(row)))
        }
        DataType::LargeList(_) => {
            let list = column.as_list::<i64>();
            Ok(texts(list.values().as_ref(), list.element_range(row)))
        }
        _ => Err(refuse()),
    }
}

fn missing(batch: &RecordBatch, column: &str, hint: &'static str, path: &str) -> EvalError {
    let schema = batch.schema();
    let names: Vec<String> =
        schema.fields().iter().map(|field| format!("`{}`", field.name())).collect();
    EvalError::Column {
        path: path.to_owned(),
        column: column.to_owned(),
        hint,
        available: names.join(", "),
    }
}

fn read(output: &OutputFiles, file: &CommittedFile) -> Result<Vec<RecordBatch>, EvalError> {
    let damaged =
        |source: Cause| EvalError::Damaged { path: output.folder.path_of(&file.name), source };
    let bytes =
        output.folder.read(&file.name)?.ok_or_else(|| damaged("the file is missing".into()))?;
    output.decode(file, bytes).map_err(|error| damaged(error.into()))
}
