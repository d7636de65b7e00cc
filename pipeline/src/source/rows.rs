//! Rows as a reader gives them: those that are sound, and what is wrong with the others.

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions},
    datatypes::SchemaRef,
};

use crate::excerpt::excerpt;

/// Rows that were read.
#[derive(Clone, Debug)]
pub struct ReadRows {
    /// The rows. One that is damaged has a place among them, and null for what cannot be known.
    pub rows: RecordBatch,
    /// The damaged ones, ascending, each once.
    pub damaged: Vec<Damaged>,
}

/// A row that is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Its place among the rows that were read together.
    pub row: usize,
    /// What is wrong with it, where.
    pub problem: String,
}

impl Damaged {
    /// Says what is wrong with a row, with no more of what it holds than a message may have.
    pub(super) fn new(row: usize, problem: &str) -> Self {
        Self { row, problem: excerpt(problem).into_owned() }
    }

    /// Names the line of a row.
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
    /// Puts columns of `n_rows` rows together. Of several problems of a row the first is kept.
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
            // A fault of a reader; no row is taken for another.
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
