//! The original rows of rejects, read once more, within a bound of memory.

use std::sync::Arc;

use arrow::{
    array::{RecordBatch, RecordBatchOptions, new_null_array},
    compute::concat_batches,
    datatypes::{FieldRef, Schema, SchemaRef},
};
use legenda_schemas::span::Span;

use crate::source::{
    reader::{BatchLimits, FileReader},
    text_bytes::check_texts,
};

/// Bytes that are read at a time.
const BATCH_BYTES: u64 = 4 << 20;

/// Original rows, one for each that was asked for.
pub(super) struct Originals {
    /// The rows; one that is not there is all null.
    pub(super) rows: RecordBatch,
    /// Whether a row is not there because it would take too much memory.
    pub(super) left_out: Vec<bool>,
}

/// Reads rows of a row group with every column, together at most `bytes_max`; a row that cannot be read
/// is all null, and a text that is not UTF-8 is null.
pub(super) fn original_rows(
    reader: Option<&FileReader>,
    place: &Span,
    positions: &[usize],
    schema: &SchemaRef,
    bytes_max: u64,
) -> Originals {
    let nullable: SchemaRef = Arc::new(Schema::new(
        schema
            .fields()
            .iter()
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect::<Vec<_>>(),
    ));
    let null_rows = |n_rows: usize| {
        let null = |field: &FieldRef| new_null_array(field.data_type(), n_rows);
        let columns = nullable.fields().iter().map(null).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
        RecordBatch::try_new_with_options(Arc::clone(&nullable), columns, &options)
            .unwrap_or_else(|_| RecordBatch::new_empty(Arc::clone(&nullable)))
    };
    let unread = || Read { batches: Vec::new(), is_full: false, is_not_utf8: false };
    let (mut read, mut refused) = (unread(), vec![false; positions.len()]);
    if let Some(reader) = reader {
        let bounds = reader.row_bounds(place.row_group, None, bytes_max);
        refused = positions.iter().map(|row| bounds.refused_at(*row).is_some()).collect();
        let kept = positions.iter().zip(&refused).filter(|(_, refused)| !**refused);
        let ranges: Vec<_> = kept.map(|(&row, _)| row..row + 1).collect();
        let rows_max = positions.len().max(1);
        let limits = BatchLimits { step_rows: rows_max, rows_max, bytes_max: BATCH_BYTES };
        let asked = Asked {
            row_group: place.row_group,
            ranges: &ranges,
            limits: limits.for_rows_of(bounds.row_bytes_max),
            bytes_max,
            schema: &nullable,
        };
        read = asked.read(reader);
        if read.is_not_utf8
            && let Ok(as_bytes) = reader.texts_as_bytes()
        {
            read = asked.read(&as_bytes);
        }
    }
    let null_row = null_rows(1);
    let mut rows = read
        .batches
        .iter()
        .flat_map(|batch| (0..batch.num_rows()).map(move |row| batch.slice(row, 1)));
    let mut left_out = Vec::with_capacity(positions.len());
    let pieces: Vec<RecordBatch> = refused
        .into_iter()
        .map(|is_refused| {
            let row = if is_refused { None } else { rows.next() };
            left_out.push(row.is_none() && (is_refused || read.is_full));
            row.unwrap_or_else(|| null_row.clone())
        })
        .collect();
    let rows = concat_batches(&nullable, &pieces).unwrap_or_else(|_| null_rows(positions.len()));
    Originals { rows, left_out }
}

struct Asked<'a> {
    row_group: usize,
    ranges: &'a [std::ops::Range<usize>],
    limits: BatchLimits,
    bytes_max: u64,
    schema: &'a SchemaRef,
}

/// The first of the rows that were asked for.
struct Read {
    batches: Vec<RecordBatch>,
    /// Whether there was no room for the others.
    is_full: bool,
    /// Whether text that is not UTF-8 was in the way.
    is_not_utf8: bool,
}

impl Asked<'_> {
    fn read(&self, reader: &FileReader) -> Read {
        let mut read = Read { batches: Vec::new(), is_full: false, is_not_utf8: false };
        if self.ranges.is_empty() {
            return read;
        }
        let batches = match reader.read_within(self.row_group, self.ranges, None, self.limits) {
            Ok(batches) => batches,
            Err(error) => return Read { is_not_utf8: error.is_not_utf8(), ..read },
        };
        let mut bytes = 0;
        for batch in batches {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    read.is_not_utf8 = error.is_not_utf8();
                    break;
                }
            };
            let Ok(checked) = check_texts(&batch.rows, self.schema) else { break };
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
