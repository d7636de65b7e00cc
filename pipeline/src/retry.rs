//! Rejects that are tried again: which rows they are, and those that stay.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use arrow::{
    array::{
        AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringArray, UInt64Array,
        new_null_array,
    },
    compute::{concat, concat_batches, filter_record_batch, sort_to_indices, take_record_batch},
    datatypes::{SchemaRef, UInt64Type},
    error::ArrowError,
};
use legenda_schemas::{
    ledger::{CommittedFile, LedgerEntry},
    table::{CODE_COLUMN, FLAGS_COLUMN, INLINE_CODE_COLUMN, ROW_COLUMN},
};

use crate::{
    ledger::OutputFiles, source::convert::convert, stage::answer::no_flags, store::ReadError,
};

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
    /// They stand among answers in parts of which one row of the source may be in any.
    #[error(
        "rejects among the answers of several parts cannot be tried again: mend the rows and run the job with `--overwrite`"
    )]
    SeveralParts,
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
    /// The rows of the file that has them: rejects alone, or answers too.
    rows: RecordBatch,
    /// Which rows of the file of the source they are.
    numbers: UInt64Array,
    /// Whether they stand among the answers.
    pub(crate) are_inline: bool,
}

impl Rejects {
    /// Reads the rejects of a span that has a file of them, if it has any.
    pub(crate) fn read(
        output: &OutputFiles,
        entry: &LedgerEntry,
    ) -> Result<Option<Self>, RetryError> {
        let Some(file) = &entry.rejects_file else { return Ok(None) };
        let Some(rows) = read_rows(output, file)? else { return Ok(None) };
        let missing = || damaged(output, file, format!("it has no `{ROW_COLUMN}`"));
        let numbers = row_numbers(&rows).ok_or_else(missing)?.clone();
        let this = Self { rows, numbers, are_inline: false };
        this.codes().map_err(|error| damaged(output, file, error.to_string()))?;
        Ok(Some(this))
    }

    /// Reads the rejects of a span that stand among its answers, if it has any; `numbers` are the rows
    /// of the file of the source that the span has read.
    pub(crate) fn read_inline(
        output: &OutputFiles,
        entry: &LedgerEntry,
        numbers: Vec<u64>,
    ) -> Result<Option<Self>, RetryError> {
        if entry.rejects.is_empty() {
            return Ok(None);
        }
        let file = match entry.parts.as_slice() {
            [] => return Ok(None),
            // Answers in folders have lost their order.
            [file] if !file.name.contains('/') => file,
            [..] => return Err(RetryError::SeveralParts),
        };
        let Some(rows) = read_rows(output, file)? else { return Ok(None) };
        if rows.num_rows() != numbers.len() {
            let problem = format!("it has {} rows of {}", rows.num_rows(), numbers.len());
            return Err(damaged(output, file, problem));
        }
        let this = Self { rows, numbers: numbers.into(), are_inline: true };
        this.codes().map_err(|error| damaged(output, file, error.to_string()))?;
        Ok(Some(this))
    }

    /// Returns the code of each row; null of an answer.
    fn codes(&self) -> Result<&StringArray, ArrowError> {
        let name = if self.are_inline { INLINE_CODE_COLUMN } else { CODE_COLUMN };
        let column = self.rows.column_by_name(name).and_then(AsArray::as_string_opt::<i32>);
        column.ok_or_else(|| ArrowError::SchemaError(format!("it has no `{name}`")))
    }

    /// Returns the rows of the file of the source that are chosen, ascending.
    pub(crate) fn chosen(&self, choice: &RetryChoice) -> Vec<u64> {
        let Ok(codes) = self.codes() else { return Vec::new() };
        let is_chosen = |code: &str| {
            choice.codes.is_empty() || choice.codes.iter().any(|chosen| chosen == code)
        };
        let mut chosen: Vec<u64> = self
            .numbers
            .values()
            .iter()
            .zip(codes)
            .filter(|(_, code)| code.is_some_and(is_chosen))
            .map(|(row, _)| *row)
            .collect();
        chosen.sort_unstable();
        chosen
    }

    /// Returns the rows of the file when `retried` rows, ascending, are settled anew, in the order of
    /// the source, and how many rejects there are by code. `again` are those rejected again, or, where
    /// rejects stand among answers, all that were retried.
    pub(crate) fn settle(
        &self,
        retried: &[u64],
        again: Option<&RecordBatch>,
    ) -> Result<(RecordBatch, BTreeMap<String, u64>), ArrowError> {
        let anew: HashSet<u64> = retried.iter().copied().collect();
        let is_kept = |number: &u64| !anew.contains(number);
        let numbers = self.numbers.values();
        let stays: BooleanArray = numbers.iter().map(|number| Some(is_kept(number))).collect();
        let schema = again.map_or_else(|| self.rows.schema(), RecordBatch::schema);
        let stay = filter_record_batch(&self.rows, &stays)?;
        let stay = as_of(&stay, &schema)?;
        let all = concat_batches(&schema, std::iter::once(&stay).chain(again))?;
        let of_stay: UInt64Array = numbers.iter().copied().filter(is_kept).collect();
        let of_again = match again {
            Some(_) if self.are_inline => UInt64Array::from(retried.to_vec()),
            Some(rows) => row_numbers(rows)
                .ok_or_else(|| ArrowError::SchemaError(format!("no `{ROW_COLUMN}`")))?
                .clone(),
            None => UInt64Array::from(Vec::<u64>::new()),
        };
        let order = sort_to_indices(&concat(&[&of_stay, &of_again])?, None, None)?;
        let this = Self { rows: take_record_batch(&all, &order)?, ..self.clone() };
        let mut counts = BTreeMap::new();
        for code in this.codes()?.iter().flatten() {
            *counts.entry(code.to_owned()).or_default() += 1;
        }
        Ok((this.rows, counts))
    }
}

/// Returns rows of a file as rows of `schema`: columns may have been unified with others since, and parts
/// of versions before the column of flags get an empty one.
fn as_of(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = schema.fields().iter().map(|field| {
        match rows.schema_ref().column_with_name(field.name()) {
            Some((at, own)) => convert(rows.column(at), own, field.data_type()),
            None if field.name() == FLAGS_COLUMN => Ok(no_flags(rows.num_rows())),
            None => Ok(new_null_array(field.data_type(), rows.num_rows())),
        }
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// Reads the rows of a file, if it has any.
fn read_rows(
    output: &OutputFiles,
    file: &CommittedFile,
) -> Result<Option<RecordBatch>, RetryError> {
    let bytes = output.folder.read(&file.name)?;
    let bytes = bytes.ok_or_else(|| damaged(output, file, "it is gone".to_owned()))?;
    let batches = output.decode(file, bytes);
    let batches = batches.map_err(|error| damaged(output, file, error.to_string()))?;
    let Some(first) = batches.first() else { return Ok(None) };
    let rows = concat_batches(&first.schema(), &batches);
    rows.map(Some).map_err(|error| damaged(output, file, error.to_string()))
}

fn damaged(output: &OutputFiles, file: &CommittedFile, problem: String) -> RetryError {
    RetryError::Damaged { path: output.folder.path_of(&file.name), problem }
}
