//! Reads the outstanding spans batch by batch, as fast as the next stage accepts them.

mod cursor;

use std::{ops::Range, sync::Arc, time::Duration};

use legenda_schemas::cause::{Cause, chain};
use tokio::{runtime::Handle, sync::Semaphore};

use self::cursor::{Cursor, Failed};
use super::{Outcomes, OutstandingSpan, ScannedBatch};
use crate::{
    base::budget::{Budget, ByteSender, Disconnected},
    input::source::{
        SourceError, SourceFailed,
        pages::RowBounds,
        reader::{BatchLimits, FileReader},
    },
    run::{plan::RunPlan, stop::Stop},
};

/// The target bytes of a batch: large enough to amortise the reader's fixed costs, small enough that a
/// batch of large images does not stall the next stages.
const BATCH_BYTES: u64 = 4 << 20;
/// The maximum rows of a batch.
const BATCH_ROWS_MAX: u64 = 256;
/// The maximum number of spans that are open at a time.
pub(crate) const OPEN_SPANS_MAX: usize = 64;

/// How often a scan that waits for a commit checks whether the run is to stop.
const STOP_POLL: Duration = Duration::from_millis(50);

/// The scan of a run; blocks its thread.
pub(crate) struct Scan<'a> {
    /// The run.
    pub plan: &'a RunPlan,
    /// The outstanding spans, in input order.
    pub spans: &'a [OutstandingSpan],
    /// The queue to `prepare`.
    pub batches: ByteSender<ScannedBatch>,
    /// The memory budget for carried columns of uncommitted spans.
    pub carried: Budget,
    /// The maximum bytes for reading one row.
    pub read_bytes_max: u64,
    /// The share of memory that `read_bytes_max` is, for error messages.
    pub read_percent: u64,
    /// The channel to `collect`.
    pub outcomes: Outcomes,
    /// Stops the scan.
    pub stop: &'a Stop,
    /// The runtime to block on.
    pub runtime: Handle,
}

