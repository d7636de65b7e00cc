//! The position of the scan, and what happens to the rows at it.

use std::sync::Arc;

use arrow::array::RecordBatch;
use legenda_schemas::cause::chain;
use tokio::sync::Semaphore;

use super::{STOP_POLL, Scan, contiguous};
use crate::{
    base::budget::{Disconnected, Reservation},
    input::source::{
        ReadRows,
        pages::RowBounds,
        reader::{BatchLimits, FileReader, ReadError},
        rows::Damaged,
        text_bytes::check_texts,
    },
    run::stage::{Carried, Outcome, Reject, RowKey, ScannedBatch, Stage},
};

/// A span at which reading failed.
pub(super) struct Failed {
    pub(super) span_idx: usize,
    /// Whether its rows are already rejected.
    pub(super) is_settled: bool,
}

/// The position of the scan within the spans of a row group.
pub(super) struct Cursor<'a> {
    pub(super) scan: &'a Scan<'a>,
    pub(super) permits: &'a Arc<Semaphore>,
    pub(super) file: Arc<str>,
    pub(super) first_span_idx: usize,
    /// The rows to read in each span, starting at `first_span_idx`.
    pub(super) rows: &'a [Vec<usize>],
    pub(super) span_idx: usize,
    pub(super) row_idx: usize,
    pub(super) bounds: &'a RowBounds,
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
    pub(super) fn send_all(
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
    pub(super) fn skip_refused(&mut self) -> Result<(), Disconnected> {
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
    pub(super) fn fail_to_read(
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
    pub(super) fn fail(&mut self, problem: &str) -> Result<Failed, Disconnected> {
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
