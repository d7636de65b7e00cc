//! The rows of one committed span in input order, answers and rejects together.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, UInt64Array,
        new_null_array,
    },
    compute::{
        CastOptions, cast_with_options, concat_batches, filter_record_batch, take_record_batch,
    },
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use legenda_schemas::{
    cause::Cause,
    ledger::{CommittedFile, LedgerEntry},
    table::{
        CODE_COLUMN, FLAGS_COLUMN, INLINE_CODE_COLUMN, INLINE_MESSAGE_COLUMN, MESSAGE_COLUMN,
        RESERVED_PREFIX, ROW_COLUMN, STATUS_COLUMN,
    },
};

use super::ExportError;
use crate::{
    input::source::column::holds_bytes,
    output::ledger::{OutputFiles, sha256},
    run::{retry::row_numbers, stage::answer::no_flags},
};

/// The value of `legenda_status` of a reject.
const REJECTED: &str = "rejected";

/// The columns of exported rows, and whether rejects are among them.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) schema: SchemaRef,
    pub(super) has_rejects: bool,
}

impl Shape {
    /// Finds the columns of the answers of `entries`; with rejects, also their code and message. `None` if no
    /// row is to be exported.
    pub(super) fn find(
        output: &OutputFiles,
        entries: &[LedgerEntry],
        has_rejects: bool,
    ) -> Result<Option<Self>, ExportError> {
        let parts = entries.iter().flat_map(|entry| &entry.parts);
        let rejects = entries.iter().filter(|_| has_rejects).flat_map(|entry| &entry.rejects_file);
        let Some(found) = parts.chain(rejects).next() else { return Ok(None) };
        let Some(first) = read(output, found)?.into_iter().next() else { return Ok(None) };
        let schema = first.schema();
        let is_reject = schema.field_with_name(CODE_COLUMN).is_ok();
        let is_kept = |field: &&Arc<Field>| match field.name().as_str() {
            INLINE_CODE_COLUMN | INLINE_MESSAGE_COLUMN => false,
            name if is_reject => {
                !name.starts_with(RESERVED_PREFIX) && !holds_bytes(field.data_type())
            }
            _ => true,
        };
        let mut fields: Vec<Field> = schema
            .fields()
            .iter()
            .filter(is_kept)
            .map(|field| {
                let data_type = decoded_type(field.data_type());
                let is_nullable = field.is_nullable() || has_rejects;
                Field::new(field.name(), data_type, is_nullable)
            })
            .collect();
        if is_reject {
            fields.push(Field::new(STATUS_COLUMN, DataType::Utf8, true));
        }
        if has_rejects {
            fields.push(Field::new(INLINE_CODE_COLUMN, DataType::Utf8, true));
            fields.push(Field::new(INLINE_MESSAGE_COLUMN, DataType::Utf8, true));
        }
        let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
        Ok(Some(Self { schema: Arc::new(schema), has_rejects }))
    }

    /// Reads the rows of a span in input order. Answers of a retry follow the others, unless the answers are
    /// partitioned, because parts do not say which rows they answer.
    pub(super) fn rows(
        &self,
        output: &OutputFiles,
        entry: &LedgerEntry,
    ) -> Result<RecordBatch, ExportError> {
        let entry = current(output, entry)?;
        let path = || output.folder.path_of("");
        let damaged =
            |error: ArrowError| ExportError::Damaged { path: path(), source: error.into() };
        let mut batches = Vec::new();
        let mut numbers: Option<Vec<u64>> = Some(Vec::new());
        for part in &entry.parts {
            for batch in read(output, part)? {
                match (row_numbers(&batch), &mut numbers) {
                    (Some(found), Some(numbers)) => numbers.extend(found.values()),
                    _ => numbers = None,
                }
                batches.push(self.fit(&batch, || output.folder.path_of(&part.name))?);
            }
        }
        let mut rejects = Vec::new();
        let mut rejected: Vec<u64> = Vec::new();
        for file in entry.rejects_file.iter().filter(|_| self.has_rejects) {
            for batch in read(output, file)? {
                rejected.extend(row_numbers(&batch).into_iter().flat_map(|rows| rows.values()));
                rejects.push(self.fit_rejects(&batch).map_err(damaged)?);
            }
        }
        let answered = concat_batches(&self.schema, &batches).map_err(damaged)?;
        let numbers = numbers.filter(|numbers| numbers.len() == answered.num_rows());
        let numbers = numbers.or_else(|| places(entry, &rejected, answered.num_rows()));
        let rows = concat_batches(&self.schema, std::iter::once(&answered).chain(&rejects));
        let rows = rows.map_err(damaged)?;
        let rows = match numbers {
            Some(mut numbers) if answered.num_rows() + rejected.len() == rows.num_rows() => {
                numbers.extend(&rejected);
                let mut order: Vec<u64> = (0..rows.num_rows() as u64).collect();
                order
                    .sort_by_key(|row| usize::try_from(*row).ok().and_then(|row| numbers.get(row)));
                take_record_batch(&rows, &UInt64Array::from(order)).map_err(damaged)?
            }
            _ => rows,
        };
        if self.has_rejects { Ok(rows) } else { without_rejects(&rows).map_err(damaged) }
    }

