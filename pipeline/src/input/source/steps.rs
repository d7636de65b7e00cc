//! Byte-bounded batches from a reader that only counts rows.

use arrow::{array::RecordBatch, compute::concat_batches, error::ArrowError};
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

/// The size limits of batches.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Rows read in one step; their size is only known afterwards.
    pub step_rows: usize,
    /// The maximum rows of a batch.
    pub rows_max: usize,
    /// The maximum bytes of a batch of more than one step.
    pub bytes_max: u64,
}

impl BatchLimits {
    /// Returns limits on rows only.
    #[must_use]
    pub fn from_rows_max(rows_max: usize) -> Self {
        Self { step_rows: rows_max, rows_max, bytes_max: u64::MAX }
    }

    /// Returns the limits with steps small enough that one does not exceed a batch, for rows of at most
    /// `row_bytes_max`.
    #[must_use]
    pub fn for_rows_of(self, row_bytes_max: u64) -> Self {
        let n_rows = usize::try_from(self.bytes_max / row_bytes_max.max(1)).unwrap_or(usize::MAX);
        Self { step_rows: n_rows.clamp(1, self.rows_max), ..self }
    }
}

/// Reads in small steps and combines as many as fit in a batch.
pub(super) struct Steps {
    reader: ParquetRecordBatchReader,
    limits: BatchLimits,
    /// A step that did not fit in the last batch.
    next: Option<Result<RecordBatch, ArrowError>>,
}

impl Steps {
    pub(super) fn new(reader: ParquetRecordBatchReader, limits: BatchLimits) -> Self {
        Self { reader, limits, next: None }
    }

    /// Returns the next batch; rows read before an error are returned before it.
    pub(super) fn next(&mut self) -> Option<Result<RecordBatch, ArrowError>> {
        let (mut steps, mut n_rows, mut n_bytes) = (Vec::new(), 0, 0_u64);
        while n_rows < self.limits.rows_max && n_bytes < self.limits.bytes_max {
            let Some(step) = self.next.take().or_else(|| self.reader.next()) else { break };
            let fits = step.as_ref().is_ok_and(|step| {
                n_rows + step.num_rows() <= self.limits.rows_max
                    && n_bytes.saturating_add(size(step)) <= self.limits.bytes_max
            });
            if !steps.is_empty() && !fits {
                self.next = Some(step);
                break;
            }
            match step {
                Ok(step) => {
                    n_rows += step.num_rows();
                    n_bytes = n_bytes.saturating_add(size(&step));
                    steps.push(step);
                }
                Err(error) => return Some(Err(error)),
            }
        }
        match steps.as_slice() {
            [] => None,
            [_] => steps.pop().map(Ok),
            [first, ..] => Some(concat_batches(&first.schema(), &steps)),
        }
    }
}

/// Returns the bytes of the rows of a batch, which may be a slice of larger buffers.
pub(super) fn size(batch: &RecordBatch) -> u64 {
    let column_bytes = |column: &arrow::array::ArrayRef| {
        let bytes = column.to_data().get_slice_memory_size();
        bytes.unwrap_or_else(|_| column.get_array_memory_size()) as u64
    };
    batch.columns().iter().map(column_bytes).sum()
}
