//! Selects and reads the rows of a sample.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use arrow::array::{Array, RecordBatch};
use legenda_schemas::{cause::chain, job::Limits};
use tokio::runtime::Handle;

use super::{
    InspectError, Problem,
    column::{Look, count},
    medium::{Decoding, Medium},
};
use crate::{
    base::{budget::Budget, store::is_url},
    input::{
        media::locate::MediaRoots,
        source::{
            SourceFailed, SourceTable, TableFile,
            cell::{MediaCell, media_cells, text_cell},
            conversation::Conversation,
            reader::{BatchLimits, FileReader, ReadError},
            text_bytes::check_texts,
        },
    },
};

/// The maximum row groups to inspect: each requires a read of every column.
const GROUPS_MAX: usize = 32;
/// The maximum runs of rows per row group on disk; in a store, row groups are read from their start, because
/// everything before a row is fetched with it.
const RUNS_MAX: usize = 8;
/// The memory for reading a row and decoding its media, in percent of `limits.memory`, as in a run.
const READ_PERCENT: u64 = 13;
const DECODED_PERCENT: u64 = 35;
/// The bytes of rows read together.
const BATCH_BYTES: u64 = 16 << 20;
/// The number of rows read together.
const BATCH_ROWS: usize = 256;

/// The selected rows of a row group.
struct Chosen<'a> {
    file: &'a TableFile,
    row_group: usize,
    ranges: Vec<Range<usize>>,
}

/// Selects `n_rows` rows, spread evenly over at most [`GROUPS_MAX`] row groups, which are spread evenly over
/// the table.
fn choose(table: &SourceTable, n_rows: usize) -> Vec<Chosen<'_>> {
    let groups = table.files.iter().flat_map(|file| {
        let sizes = file.row_groups.iter().enumerate();
        sizes.filter(|(_, size)| size.n_rows > 0).map(move |(idx, size)| (file, idx, size.n_rows))
    });
    let groups: Vec<(&TableFile, usize, usize)> = groups.collect();
    let n_chosen = groups.len().min(GROUPS_MAX).min(n_rows);
    let mut chosen: Vec<_> = (0..n_chosen).map(|at| groups[at * groups.len() / n_chosen]).collect();
    // Small groups first, so that larger ones make up for missing rows.
    chosen.sort_by_key(|(.., size)| *size);
    let mut left = n_rows;
    let mut rows: Vec<Chosen<'_>> = Vec::new();
    for (idx, (file, row_group, size)) in chosen.into_iter().enumerate() {
        let taken = left.div_ceil(n_chosen - idx).min(size).min(left);
        left -= taken;
        let n_runs = if is_url(&file.object.path) { 1 } else { RUNS_MAX };
        rows.push(Chosen { file, row_group, ranges: spread(size, taken, n_runs) });
    }
    rows.sort_by(|a, b| {
        (&a.file.object.path, a.row_group).cmp(&(&b.file.object.path, b.row_group))
    });
    rows
}

/// Spreads `taken` of `size` rows evenly in at most `n_runs` runs.
fn spread(size: usize, taken: usize, n_runs: usize) -> Vec<Range<usize>> {
    let n_runs = n_runs.min(taken).max(1);
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for run in 0..n_runs {
        let n_rows = taken * (run + 1) / n_runs - taken * run / n_runs;
        let start = size * run / n_runs;
        let start = ranges.last().map_or(start, |last: &Range<usize>| start.max(last.end));
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end += n_rows,
            _ => ranges.push(start..start + n_rows),
        }
    }
    ranges
}

/// The environment for reading a sample.
pub(super) struct Reading<'a> {
    limits: &'a Limits,
    media_roots: MediaRoots,
    budget: Budget,
    runtime: &'a Handle,
}

type Unreadable = BTreeMap<String, Problem>;

impl<'a> Reading<'a> {
    pub(super) fn new(limits: &'a Limits, media_roots: MediaRoots, runtime: &'a Handle) -> Self {
        let budget = Budget::new(limits.memory.0 / 100 * DECODED_PERCENT);
        Self { limits, media_roots, budget, runtime }
    }

    /// Reads at most `rows_max` rows of the table; returns the number read.
    pub(super) fn read(
        &self,
        table: &SourceTable,
        rows_max: usize,
        looks: &mut [Look],
        unreadable: &mut Unreadable,
    ) -> Result<u64, InspectError> {
        let mut n_rows = 0;
        let mut open: Option<FileReader> = None;
        for chosen in choose(table, rows_max) {
            let reader = match open.take() {
                Some(reader) if *reader.object() == chosen.file.object => reader,
                _ => FileReader::open(chosen.file, &table.bytes_read)?,
            };
            n_rows += chosen.ranges.iter().map(|range| range.len() as u64).sum::<u64>();
            self.read_group(&reader, &chosen, looks, unreadable)?;
            open = Some(reader);
        }
        Ok(n_rows)
    }