    /// Converts the rows of a part to the columns of the export.
    fn fit(
        &self,
        batch: &RecordBatch,
        path: impl Fn() -> String,
    ) -> Result<RecordBatch, ExportError> {
        let schema = batch.schema();
        let is_new = |field: &&Arc<Field>| {
            let name = field.name().as_str();
            self.schema.field_with_name(name).is_err()
                && ![INLINE_CODE_COLUMN, INLINE_MESSAGE_COLUMN].contains(&name)
        };
        if let Some(field) = schema.fields().iter().find(is_new) {
            return Err(ExportError::Differs { path: path(), column: field.name().clone() });
        }
        let column = |field: &Arc<Field>| match batch.column_by_name(field.name()) {
            Some(column) => decoded(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        };
        let columns: Result<Vec<_>, _> = self.schema.fields().iter().map(column).collect();
        let rows = columns.and_then(|columns| RecordBatch::try_new(self.schema.clone(), columns));
        rows.map_err(|error| ExportError::Damaged { path: path(), source: error.into() })
    }

    /// Converts rejects to the columns of the export.
    fn fit_rejects(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let n_rows = batch.num_rows();
        let column = |field: &Arc<Field>| -> Result<ArrayRef, ArrowError> {
            let name = match field.name().as_str() {
                STATUS_COLUMN => {
                    return Ok(Arc::new(StringArray::from_iter_values(vec![REJECTED; n_rows])));
                }
                FLAGS_COLUMN => return Ok(no_flags(n_rows)),
                INLINE_CODE_COLUMN => CODE_COLUMN,
                INLINE_MESSAGE_COLUMN => MESSAGE_COLUMN,
                ROW_COLUMN => ROW_COLUMN,
                name if name.starts_with(RESERVED_PREFIX) => "",
                name => name,
            };
            match batch.column_by_name(name) {
                Some(column) => decoded(column, field.data_type()),
                None => Ok(new_null_array(field.data_type(), n_rows)),
            }
        };
        let columns = self.schema.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(self.schema.clone(), columns)
    }
}

/// Returns the entry that is valid: while a retry rewrites a part, the earlier one until the part is written.
fn current<'a>(
    output: &OutputFiles,
    entry: &'a LedgerEntry,
) -> Result<&'a LedgerEntry, ExportError> {
    let (Some(before), [part]) = (&entry.before, entry.parts.as_slice()) else { return Ok(entry) };
    let is_written =
        output.folder.read(&part.name)?.is_some_and(|bytes| sha256(&bytes) == part.sha256);
    Ok(if is_written { entry } else { before })
}

/// Returns the row number of each answer, if the answers are those of all rows that are not `rejected`.
fn places(entry: &LedgerEntry, rejected: &[u64], n_answers: usize) -> Option<Vec<u64>> {
    let n_rows = entry.span.n_rows as u64;
    if entry.retries > 0 || entry.rows_in != n_rows {
        return None;
    }
    let first = entry.span.file_row_start;
    let rejected: HashSet<u64> = rejected.iter().copied().collect();
    let numbers = (first..first + n_rows).filter(|row| !rejected.contains(row));
    Some(numbers.collect()).filter(|numbers: &Vec<u64>| numbers.len() == n_answers)
}

/// Removes inline rejects.
fn without_rejects(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let status = rows.column_by_name(STATUS_COLUMN);
    let Some(status) = status.and_then(|status| status.as_string_opt::<i32>()) else {
        return Ok(rows.clone());
    };
    if status.iter().all(|status| status != Some(REJECTED)) {
        return Ok(rows.clone());
    }
    let kept: BooleanArray = status.iter().map(|status| Some(status != Some(REJECTED))).collect();
    filter_record_batch(rows, &kept)
}

/// Returns the type without a dictionary: the parts of an output have dictionaries of their own.
fn decoded_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => decoded_type(values),
        other => other.clone(),
    }
}

fn decoded(column: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    if column.data_type() == data_type {
        return Ok(Arc::clone(column));
    }
    cast_with_options(column, data_type, &CastOptions { safe: false, ..CastOptions::default() })
}

/// Reads a committed file.
fn read(output: &OutputFiles, file: &CommittedFile) -> Result<Vec<RecordBatch>, ExportError> {
    let path = || output.folder.path_of(&file.name);
    let damaged = |source: Cause| ExportError::Damaged { path: path(), source };
    let bytes = output.folder.read(&file.name)?;
    let bytes = bytes.ok_or_else(|| damaged("the file is missing".into()))?;
    output.decode(file, bytes).map_err(|error| damaged(error.into()))
}
