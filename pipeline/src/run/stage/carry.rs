//! The columns that are carried from the table to the answers: kept from the first read, or read again if
//! there was no memory to keep them.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, RecordBatch, UInt64Array, new_null_array},
    compute::{interleave, take_record_batch},
    datatypes::{FieldRef, Schema, SchemaRef},
    error::ArrowError,
};
use legenda_schemas::{cause::Cause, span::Span};

use super::{
    Carried,
    reread::{Found, Reread, RereadError},
};
use crate::{
    base::budget::Budget,
    input::source::{SourceFailed, convert::convert, reader::FileReader},
    run::plan::RunPlan,
};

impl Carried {
    /// Keeps `rows` if they fit the budget.
    pub(super) fn keep(rows: RecordBatch, budget: &Budget) -> Result<Option<Self>, ArrowError> {
        let column_bytes = |column: &ArrayRef| column.to_data().get_slice_memory_size();
        let bytes = rows.columns().iter().map(column_bytes).sum::<Result<usize, _>>()?;
        let Some(reservation) = budget.try_reserve(bytes as u64) else { return Ok(None) };
        if rows.num_columns() == 0 || rows.get_array_memory_size() <= 2 * bytes {
            return Ok(Some(Self { rows, reservation }));
        }
        // A slice would keep its whole batch alive.
        let all = UInt64Array::from_iter_values(0..rows.num_rows() as u64);
        Ok(Some(Self { rows: take_record_batch(&rows, &all)?, reservation }))
    }
}

/// Consecutive rows of a span that were read.
pub(super) struct RowsRead {
    /// The index of the first among the rows of the span that are read.
    pub(super) first: usize,
    pub(super) n_rows: usize,
    pub(super) carried: Option<Carried>,
}

/// Builds the carried columns of the rows of a span.
pub(super) struct Carrying<'a> {
    plan: &'a RunPlan,
    place: &'a Span,
    /// The rows of the span that are read, as positions within the row group.
    positions: &'a [usize],
    rows_read: Vec<&'a RowsRead>,
    bytes_max: u64,
    /// The file, if it was opened again.
    reader: Option<FileReader>,
}

impl<'a> Carrying<'a> {
    /// Prepares carrying; at most `bytes_max` are read again at a time.
    pub(super) fn new(
        plan: &'a RunPlan,
        place: &'a Span,
        positions: &'a [usize],
        rows_read: &'a [RowsRead],
        bytes_max: u64,
    ) -> Self {
        let mut rows_read: Vec<&RowsRead> = rows_read.iter().collect();
        rows_read.sort_by_key(|rows| rows.first);
        Self { plan, place, positions, rows_read, bytes_max, reader: None }
    }

    /// Returns the columns of as many of the first rows as fit in memory, and their number. Rows that
    /// cannot be read are null.
    pub(super) fn columns(
        &mut self,
        row_idxs: &[usize],
    ) -> Result<(Vec<ArrayRef>, usize), RereadError> {
        let fields = &self.plan.carried;
        if fields.is_empty() || row_idxs.is_empty() {
            return Ok((nulls(fields, 0), row_idxs.len()));
        }
        let kept: Option<Vec<&RecordBatch>> =
            self.rows_read.iter().map(|rows| Some(&rows.carried.as_ref()?.rows)).collect();
        match kept {
            Some(pieces) => Ok((self.join(&pieces, row_idxs)?, row_idxs.len())),
            None => self.read_again(row_idxs),
        }
    }

    /// Returns the piece that has a row and the index within it; one past the last piece if none has.
    fn find(&self, row_idx: usize) -> (usize, usize) {
        let after = self.rows_read.partition_point(|rows| rows.first <= row_idx);
        let piece = after.checked_sub(1).filter(|piece| {
            let rows = self.rows_read[*piece];
            row_idx - rows.first < rows.n_rows
        });
        piece.map_or((self.rows_read.len(), 0), |piece| {
            (piece, row_idx - self.rows_read[piece].first)
        })
    }

