//! Reads the outstanding spans, batch by batch, as fast as the next stage takes them.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tokio::{runtime::Handle, sync::Semaphore};

use super::{Outcome, Outcomes, OutstandingSpan, Reject, RowKey, ScannedBatch, Stage};
use crate::{
    budget::{ByteSender, Disconnected},
    plan::RunPlan,
    run::Stop,
    source::{
        SourceError, SourceFailed,
        table::{FileReader, ReadError},
    },
};

/// Bytes of a batch that are aimed at: large enough that the reader's fixed costs do not show,
/// small enough that a batch of large images does not hold up the next stages.
const BATCH_BYTES: u64 = 4 << 20;
/// The most rows of a batch.
const BATCH_ROWS_MAX: u64 = 256;
/// The most spans that may be begun and not yet committed: bounds the carried columns held.
pub const OPEN_SPANS_MAX: usize = 64;

/// The scan of a run; blocks its thread.
pub struct Scan<'a> {
    /// The run.
    pub plan: &'a RunPlan,
    /// What is to be done, in input order.
    pub spans: &'a [OutstandingSpan],
    /// The way on.
    pub batches: ByteSender<ScannedBatch>,
    /// The way to `collect`.
    pub outcomes: Outcomes,
    /// Asks the scan to begin no further span.
    pub stop: &'a Stop,
    /// Waits on this runtime.
    pub runtime: Handle,
}

impl Scan<'_> {
    /// Reads every outstanding span, unless asked to stop.
    ///
    /// Rows that are damaged are rejected; the scan goes on with the next span. A disk or store that
    /// fails ends the run.
    ///
    /// # Errors
    ///
    /// [`Disconnected`] when a later stage has failed; its own error tells why.
    pub fn run(&self) -> Result<(), Disconnected> {
        let permits = Arc::new(Semaphore::new(OPEN_SPANS_MAX));
        let mut start = 0;
        let mut reader = None;
        while start < self.spans.len() && !self.stop.is_requested() {
            // Spans of one row group are read in one go, so that none of its pages is read twice.
            let head = &self.spans[start].span;
            let n_spans = self.spans[start..]
                .iter()
                .take_while(|next| {
                    next.span.object == head.object && next.span.row_group == head.row_group
                })
                .count();
            self.read_row_group(start..start + n_spans, &permits, &mut reader)?;
            start += n_spans;
        }
        Ok(())
    }

    fn read_row_group(
        &self,
        span_idxs: std::ops::Range<usize>,
        permits: &Arc<Semaphore>,
        reader: &mut Option<FileReader>,
    ) -> Result<(), Disconnected> {
        let mut next = span_idxs.start;
        let mut alone = false;
        while next < span_idxs.end && !self.stop.is_requested() {
            let end = if alone { next + 1 } else { span_idxs.end };
            (next, alone) = match self.read_spans(next..end, permits, reader)? {
                None => (end, false),
                // A batch reaches over spans, so which of them is damaged shows when each is read
                // alone.
                Some(failed) if !failed.is_settled => (failed.span_idx, true),
                // The rest of that span is rejected; the spans behind it may still be readable.
                Some(failed) => (failed.span_idx + 1, false),
            };
        }
        Ok(())
    }

    /// Reads the spans, with the reader of the last ones where that is of the same file; returns the
    /// span at which reading failed, if it did.
    fn read_spans(
        &self,
        span_idxs: std::ops::Range<usize>,
        permits: &Arc<Semaphore>,
        reader: &mut Option<FileReader>,
    ) -> Result<Option<Failed>, Disconnected> {
        let spans = &self.spans[span_idxs.clone()];
        let head = &spans[0].span;
        let file: Arc<str> = head.object.path.as_str().into();
        let rows: Vec<Vec<usize>> = spans.iter().map(|next| next.rows(self.plan)).collect();
        let ranges = contiguous(rows.iter().flatten().copied());
        let batch_rows = self.batch_rows(head.row_group, &head.object.path);
        let mut cursor = Cursor {
            scan: self,
            permits,
            file,
            first_span_idx: span_idxs.start,
            rows: &rows,
            span_idx: span_idxs.start,
            row_idx: 0,
        };

        if reader.as_ref().is_none_or(|reader| *reader.file().object() != head.object) {
            match FileReader::open(&head.object.path, &self.plan.table.bytes_read) {
                Ok(opened) if *opened.file().object() != head.object => {
                    let problem = "it has changed since it was planned".to_owned();
                    return Ok(self.give_up(&head.object.path, problem));
                }
                Ok(opened) => *reader = Some(opened),
                Err(SourceError::Io { source, .. }) => {
                    return Ok(self.give_up(&head.object.path, source.to_string()));
                }
                Err(error) => return cursor.fail(&error_chain(&error)).map(Some),
            }
        }
        let Some(reader) = reader else { return Ok(None) };
        let columns = Some(self.plan.read_columns.as_slice());
        let batches = match reader.read(head.row_group, &ranges, columns, batch_rows) {
            Ok(batches) => batches,
            Err(error) => return cursor.fail_to_read(&error),
        };
        for batch in batches {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => return cursor.fail_to_read(&error),
            };
            let mut offset = 0;
            while offset < batch.num_rows() {
                if cursor.row_idx == 0 && self.stop.is_requested() {
                    return Ok(None);
                }
                let n_rows = cursor.rows_left().min(batch.num_rows() - offset);
                cursor.send(&batch.slice(offset, n_rows))?;
                offset += n_rows;
            }
        }
        if cursor.span_idx < span_idxs.end {
            let missing = "the file has fewer rows than its footer says";
            return cursor.fail(missing).map(Some);
        }
        Ok(None)
    }

    /// Ends the run, because what it reads from fails.
    fn give_up(&self, path: &str, problem: String) -> Option<Failed> {
        self.stop.fail(SourceFailed { path: path.to_owned(), problem });
        None
    }

    fn batch_rows(&self, row_group: usize, path: &str) -> usize {
        let size = self
            .plan
            .table
            .files
            .iter()
            .find(|file| file.object.path == path)
            .map(|file| file.row_groups[row_group]);
        let rows = size.map_or(1, |size| {
            let row_bytes = size.bytes / (size.n_rows as u64).max(1);
            (BATCH_BYTES / row_bytes.max(1)).clamp(1, BATCH_ROWS_MAX)
        });
        usize::try_from(rows).unwrap_or(1)
    }
}

