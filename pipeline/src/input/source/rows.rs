//! Rows as returned by readers, with the problems of damaged ones.

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions},
    datatypes::SchemaRef,
};

use crate::base::excerpt::excerpt;

/// Rows read from a file.
#[derive(Clone, Debug)]
pub struct ReadRows {
    /// The rows. A damaged row is included, with nulls for unknown values.
    pub rows: RecordBatch,
    /// The damaged rows, ascending, each once.
    pub damaged: Vec<Damaged>,
}

/// A damaged row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Its index among the rows read together.
    pub row: usize,
    /// The problem and its location.
    pub problem: String,
}

impl Damaged {
    /// Records the problem of a row, truncating quoted content to the length of a message.
    pub(super) fn new(row: usize, problem: &str) -> Self {
        Self { row, problem: excerpt(problem).into_owned() }
    }

    /// Records the problem of a row with its line number.
    pub(super) fn at_line(row: usize, line: u64, problem: &str) -> Self {
        Self { row, problem: format!("line {line}: {}", excerpt(problem)) }
    }
}

impl From<RecordBatch> for ReadRows {
    fn from(rows: RecordBatch) -> Self {
        Self { rows, damaged: Vec::new() }
    }
}

impl ReadRows {
    /// Combines columns of `n_rows` rows. Only the first problem of a row is kept.
    pub(super) fn new(
        schema: SchemaRef,
        columns: Vec<ArrayRef>,
        n_rows: usize,
        mut damaged: Vec<Damaged>,
    ) -> Self {
        damaged.sort_by_key(|one| one.row);
        damaged.dedup_by_key(|one| one.row);
        let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
        let rows = RecordBatch::try_new_with_options(schema.clone(), columns, &options);
        match rows {
            Ok(rows) => Self { rows, damaged },
            // A bug of a reader; never mix up rows.
            Err(error) => {
                let all = |row| Damaged { row, problem: error.to_string() };
                let nulls = schema.fields().iter();
                let nulls =
                    nulls.map(|field| arrow::array::new_null_array(field.data_type(), n_rows));
                let rows =
                    RecordBatch::try_new_with_options(schema.clone(), nulls.collect(), &options)
                        .unwrap_or_else(|_| RecordBatch::new_empty(schema));
                Self { rows, damaged: (0..n_rows).map(all).collect() }
            }
        }
    }
}