impl Scan<'_> {
    /// Returns the `limits.memory` with which reading a row may need `bytes`.
    fn memory_for(&self, bytes: u64) -> u64 {
        let missing = bytes.saturating_sub(self.read_bytes_max).saturating_mul(100);
        self.plan.job.limits.memory.0.saturating_add(missing / self.read_percent)
    }

    /// Reads every outstanding span, unless the run is stopped.
    ///
    /// Damaged rows are rejected, and the scan continues with the next span. An I/O error of a disk or
    /// store ends the run.
    ///
    /// # Errors
    ///
    /// [`Disconnected`] if a later stage has failed; its own error has the cause.
    pub(crate) fn run(&self) -> Result<(), Disconnected> {
        let permits = Arc::new(Semaphore::new(OPEN_SPANS_MAX));
        let mut start = 0;
        let mut reader = None;
        while start < self.spans.len() && !self.stop.is_requested() {
            // Read the spans of a row group in one pass, so that no page is read twice.
            let head = &self.spans[start].span;
            let n_spans = self.spans[start..]
                .iter()
                .take_while(|next| {
                    next.span.object == head.object && next.span.row_group == head.row_group
                })
                .count();
            match self.read_row_group(start..start + n_spans, &permits, &mut reader) {
                Err(Disconnected) if self.stop.is_requested() => break,
                read => read?,
            }
            start += n_spans;
        }
        Ok(())
    }

    fn read_row_group(
        &self,
        span_idxs: Range<usize>,
        permits: &Arc<Semaphore>,
        reader: &mut Option<OpenFile>,
    ) -> Result<(), Disconnected> {
        let mut next = span_idxs.start;
        let mut alone = false;
        while next < span_idxs.end && !self.stop.is_requested() {
            let end = if alone { next + 1 } else { span_idxs.end };
            (next, alone) = match self.read_spans(next..end, permits, reader)? {
                None => (end, false),
                // A batch may cross span boundaries; read each span alone to find the
                // damaged one.
                Some(failed) if !failed.is_settled => (failed.span_idx, true),
                // The rest of that span is rejected; later spans may still be readable.
                Some(failed) => (failed.span_idx + 1, false),
            };
        }
        Ok(())
    }

    /// Reads the spans, reusing the previous reader if it is of the same file; returns the span at which
    /// reading failed, if any.
    fn read_spans(
        &self,
        span_idxs: Range<usize>,
        permits: &Arc<Semaphore>,
        open: &mut Option<OpenFile>,
    ) -> Result<Option<Failed>, Disconnected> {
        let spans = &self.spans[span_idxs.clone()];
        let head = &spans[0].span;
        let file: Arc<str> = head.object.path.as_str().into();
        let rows: Vec<Vec<usize>> = spans.iter().map(|next| next.rows(self.plan)).collect();
        let mut cursor = Cursor {
            scan: self,
            permits,
            file,
            first_span_idx: span_idxs.start,
            rows: &rows,
            span_idx: span_idxs.start,
            row_idx: 0,
            bounds: &RowBounds::default(),
        };

        if open.as_ref().is_none_or(|open| *open.reader.object() != head.object) {
            let changed = || {
                let problem = "the file has changed since it was planned";
                Ok(self.give_up(&head.object.path, problem))
            };
            match self.plan.table.reader(&head.object) {
                Ok(None) => return changed(),
                Ok(Some(opened)) if *opened.object() != head.object => return changed(),
                Ok(Some(reader)) => *open = Some(OpenFile { reader, bounds: None }),
                Err(SourceError::Io { source, .. }) => {
                    return Ok(self.give_up(&head.object.path, source));
                }
                Err(error) => return cursor.fail(&chain(&error)).map(Some),
            }
        }
        let Some(open) = open else { return Ok(None) };
        let columns = Some(self.plan.read_columns.as_slice());
        let limits = self.batch_limits(head.row_group, &head.object.path);
        let OpenFile { reader, bounds } = open;
        if bounds.as_ref().is_none_or(|(row_group, _)| *row_group != head.row_group) {
            let found = reader.row_bounds(head.row_group, columns, self.read_bytes_max);
            *bounds = Some((head.row_group, found));
        }
        let Some((_, bounds)) = bounds else { return Ok(None) };
        cursor.bounds = bounds;
        let kept = rows.iter().flatten().copied().filter(|row| bounds.refused_at(*row).is_none());
        let ranges = contiguous(kept);
        let limits = limits.for_rows_of(bounds.row_bytes_max);
        let batches = match reader.read_within(head.row_group, &ranges, columns, limits) {
            Ok(batches) => batches,
            Err(error) => return cursor.fail_to_read(error, reader, limits),
        };
        let mut batches = batches.into_iter();
        loop {
            // A batch is at most this large, except for a single row.
            let bytes = limits.bytes_max.max(bounds.row_bytes_max);
            let reservation = self.runtime.block_on(self.batches.reserve(bytes));
            match batches.next() {
                None => break,
                Some(Ok(batch)) => cursor.send_all(&batch, reservation)?,
                Some(Err(error)) => return cursor.fail_to_read(error, reader, limits),
            }
            if self.stop.is_requested() {
                return Ok(None);
            }
        }
        cursor.skip_refused()?;
        if self.stop.is_requested() {
            return Ok(None);
        }
        if cursor.span_idx < span_idxs.end {
            let missing = "the file has fewer rows than its footer says";
            return cursor.fail(missing).map(Some);
        }
        Ok(None)
    }

    /// Ends the run after an I/O error of the source.
    fn give_up(&self, path: &str, cause: impl Into<Cause>) -> Option<Failed> {
        self.stop.fail(SourceFailed { path: path.to_owned(), source: cause.into() });
        None
    }

    fn batch_limits(&self, row_group: usize, path: &str) -> BatchLimits {
        let size = self.plan.table.file(path).and_then(|file| file.row_groups.get(row_group));
        let rows = size.map_or(1, |size| {
            let row_bytes = size.bytes / (size.n_rows as u64).max(1);
            (BATCH_BYTES / row_bytes.max(1)).clamp(1, BATCH_ROWS_MAX)
        });
        let rows_max = usize::try_from(rows).unwrap_or(1);
        BatchLimits { step_rows: rows_max, rows_max, bytes_max: BATCH_BYTES }
    }
}

/// An open file, and the memory needs of the rows of its current row group.
struct OpenFile {
    reader: FileReader,
    bounds: Option<(usize, RowBounds)>,
}

/// Merges ascending row numbers into ranges.
pub(crate) fn contiguous(rows: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for row in rows {
        match ranges.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => ranges.push(row..row + 1),
        }
    }
    ranges
}