    fn join(
        &self,
        pieces: &[&RecordBatch],
        row_idxs: &[usize],
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let places: Vec<(usize, usize)> = row_idxs.iter().map(|row| self.find(*row)).collect();
        let join = |field: &FieldRef| {
            let null = new_null_array(field.data_type(), 1);
            let mut columns = Vec::with_capacity(pieces.len() + 1);
            for piece in pieces {
                columns.push(carried(piece, field)?);
            }
            columns.push(null);
            let columns: Vec<&dyn Array> = columns.iter().map(AsRef::as_ref).collect();
            interleave(&columns, &places)
        };
        self.plan.carried.iter().map(join).collect()
    }

    fn read_again(&mut self, row_idxs: &[usize]) -> Result<(Vec<ArrayRef>, usize), RereadError> {
        let path = &self.place.object.path;
        let failed = |source: Cause| SourceFailed { path: path.clone(), source };
        if self.reader.is_none() {
            let reader = self.plan.table.reader(&self.place.object);
            let reader = reader.map_err(|error| failed(error.into()))?;
            let reader = reader.filter(|reader| *reader.object() == self.place.object);
            let changed = || failed("the file has changed since it was planned".into());
            self.reader = Some(reader.ok_or_else(changed)?);
        }
        let fields = &self.plan.carried;
        let names: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
        let schema: SchemaRef = Arc::new(Schema::new(fields.clone()));
        let mut again = Reread {
            reader: self.reader.as_ref(),
            row_group: self.place.row_group,
            columns: Some(&names),
            schema: &schema,
            bytes_max: self.bytes_max,
        };
        let has_piece = |row: &&usize| self.find(**row).0 < self.rows_read.len();
        let there: Vec<usize> =
            row_idxs.iter().filter(has_piece).map(|row| self.positions[*row]).collect();
        let mut read = again.rows(&there).map_err(|error| failed(error.source))?;
        if read.found.first() == Some(&Found::LeftOut) {
            // It was read before together with other columns, so it fits in memory alone.
            again.bytes_max = u64::MAX;
            read = again.rows(&there[..1]).map_err(|error| failed(error.source))?;
        }
        let whole = read.found.iter().take_while(|found| **found == Found::Whole).count();
        if read.found.get(whole) == Some(&Found::Unreadable) {
            let row = self.place.file_row(there[whole]);
            let problem = format!("row {row} was readable before but no longer is");
            return Err(failed(problem.into()).into());
        }
        // Rows that were never read are between them or after the last.
        let mut next = 0;
        let mut places = Vec::with_capacity(row_idxs.len());
        for row in row_idxs {
            let is_there = has_piece(&row);
            if is_there && next == whole {
                break;
            }
            places.push(if is_there { (0, next) } else { (1, 0) });
            next += usize::from(is_there);
        }
        let join = |field: &FieldRef| {
            let column = carried(&read.rows, field)?;
            interleave(&[column.as_ref(), new_null_array(field.data_type(), 1).as_ref()], &places)
        };
        let columns = fields.iter().map(join).collect::<Result<_, ArrowError>>()?;
        Ok((columns, places.len()))
    }
}

/// Converts a column to the type it is carried as; a file that was completed when the others were
/// planned may have another type.
fn carried(rows: &RecordBatch, field: &FieldRef) -> Result<ArrayRef, ArrowError> {
    let (at, own) = rows
        .schema_ref()
        .column_with_name(field.name())
        .ok_or_else(|| ArrowError::SchemaError(format!("no column `{}`", field.name())))?;
    convert(rows.column(at), own, field.data_type())
}

fn nulls(fields: &[FieldRef], n_rows: usize) -> Vec<ArrayRef> {
    fields.iter().map(|field| new_null_array(field.data_type(), n_rows)).collect()
}
