//! Reads the outstanding spans batch by batch, as fast as the next stage accepts them.

use std::{ops::Range, sync::Arc, time::Duration};

use arrow::array::RecordBatch;
use legenda_schemas::cause::{Cause, chain};
use tokio::{runtime::Handle, sync::Semaphore};

use super::{Carried, Outcome, Outcomes, OutstandingSpan, Reject, RowKey, ScannedBatch, Stage};
use crate::{
    base::budget::{Budget, ByteSender, Disconnected, Reservation},
    input::source::{
        ReadRows, SourceError, SourceFailed,
        pages::RowBounds,
        reader::{BatchLimits, FileReader, ReadError},
        rows::Damaged,
        text_bytes::check_texts,
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

/// A span at which reading failed.
struct Failed {
    span_idx: usize,
    /// Whether its rows are already rejected.
    is_settled: bool,
}

/// The position of the scan within the spans of a row group.
struct Cursor<'a> {
    scan: &'a Scan<'a>,
    permits: &'a Arc<Semaphore>,
    file: Arc<str>,
    first_span_idx: usize,
    /// The rows to read in each span, starting at `first_span_idx`.
    rows: &'a [Vec<usize>],
    span_idx: usize,
    row_idx: usize,
    bounds: &'a RowBounds,
}

impl Cursor<'_> {
    fn is_at_end(&self) -> bool {
        self.span_idx >= self.first_span_idx + self.rows.len()
    }

    fn rows_left(&self) -> usize {
        self.span_rows().len() - self.row_idx
    }

    fn span_rows(&self) -> &[usize] {
        &self.rows[self.span_idx - self.first_span_idx]
    }

    fn send_outcome(&self, outcome: Outcome) -> Result<(), Disconnected> {
        self.scan.outcomes.blocking_send(outcome).map_err(|_| Disconnected)
    }

    /// Announces the span to `collect` if the cursor is at its first row.
    fn open(&self) -> Result<(), Disconnected> {
        if self.row_idx > 0 {
            return Ok(());
        }
        let permit = loop {
            let permit = Arc::clone(self.permits).acquire_owned();
            let permit = async { tokio::time::timeout(STOP_POLL, permit).await };
            match self.scan.runtime.block_on(permit) {
                Ok(permit) => break permit.map_err(|_| Disconnected)?,
                // After a stop, no span is committed before every stage has ended.
                Err(_) if self.scan.stop.is_requested() => return Err(Disconnected),
                Err(_) => {}
            }
        };
        let rows = self.span_rows().to_vec();
        self.send_outcome(Outcome::Opened { span_idx: self.span_idx, rows, permit })
    }

    /// Sends rows of the current span and advances past them.
    fn send(&mut self, rows: &RecordBatch, reservation: Reservation) -> Result<(), Disconnected> {
        let first = self.carry(rows)?;
        let span = &self.scan.spans[self.span_idx].span;
        let file_rows = self.span_rows()[self.row_idx..self.row_idx + rows.num_rows()]
            .iter()
            .map(|position| span.file_row(*position))
            .collect();
        let batch =
            ScannedBatch { first, file_rows, file: Arc::clone(&self.file), rows: rows.clone() };
        self.scan.batches.send_reserved(batch, reservation)?;
        self.step(rows.num_rows());
        Ok(())
    }

    /// Announces rows of the current span to `collect`; returns the key of the first.
    fn carry(&self, rows: &RecordBatch) -> Result<RowKey, Disconnected> {
        self.open()?;
        let first = RowKey { span_idx: self.span_idx, row_idx: self.row_idx };
        let names = self.scan.plan.carried.iter().map(|field| field.name());
        let columns: Vec<usize> =
            names.filter_map(|name| rows.schema().index_of(name).ok()).collect();
        // The columns were checked, so the projection cannot fail.
        let carried = rows.project(&columns).map_err(|_| Disconnected)?;
        // Columns that do not fit are read again when the span is committed.
        let carried = Carried::keep(carried, &self.scan.carried).map_err(|_| Disconnected)?;
        self.send_outcome(Outcome::Read { first, n_rows: rows.num_rows(), carried })?;
        Ok(first)
    }

    /// Sends consecutive rows, except for refused or damaged ones, which are rejected.
    fn send_all(
        &mut self,
        ReadRows { rows, damaged }: &ReadRows,
        mut reservation: Reservation,
    ) -> Result<(), Disconnected> {
        let row_bytes = (rows.get_array_memory_size() / rows.num_rows().max(1)) as u64;
        reservation.shrink_to(row_bytes.saturating_mul(rows.num_rows() as u64));
        let mut damaged = damaged.iter().peekable();
        let mut offset = 0;
        while offset < rows.num_rows() {
            self.skip_refused()?;
            if self.is_at_end() || self.scan.stop.is_requested() {
                return Ok(());
            }
            // The query keeps no row of this span.
            if self.rows_left() == 0 {
                self.open()?;
                self.step(0);
                continue;
            }
            if let Some(Damaged { problem, .. }) = damaged.next_if(|one| one.row == offset) {
                self.carry(&rows.slice(offset, 1))?;
                self.settle_as_rejected("row_damaged", problem.clone())?;
                offset += 1;
                continue;
            }
            let end = damaged.peek().map_or(rows.num_rows(), |one| one.row);
            let left = self.rows_left().min(end - offset);
            let ahead = self.span_rows()[self.row_idx..][..left].iter();
            let n_rows = ahead.take_while(|row| self.bounds.refused_at(**row).is_none()).count();
            let share = reservation.split(row_bytes.saturating_mul(n_rows as u64));
            self.send(&rows.slice(offset, n_rows), share)?;
            offset += n_rows;
        }
        Ok(())
    }

    /// Rejects the rows at the cursor that need too much memory to be read.
    fn skip_refused(&mut self) -> Result<(), Disconnected> {
        while !self.is_at_end() {
            let Some(row) = self.span_rows().get(self.row_idx) else { break };
            let Some(bytes) = self.bounds.refused_at(*row) else { break };
            if self.scan.stop.is_requested() {
                break;
            }
            let bytes_max = self.scan.read_bytes_max;
            let needed = self.scan.memory_for(bytes).div_ceil(1 << 20);
            let message = format!(
                "reading the row needs {bytes} bytes of memory, because whole pages of the file are read, \
                 but `limits.memory` leaves {bytes_max}: set it to at least {needed} MiB, or rewrite \
                 the table with smaller row groups"
            );
            self.reject("row_exceeds_memory", message)?;
        }
        Ok(())
    }

    /// Rejects the row at the cursor and advances past it.
    fn reject(&mut self, code: &'static str, message: String) -> Result<(), Disconnected> {
        self.open()?;
        self.settle_as_rejected(code, message)
    }

    fn settle_as_rejected(
        &mut self,
        code: &'static str,
        message: String,
    ) -> Result<(), Disconnected> {
        let key = RowKey { span_idx: self.span_idx, row_idx: self.row_idx };
        let reject = Reject { stage: Stage::Scan, code, message };
        self.send_outcome(Outcome::Rejected { key, reject })?;
        self.step(1);
        Ok(())
    }

    /// Reads the rest of the current span with text columns as bytes and rejects only the rows whose text
    /// is not UTF-8; returns the span.
    fn read_texts(
        &mut self,
        reader: &FileReader,
        limits: BatchLimits,
    ) -> Result<Failed, Disconnected> {
        let scan = self.scan;
        let span_idx = self.span_idx;
        let span = &scan.spans[span_idx].span;
        let settled = Failed { span_idx, is_settled: true };
        let as_bytes = match reader.texts_as_bytes() {
            Ok(reader) => reader,
            Err(error) => return self.fail(&chain(&error)),
        };
        let ahead = self.span_rows()[self.row_idx..].iter().copied();
        let ranges = contiguous(ahead.filter(|row| self.bounds.refused_at(*row).is_none()));
        let columns = Some(scan.plan.read_columns.as_slice());
        let batches = match as_bytes.read_within(span.row_group, &ranges, columns, limits) {
            Ok(batches) => batches,
            Err(error) => return self.fail(&chain(&error)),
        };
        let bytes = limits.bytes_max.max(self.bounds.row_bytes_max);
        let mut batches = batches.into_iter();
        loop {
            let mut reservation = scan.runtime.block_on(scan.batches.reserve(bytes));
            if scan.stop.is_requested() {
                return Ok(settled);
            }
            let Some(batch) = batches.next() else { break };
            let checked = batch.map_err(|error| chain(&error)).and_then(|batch| {
                let checked = check_texts(&batch.rows, &reader.schema());
                checked.map(|checked| (checked, batch.damaged)).map_err(|error| chain(&error))
            });
            let (checked, damaged) = match checked {
                Ok(checked) => checked,
                Err(problem) => return self.fail(&problem),
            };
            let (rows, bad) = (checked.rows, checked.bad);
            let mut start = 0;
            while start < bad.len() {
                self.skip_refused()?;
                // Rows left unsent by a stop have not moved the cursor.
                if scan.stop.is_requested() {
                    return Ok(settled);
                }
                match &bad[start] {
                    Some(column) => {
                        let message = format!(
                            "column `{column}`: the text is not valid UTF-8: \
                             correct the row, or store the column as binary"
                        );
                        self.reject("text_not_utf8", message)?;
                        start += 1;
                    }
                    None => {
                        let n_rows = bad[start..].iter().take_while(|bad| bad.is_none()).count();
                        let share =
                            reservation.bytes() / (bad.len() - start) as u64 * n_rows as u64;
                        let those = damaged.iter().filter_map(|one| {
                            let row = one.row.checked_sub(start).filter(|row| *row < n_rows)?;
                            Some(Damaged { row, problem: one.problem.clone() })
                        });
                        let damaged = those.collect();
                        let read = ReadRows { rows: rows.slice(start, n_rows), damaged };
                        self.send_all(&read, reservation.split(share))?;
                        start += n_rows;
                    }
                }
            }
        }
        if self.span_idx == span_idx {
            self.skip_refused()?;
        }
        if self.span_idx == span_idx && !scan.stop.is_requested() {
            return self.fail("the file has fewer rows than its footer says");
        }
        Ok(settled)
    }

    /// Distinguishes a damaged file, whose rows are rejected, from an I/O error.
    fn fail_to_read(
        &mut self,
        error: ReadError,
        reader: &FileReader,
        limits: BatchLimits,
    ) -> Result<Option<Failed>, Disconnected> {
        if error.may_pass {
            return Ok(self.scan.give_up(&error.path, error.source));
        }
        self.skip_refused()?;
        if self.scan.stop.is_requested() {
            return Ok(None);
        }
        let has_raw_texts = || reader.texts_as_bytes().is_ok();
        if error.is_not_utf8()
            && has_raw_texts()
            && !self.is_at_end()
            && !self.is_to_be_read_alone()
        {
            return self.read_texts(reader, limits).map(Some);
        }
        self.fail(&chain(&error)).map(Some)
    }

    fn is_to_be_read_alone(&self) -> bool {
        self.row_idx == 0 && self.rows.len() > 1
    }

    /// Rejects the rest of the current span, unless it has not started and was read together with others;
    /// returns the span.
    fn fail(&mut self, problem: &str) -> Result<Failed, Disconnected> {
        let span_idx = self.span_idx;
        if self.is_at_end() {
            return Ok(Failed { span_idx: span_idx - 1, is_settled: true });
        }
        if self.is_to_be_read_alone() {
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
            self.send_outcome(Outcome::Rejected { key, reject })?;
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
