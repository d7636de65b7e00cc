//! Retries of rejects: selects the rows, and merges the results with the remaining rejects.

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
    cause::Cause,
    ledger::{CommittedFile, LedgerEntry},
    table::{CODE_COLUMN, FLAGS_COLUMN, INLINE_CODE_COLUMN, ROW_COLUMN},
};

use crate::{
    base::store::ReadError, input::source::convert::convert, output::ledger::OutputFiles,
    run::stage::answer::no_flags,
};

/// The rejects to retry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryChoice {
    /// The reject codes; empty for all.
    pub codes: Vec<String>,
}

/// An error of retrying rejects.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetryError {
    /// A row of inline rejects could be in any of several parts.
    #[error("failed to retry rejects that are inline in several parts")]
    SeveralParts,
    /// Their file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Their file is damaged.
    #[error("failed to read the rejects in `{path}`")]
    Damaged {
        /// The file.
        path: String,
        /// The cause.
        source: Cause,
    },
}

/// Returns the row numbers of rejects within their source file.
pub(crate) fn row_numbers(rejects: &RecordBatch) -> Option<&UInt64Array> {
    rejects.column_by_name(ROW_COLUMN)?.as_primitive_opt::<UInt64Type>()
}

/// The rejects of a committed span.
#[derive(Clone, Debug)]
pub(crate) struct Rejects {
    /// The rows of the file that contains them: only rejects, or answers too.
    rows: RecordBatch,
    /// Their row numbers within the source file.
    numbers: UInt64Array,
    /// Whether they are inline among the answers.
    pub(crate) are_inline: bool,
}

impl Rejects {
    /// Reads the rejects of a span from its reject file, if any.
    pub(crate) fn read(
        output: &OutputFiles,
        entry: &LedgerEntry,
    ) -> Result<Option<Self>, RetryError> {
        let Some(file) = &entry.rejects_file else { return Ok(None) };
        let Some(rows) = read_rows(output, file)? else { return Ok(None) };
        let missing = || damaged(output, file, format!("missing column `{ROW_COLUMN}`"));
        let numbers = row_numbers(&rows).ok_or_else(missing)?.clone();
        let this = Self { rows, numbers, are_inline: false };
        this.codes().map_err(|error| damaged(output, file, error))?;
        Ok(Some(this))
    }

    /// Reads the inline rejects of a span, if any; `numbers` are the row numbers of the span within the
    /// source file.
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
            // Partitioned answers have lost their order.
            [file] if !file.name.contains('/') => file,
            [..] => return Err(RetryError::SeveralParts),
        };
        let Some(rows) = read_rows(output, file)? else { return Ok(None) };
        if rows.num_rows() != numbers.len() {
            let problem = format!("expected {} rows, got {}", numbers.len(), rows.num_rows());
            return Err(damaged(output, file, problem));
        }
        let this = Self { rows, numbers: numbers.into(), are_inline: true };
        this.codes().map_err(|error| damaged(output, file, error))?;
        Ok(Some(this))
    }

    /// Returns the code of each row; null for an answer.
    fn codes(&self) -> Result<&StringArray, ArrowError> {
        let name = if self.are_inline { INLINE_CODE_COLUMN } else { CODE_COLUMN };
        let column = self.rows.column_by_name(name).and_then(AsArray::as_string_opt::<i32>);
        column.ok_or_else(|| ArrowError::SchemaError(format!("missing column `{name}`")))
    }

    /// Returns the ascending row numbers of the chosen rejects.
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

    /// Returns the rows of the file after `retried` (ascending) were settled again, in source order, and the
    /// number of rejects by code. `retried_rows` are the rows rejected again or, for inline rejects, all
    /// retried rows.
    pub(crate) fn settle(
        &self,
        retried: &[u64],
        retried_rows: Option<&RecordBatch>,
    ) -> Result<(RecordBatch, BTreeMap<String, u64>), ArrowError> {
        let retried_set: HashSet<u64> = retried.iter().copied().collect();
        let is_kept = |number: &u64| !retried_set.contains(number);
        let numbers = self.numbers.values();
        let stays: BooleanArray = numbers.iter().map(|number| Some(is_kept(number))).collect();
        let schema = retried_rows.map_or_else(|| self.rows.schema(), RecordBatch::schema);
        let stay = filter_record_batch(&self.rows, &stays)?;
        let stay = as_of(&stay, &schema)?;
        let all = concat_batches(&schema, std::iter::once(&stay).chain(retried_rows))?;
        let kept_numbers: UInt64Array = numbers.iter().copied().filter(is_kept).collect();
        let retried_numbers = match retried_rows {
            Some(_) if self.are_inline => UInt64Array::from(retried.to_vec()),
            Some(rows) => row_numbers(rows)
                .ok_or_else(|| ArrowError::SchemaError(format!("no `{ROW_COLUMN}`")))?
                .clone(),
            None => UInt64Array::from(Vec::<u64>::new()),
        };
        let order = sort_to_indices(&concat(&[&kept_numbers, &retried_numbers])?, None, None)?;
        let this = Self { rows: take_record_batch(&all, &order)?, ..self.clone() };
        let mut counts = BTreeMap::new();
        for code in this.codes()?.iter().flatten() {
            *counts.entry(code.to_owned()).or_default() += 1;
        }
        Ok((this.rows, counts))
    }
}

/// Converts rows of a file to `schema`: columns may have been unified with others since, and parts of
/// versions without flags get an empty column.
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

/// Reads the rows of a file; `None` if it is empty.
fn read_rows(
    output: &OutputFiles,
    file: &CommittedFile,
) -> Result<Option<RecordBatch>, RetryError> {
    let bytes = output.folder.read(&file.name)?;
    let bytes = bytes.ok_or_else(|| damaged(output, file, "the file is missing"))?;
    let batches = output.decode(file, bytes);
    let batches = batches.map_err(|error| damaged(output, file, error))?;
    let Some(first) = batches.first() else { return Ok(None) };
    let rows = concat_batches(&first.schema(), &batches);
    rows.map(Some).map_err(|error| damaged(output, file, error))
}

fn damaged(output: &OutputFiles, file: &CommittedFile, source: impl Into<Cause>) -> RetryError {
    RetryError::Damaged { path: output.folder.path_of(&file.name), source: source.into() }
}
