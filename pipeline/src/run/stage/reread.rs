//! Reads rows a second time when their span is committed, within a memory bound.

use std::sync::Arc;

use arrow::{
    array::{RecordBatch, RecordBatchOptions, new_null_array},
    compute::concat_batches,
    datatypes::{FieldRef, Schema, SchemaRef},
    error::ArrowError,
};

use super::scan::contiguous;
use crate::input::source::{
    SourceFailed,
    reader::{BatchLimits, FileReader, ReadError},
    text_bytes::check_texts,
};

/// The bytes read at a time.
const BATCH_BYTES: u64 = 4 << 20;

/// The reason rows cannot be combined.
#[derive(Debug, thiserror::Error)]
pub(super) enum RereadError {
    /// The source cannot be read again.
    #[error(transparent)]
    Source(#[from] SourceFailed),
    /// The rows that were read do not fit together.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// A request to read rows of a row group again.
pub(super) struct Reread<'a> {
    /// The file; `None` if it has changed.
    pub(super) reader: Option<&'a FileReader>,
    /// The row group.
    pub(super) row_group: usize,
    /// The columns; `None` for all.
    pub(super) columns: Option<&'a [String]>,
    /// The schema of the columns; any field of the result may be null.
    pub(super) schema: &'a SchemaRef,
    /// The maximum bytes of all rows together.
    pub(super) bytes_max: u64,
}

/// The requested rows, in order.
pub(super) struct RereadRows {
    /// The rows; missing rows are all null, and texts that are not UTF-8 are null.
    pub(super) rows: RecordBatch,
    /// The status of each row.
    pub(super) found: Vec<Found>,
}

/// The status of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The row was read.
    Whole,
    /// The row and those before it exceed the memory bound.
    LeftOut,
    /// The row cannot be read.
    Unreadable,
}

impl Reread<'_> {
    /// Reads the rows at the ascending `positions` of the row group.
    ///
    /// # Errors
    ///
    /// [`ReadError`] on a transient error of the disk or store.
    pub(super) fn rows(&self, positions: &[usize]) -> Result<RereadRows, ReadError> {
        let fields = self.schema.fields().iter();
        let nullable: Vec<_> =
            fields.map(|field| field.as_ref().clone().with_nullable(true)).collect();
        let nullable: SchemaRef = Arc::new(Schema::new(nullable));
        let (mut read, mut refused) = (Read::default(), vec![false; positions.len()]);
        if let Some(reader) = self.reader {
            let bounds = reader.row_bounds(self.row_group, self.columns, self.bytes_max);
            refused = positions.iter().map(|row| bounds.refused_at(*row).is_some()).collect();
            let kept = positions.iter().zip(&refused).filter(|(_, refused)| !**refused);
            let ranges = contiguous(kept.map(|(&row, _)| row));
            let rows_max = positions.len().max(1);
            let limits = BatchLimits { step_rows: rows_max, rows_max, bytes_max: BATCH_BYTES };
            let limits = limits.for_rows_of(bounds.row_bytes_max);
            read = self.read(reader, &ranges, limits, &nullable);
            if read.problem.as_ref().is_some_and(ReadError::is_not_utf8)
                && let Ok(as_bytes) = reader.texts_as_bytes()
            {
                read = self.read(&as_bytes, &ranges, limits, &nullable);
            }
        }
        if let Some(problem) = read.problem.take_if(|problem| problem.may_pass) {
            return Err(problem);
        }
        let null_row = null_rows(&nullable, 1);
        let mut rows = read
            .batches
            .iter()
            .flat_map(|batch| (0..batch.num_rows()).map(move |row| batch.slice(row, 1)));
        let mut found = Vec::with_capacity(positions.len());
        let pieces: Vec<RecordBatch> = refused
            .into_iter()
            .map(|is_refused| {
                let row = if is_refused { None } else { rows.next() };
                found.push(match row {
                    Some(_) => Found::Whole,
                    None if is_refused || read.is_full => Found::LeftOut,
                    None => Found::Unreadable,
                });
                row.unwrap_or_else(|| null_row.clone())
            })
            .collect();
        let rows = concat_batches(&nullable, &pieces).unwrap_or_else(|error| {
            tracing::warn!(%error, "failed to combine reread rows");
            found.fill(Found::Unreadable);
            null_rows(&nullable, positions.len())
        });
        Ok(RereadRows { rows, found })
    }

    fn read(
        &self,
        reader: &FileReader,
        ranges: &[std::ops::Range<usize>],
        limits: BatchLimits,
        schema: &SchemaRef,
    ) -> Read {
        let mut read = Read::default();
        if ranges.is_empty() {
            return read;
        }
        let batches = match reader.read_within(self.row_group, ranges, self.columns, limits) {
            Ok(batches) => batches,
            Err(problem) => return Read { problem: Some(problem), ..read },
        };
        let mut bytes = 0;
        for batch in batches {
            let batch = match batch {
                Ok(batch) => batch,
                Err(problem) => {
                    read.problem = Some(problem);
                    break;
                }
            };
            let Ok(checked) = check_texts(&batch.rows, schema) else { break };
            bytes += checked.rows.get_array_memory_size() as u64;
            if bytes > self.bytes_max {
                read.is_full = true;
                break;
            }
            read.batches.push(checked.rows);
        }
        read
    }
}

/// The first of the requested rows.
#[derive(Default)]
struct Read {
    batches: Vec<RecordBatch>,
    /// Whether the others did not fit.
    is_full: bool,
    /// The error that stopped reading.
    problem: Option<ReadError>,
}

fn null_rows(schema: &SchemaRef, n_rows: usize) -> RecordBatch {
    let null = |field: &FieldRef| new_null_array(field.data_type(), n_rows);
    let columns = schema.fields().iter().map(null).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .unwrap_or_else(|_| RecordBatch::new_empty(Arc::clone(schema)))
}