    fn read_group(
        &self,
        reader: &FileReader,
        chosen: &Chosen<'_>,
        looks: &mut [Look],
        unreadable: &mut Unreadable,
    ) -> Result<(), InspectError> {
        let read_max = self.limits.memory.0 / 100 * READ_PERCENT;
        let bounds = reader.row_bounds(chosen.row_group, None, read_max);
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for row in chosen.ranges.iter().cloned().flatten() {
            if let Some(bytes) = bounds.refused_at(row) {
                let message = format!("reading the row needs {bytes} bytes of memory");
                count(unreadable, "row_exceeds_memory", 1, &message);
            } else {
                match ranges.last_mut() {
                    Some(last) if last.end == row => last.end += 1,
                    _ => ranges.push(row..row + 1),
                }
            }
        }
        let limits =
            BatchLimits { step_rows: BATCH_ROWS, rows_max: BATCH_ROWS, bytes_max: BATCH_BYTES };
        let limits = limits.for_rows_of(bounds.row_bytes_max);
        let n_rows: usize = ranges.iter().map(Range::len).sum();
        let mut n_read = 0;
        let batches = reader.read_within(chosen.row_group, &ranges, None, limits);
        let path = &chosen.file.object.path;
        let failed = match batches {
            Ok(mut batches) => loop {
                match batches.next() {
                    None => break None,
                    Some(Err(error)) => break Some(error),
                    Some(Ok(read)) => {
                        let is_sound = |row: &usize| read.damaged.iter().all(|one| one.row != *row);
                        let valid: Vec<usize> =
                            (0..read.rows.num_rows()).filter(is_sound).collect();
                        for damaged in &read.damaged {
                            count(unreadable, "row_damaged", 1, &damaged.problem);
                        }
                        n_read += read.rows.num_rows();
                        self.look(&read.rows, &valid, path, looks);
                    }
                }
            },
            Err(error) => Some(error),
        };
        match failed {
            None => Ok(()),
            Some(error) if error.may_pass => {
                let ReadError { path, source, .. } = error;
                Err(InspectError::Failed(SourceFailed { path, source }))
            }
            Some(error) => {
                let ranges = behind(ranges, n_read);
                if error.is_not_utf8() {
                    let group = (chosen.row_group, ranges.as_slice(), limits);
                    n_read += self.read_texts(reader, group, path, looks, unreadable);
                }
                let left = n_rows - n_read;
                if left > 0 {
                    count(unreadable, "source_damaged", left as u64, &chain(&error));
                }
                Ok(())
            }
        }
    }

    /// Reads rows with texts as bytes, so that only rows with invalid UTF-8 are lost; returns the number
    /// read.
    fn read_texts(
        &self,
        reader: &FileReader,
        (row_group, ranges, limits): (usize, &[Range<usize>], BatchLimits),
        path: &str,
        looks: &mut [Look],
        unreadable: &mut Unreadable,
    ) -> usize {
        let mut n_read = 0;
        let Ok(as_bytes) = reader.texts_as_bytes() else { return 0 };
        let Ok(batches) = as_bytes.read_within(row_group, ranges, None, limits) else { return 0 };
        for batch in batches {
            let checked = batch.ok().and_then(|it| check_texts(&it.rows, &reader.schema()).ok());
            let Some(checked) = checked else { break };
            n_read += checked.rows.num_rows();
            for column in checked.bad.iter().flatten() {
                let message = format!("column `{column}`: the text is not valid UTF-8");
                count(unreadable, "text_not_utf8", 1, &message);
            }
            let valid = checked.bad.iter().enumerate().filter(|(_, bad)| bad.is_none());
            let valid: Vec<usize> = valid.map(|(row, _)| row).collect();
            self.look(&checked.rows, &valid, path, looks);
        }
        n_read
    }

