//! Rejects that are tried again: which rows they are, and those that stay.

use std::collections::{BTreeMap, HashSet};

use arrow::{
    array::{AsArray, BooleanArray, RecordBatch, StringArray, UInt64Array},
    compute::{concat_batches, filter_record_batch, sort_to_indices, take_record_batch},
    datatypes::UInt64Type,
    error::ArrowError,
};
use legenda_schemas::{
    ledger::{CommittedFile, LedgerEntry},
    table::{CODE_COLUMN, ROW_COLUMN},
};

use crate::{ledger::OutputFiles, store::ReadError};

/// Which rejects are tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryChoice {
    /// Those with one of these codes; all of them when there are none.
    pub codes: Vec<String>,
}

/// Why the rejects of an output cannot be tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetryError {
    /// They are among the answers.
    #[error(
        "`output.rejects` of the job is `inline`, so its rejects are rows of its parts, which are not written twice: mend the rows and run the job with `--overwrite`"
    )]
    Inline,
    /// Their file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Their file is damaged.
    #[error("cannot read the rejects in `{path}`: {problem}; `legenda verify` tells what is wrong")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

/// Returns which rows of their file some rejects are.
pub(crate) fn row_numbers(rejects: &RecordBatch) -> Option<&UInt64Array> {
    rejects.column_by_name(ROW_COLUMN)?.as_primitive_opt::<UInt64Type>()
}

/// The rejects of a committed span.
#[derive(Clone, Debug)]
pub struct Rejects {
    rows: RecordBatch,
}

impl Rejects {
    /// Reads the rejects of a span, if it has any.
    pub(crate) fn read(
        output: &OutputFiles,
        entry: &LedgerEntry,
    ) -> Result<Option<Self>, RetryError> {
        let Some(file) = &entry.rejects_file else { return Ok(None) };
        let CommittedFile { name, .. } = file;
        let damaged =
            |problem: String| RetryError::Damaged { path: output.folder.path_of(name), problem };
        let bytes = output.folder.read(name)?.ok_or_else(|| damaged("it is gone".to_owned()))?;
        let batches = output.decode(file, bytes).map_err(|error| damaged(error.to_string()))?;
        let Some(first) = batches.first() else { return Ok(None) };
        let rows = concat_batches(&first.schema(), &batches)
            .map_err(|error| damaged(error.to_string()))?;
        let this = Self { rows };
        if this.row_numbers().is_none() || this.codes().is_none() {
            return Err(damaged(format!("it has no `{ROW_COLUMN}` and `{CODE_COLUMN}`")));
        }
        Ok(Some(this))
    }

    fn row_numbers(&self) -> Option<&UInt64Array> {
        row_numbers(&self.rows)
    }

    fn codes(&self) -> Option<&StringArray> {
        self.rows.column_by_name(CODE_COLUMN)?.as_string_opt::<i32>()
    }

    /// Returns the rows of the file that are chosen, ascending.
    pub(crate) fn chosen(&self, choice: &RetryChoice) -> Vec<u64> {
        let (Some(rows), Some(codes)) = (self.row_numbers(), self.codes()) else {
            return Vec::new();
        };
        let is_chosen = |code: Option<&str>| {
            choice.codes.is_empty()
                || code.is_some_and(|code| choice.codes.iter().any(|chosen| chosen == code))
        };
        let mut chosen: Vec<u64> = rows
            .values()
            .iter()
            .zip(codes)
            .filter(|(_, code)| is_chosen(*code))
            .map(|(row, _)| *row)
            .collect();
        chosen.sort_unstable();
        chosen
    }

    /// Returns the rejects that stay when `retried` rows are settled anew, the `again` rejected ones
    /// among them, in the order of the rows, and how many there are by code.
    pub(crate) fn settle(
        &self,
        retried: &HashSet<u64>,
        again: Option<&RecordBatch>,
    ) -> Result<(RecordBatch, BTreeMap<String, u64>), ArrowError> {
        let missing = || ArrowError::SchemaError(format!("no `{ROW_COLUMN}` or `{CODE_COLUMN}`"));
        let numbers = self.row_numbers().ok_or_else(missing)?;
        let stays: BooleanArray =
            numbers.values().iter().map(|row| Some(!retried.contains(row))).collect();
        let schema = again.map_or_else(|| self.rows.schema(), RecordBatch::schema);
        let stay = filter_record_batch(&self.rows, &stays)?;
        let stay = RecordBatch::try_new(schema.clone(), stay.columns().to_vec())?;
        let all = concat_batches(&schema, std::iter::once(&stay).chain(again))?;
        let numbers = all.column_by_name(ROW_COLUMN).ok_or_else(missing)?;
        let rows = take_record_batch(&all, &sort_to_indices(numbers, None, None)?)?;
        let this = Self { rows };
        let mut counts = BTreeMap::new();
        for code in this.codes().ok_or_else(missing)?.iter().flatten() {
            *counts.entry(code.to_owned()).or_default() += 1;
        }
        Ok((this.rows, counts))
    }
}
