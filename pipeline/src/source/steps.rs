//! Batches that are bounded in bytes, of a reader that counts rows alone.

use arrow::{array::RecordBatch, compute::concat_batches, error::ArrowError};
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

/// How large batches become.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Rows that are read in one go: what they take is known when they are there.
    pub step_rows: usize,
    /// The most rows of a batch.
    pub rows_max: usize,
    /// The most bytes of a batch of more than one step.
    pub bytes_max: u64,
}

impl BatchLimits {
    /// Limits of rows alone.
    #[must_use]
    pub fn of_rows(rows_max: usize) -> Self {
        Self { step_rows: rows_max, rows_max, bytes_max: u64::MAX }
    }

    /// Returns the limits with steps of so few rows that one is no larger than a batch, where a row has
    /// at most `row_bytes_max`.
    #[must_use]
    pub fn for_rows_of(self, row_bytes_max: u64) -> Self {
        let n_rows = usize::try_from(self.bytes_max / row_bytes_max.max(1)).unwrap_or(usize::MAX);
        Self { step_rows: n_rows.clamp(1, self.rows_max), ..self }
    }
}

/// Reads in steps of a few rows, and puts as many of them together as a batch may hold.
pub(super) struct Steps {
    reader: ParquetRecordBatchReader,
    limits: BatchLimits,
    /// A step that was one too many for the last batch.
    next: Option<Result<RecordBatch, ArrowError>>,
}

impl Steps {
    pub(super) fn new(reader: ParquetRecordBatchReader, limits: BatchLimits) -> Self {
        Self { reader, limits, next: None }
    }

    /// Returns the next batch; what was read before a failure comes before it.
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
    let of_column = |column: &arrow::array::ArrayRef| {
        let bytes = column.to_data().get_slice_memory_size();
        bytes.unwrap_or_else(|_| column.get_array_memory_size()) as u64
    };
    batch.columns().iter().map(of_column).sum()
}