/// A span at which reading failed.
struct Failed {
    span_idx: usize,
    /// Whether its rows are rejected.
    is_settled: bool,
}

/// Where the scan stands within the spans of a row group.
struct Cursor<'a> {
    scan: &'a Scan<'a>,
    permits: &'a Arc<Semaphore>,
    file: Arc<str>,
    first_span_idx: usize,
    /// The rows that are read of each span, from `first_span_idx` on.
    rows: &'a [Vec<usize>],
    span_idx: usize,
    row_idx: usize,
}

impl Cursor<'_> {
    fn rows_left(&self) -> usize {
        self.span_rows().len() - self.row_idx
    }

    fn span_rows(&self) -> &[usize] {
        &self.rows[self.span_idx - self.first_span_idx]
    }

    fn tell(&self, outcome: Outcome) -> Result<(), Disconnected> {
        self.scan.outcomes.blocking_send(outcome).map_err(|_| Disconnected)
    }

    /// Tells `collect` of the span when the cursor stands at its first row.
    fn open(&self) -> Result<(), Disconnected> {
        if self.row_idx > 0 {
            return Ok(());
        }
        let permit = Arc::clone(self.permits).acquire_owned();
        let permit = self.scan.runtime.block_on(permit).map_err(|_| Disconnected)?;
        let rows = self.span_rows().to_vec();
        self.tell(Outcome::Opened { span_idx: self.span_idx, rows, permit })
    }

    /// Sends rows of the current span on, and steps over them.
    fn send(&mut self, rows: &RecordBatch) -> Result<(), Disconnected> {
        self.open()?;
        let first = RowKey { span_idx: self.span_idx, row_idx: self.row_idx };
        let carried: Vec<usize> = self
            .scan
            .plan
            .carried
            .iter()
            .filter_map(|field| rows.schema().index_of(field.name()).ok())
            .collect();
        // The columns were checked to be there, so the projection holds.
        let carried = rows.project(&carried).map_err(|_| Disconnected)?;
        self.tell(Outcome::Carried { first, rows: carried })?;
        let span = &self.scan.spans[self.span_idx].span;
        let file_rows = self.span_rows()[self.row_idx..self.row_idx + rows.num_rows()]
            .iter()
            .map(|position| span.file_row_start + (position - span.row_start) as u64)
            .collect();
        let bytes = rows.get_array_memory_size() as u64;
        let batch =
            ScannedBatch { first, file_rows, file: Arc::clone(&self.file), rows: rows.clone() };
        self.scan.runtime.block_on(self.scan.batches.send(batch, bytes))?;
        self.step(rows.num_rows());
        Ok(())
    }

    /// Tells a damaged file, whose rows are rejected, from a disk or store that fails.
    fn fail_to_read(&mut self, error: &ReadError) -> Result<Option<Failed>, Disconnected> {
        if error.may_pass {
            return Ok(self.scan.give_up(&error.path, error.problem.clone()));
        }
        self.fail(&error.to_string()).map(Some)
    }

    /// Rejects the rest of the current span, unless it is not begun and others were to be read with
    /// it; returns the span.
    fn fail(&mut self, problem: &str) -> Result<Failed, Disconnected> {
        let span_idx = self.span_idx;
        if self.row_idx == 0 && self.rows.len() > 1 {
            return Ok(Failed { span_idx, is_settled: false });
        }
        self.open()?;
        for row_idx in self.row_idx..self.span_rows().len() {
            let key = RowKey { span_idx, row_idx };
            let reject = Reject {
                stage: Stage::Scan,
                code: "source_damaged",
                message: format!("{problem}; repair or replace the file"),
            };
            self.tell(Outcome::Rejected { key, reject })?;
        }
        Ok(Failed { span_idx, is_settled: true })
    }

    fn step(&mut self, n_rows: usize) {
        self.row_idx += n_rows;
        if self.rows_left() == 0 {
            self.span_idx += 1;
            self.row_idx = 0;
        }
    }
}

/// Joins ascending row numbers to ranges.
fn contiguous(rows: impl Iterator<Item = usize>) -> Vec<std::ops::Range<usize>> {
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
    for row in rows {
        match ranges.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
    ranges
}

/// Joins the messages of an error and its causes.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