    /// Inspects rows of a batch, decoding media concurrently.
    fn look(&self, batch: &RecordBatch, rows: &[usize], file: &str, looks: &mut [Look]) {
        let mut media: Vec<(usize, MediaCell<'_>)> = Vec::new();
        for (idx, look) in looks.iter_mut().enumerate() {
            let column = batch.column_by_name(look.name());
            for &row in rows {
                look.add_cell(column.is_none_or(|column| column.is_null(row)));
            }
            let Some(column) = column else { continue };
            for text in rows.iter().filter_map(|&row| text_cell(column.as_ref(), row)) {
                look.add_text(text);
            }
            if look.may_hold_messages() {
                let is_asked = |row: &&usize| {
                    matches!(Conversation::from_cell(column.as_ref(), **row), Ok(Some(_)))
                };
                rows.iter().filter(is_asked).for_each(|_| look.add_conversation());
            }
            if look.may_hold_media() {
                let cells = rows.iter().flat_map(|&row| media_cells(column.as_ref(), row));
                let may_lead = |cell: &MediaCell<'_>| match cell {
                    MediaCell::Bytes(_) | MediaCell::Encoded(_) => true,
                    MediaCell::Path(path) => Look::may_be_path(path),
                };
                media.extend(cells.filter(may_lead).map(|cell| (idx, cell)));
            }
        }
        // The first paths of each column decide whether to try the others.
        let (first, rest) = split_tried(media);
        for part in [first, rest] {
            let wanted: Vec<_> =
                part.into_iter().filter(|(idx, _)| looks[*idx].may_hold_media()).collect();
            for ((idx, cell), medium) in wanted.iter().zip(self.decode(&wanted, file)) {
                let path = match cell {
                    MediaCell::Path(path) => Some(*path),
                    MediaCell::Bytes(_) | MediaCell::Encoded(_) => None,
                };
                looks[*idx].add_medium(medium, path);
            }
        }
    }

    fn decode(&self, cells: &[(usize, MediaCell<'_>)], file: &str) -> Vec<Medium> {
        let decoding = Decoding {
            limits: self.limits,
            media_roots: &self.media_roots,
            budget: &self.budget,
            runtime: self.runtime,
        };
        let next = AtomicUsize::new(0);
        let found: Mutex<Vec<(usize, Medium)>> = Mutex::default();
        let work = || {
            while let Some((idx, (_, cell))) =
                Some(next.fetch_add(1, Relaxed)).and_then(|idx| Some((idx, cells.get(idx)?)))
            {
                let medium = decoding.look(*cell, file);
                found.lock().unwrap_or_else(PoisonError::into_inner).push((idx, medium));
            }
        };
        let n_threads = thread::available_parallelism().map_or(1, usize::from).min(cells.len());
        thread::scope(|threads| {
            for _ in 1..n_threads {
                threads.spawn(work);
            }
            work();
        });
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_by_key(|(idx, _)| *idx);
        found.into_iter().map(|(_, medium)| medium).collect()
    }
}

/// Media of a batch, with their column indices.
type Cells<'a> = Vec<(usize, MediaCell<'a>)>;

/// Splits off the first of each column.
fn split_tried(media: Cells<'_>) -> (Cells<'_>, Cells<'_>) {
    const FIRST: usize = 16;
    let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
    media.into_iter().partition(|(idx, _)| {
        let n_seen = seen.entry(*idx).or_default();
        *n_seen += 1;
        *n_seen <= FIRST
    })
}

/// Returns the rows of ranges after the first `n`.
fn behind(ranges: Vec<Range<usize>>, mut n: usize) -> Vec<Range<usize>> {
    let rest = ranges.into_iter().map(|range| {
        let skipped = n.min(range.len());
        n -= skipped;
        range.start + skipped..range.end
    });
    rest.filter(|range| !range.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::{behind, spread};

    fn ends(ranges: &[Range<usize>]) -> Vec<(usize, usize)> {
        ranges.iter().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn runs_are_spread_and_have_every_row_once() {
        assert_eq!(ends(&spread(100, 100, 8)), [(0, 100)]);
        assert_eq!(ends(&spread(100, 4, 2)), [(0, 2), (50, 52)]);
        assert_eq!(ends(&spread(1000, 10, 1)), [(0, 10)]);
        for (size, taken) in [(100, 7), (9, 8), (1000, 999), (5, 3), (1, 1)] {
            let ranges = spread(size, taken, 8);
            assert_eq!(ranges.iter().map(Range::len).sum::<usize>(), taken);
            assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "{ranges:?}");
            assert!(ranges.last().is_some_and(|last| last.end <= size), "{ranges:?} of {size}");
        }
    }

    #[test]
    fn rows_that_were_read_are_left_out() {
        assert_eq!(ends(&behind(vec![0..3, 5..9], 0)), [(0, 3), (5, 9)]);
        assert_eq!(ends(&behind(vec![0..3, 5..9], 4)), [(6, 9)]);
        assert_eq!(ends(&behind(vec![0..3, 5..9], 7)), []);
    }
}
