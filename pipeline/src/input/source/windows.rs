//! Read-ahead for store objects, where a request costs more than the bytes it returns.
//!
//! The Parquet reader requests the pages of each column in sequence, alternating between columns. Each such
//! stream has a window: the bytes in memory and those being prefetched while they are decoded. Windows of a
//! continuing stream grow, but never beyond the current column chunk.

use std::{
    io,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};

use super::file::BytesRead;
use crate::base::store::{ObjectAt, Reading};

/// The first window of a stream; a small column chunk fits in it.
const FIRST: u64 = 256 << 10;
/// The maximum window, if there are few streams.
const LARGEST: u64 = 4 << 20;
/// The maximum bytes of all windows of a file, including those in flight.
const TOGETHER: u64 = 32 << 20;
/// The bytes prefetched from the end of a file, where its footer is.
const TAIL: u64 = 64 << 10;

/// An object and its windows.
#[derive(Debug)]
pub(super) struct Windows {
    at: ObjectAt,
    bytes_read: BytesRead,
    /// The ascending ranges to be read; the whole object if empty.
    ranges: Vec<Range<u64>>,
    open: Mutex<Vec<Window>>,
}

#[derive(Debug)]
struct Window {
    start: u64,
    bytes: Bytes,
    /// The prefetch in flight.
    next: Option<(Range<u64>, Reading)>,
    /// The size of the next window.
    grown: u64,
}

impl Window {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn holds(&self, range: &Range<u64>) -> bool {
        self.start <= range.start && range.end <= self.end()
    }

    fn slice(&self, range: &Range<u64>) -> Bytes {
        let place = |at: u64| usize::try_from(at - self.start).unwrap_or(usize::MAX);
        self.bytes.slice(place(range.start)..place(range.end))
    }
}

impl Windows {
    pub(super) fn new(at: ObjectAt, bytes_read: BytesRead) -> Self {
        Self { at, bytes_read, ranges: Vec::new(), open: Mutex::default() }
    }

    pub(super) fn within(&self, mut ranges: Vec<Range<u64>>) -> Self {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_by_key(|range| range.start);
        let (at, bytes_read) = (self.at.clone(), self.bytes_read.clone());
        Self { at, bytes_read, ranges, open: Mutex::default() }
    }

    /// Reads between 1 and `n_max` bytes at `start`, which is within the object.
    pub(super) fn some(&self, start: u64, n_max: usize) -> io::Result<Bytes> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let window = self.reach(&mut open, start..start + 1)?;
        let end = (start + n_max as u64).min(window.end());
        Ok(window.slice(&(start..end)))
    }

    /// Reads `n_bytes` bytes at `start`, which are within the object.
    pub(super) fn all(&self, start: u64, n_bytes: usize) -> io::Result<Bytes> {
        let range = start..start + n_bytes as u64;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.reach(&mut open, range.clone())?.slice(&range))
    }

    /// Returns a window that contains `wanted`, fetching missing bytes.
    fn reach<'a>(&self, open: &'a mut Vec<Window>, wanted: Range<u64>) -> io::Result<&'a Window> {
        if let Some(idx) = open.iter().position(|window| window.holds(&wanted)) {
            // The list is ordered by use, most recent last.
            let used = open.remove(idx);
            open.push(used);
        } else {
            let follows =
                |window: &Window| window.start <= wanted.start && wanted.start <= window.end();
            let window = match open.iter().position(follows) {
                Some(idx) => self.go_on(open.remove(idx), &wanted)?,
                None => self.begin(&wanted)?,
            };
            if open.len() >= self.n_windows_max() {
                open.remove(0);
            }
            open.push(window);
        }
        open.last().ok_or_else(|| io::Error::other("no window is open"))
    }

    fn n_windows_max(&self) -> usize {
        self.ranges.len().clamp(4, 256)
    }

    fn size_max(&self) -> u64 {
        (TOGETHER / 2 / self.n_windows_max() as u64).clamp(FIRST / 4, LARGEST)
    }

    /// Returns the maximum end of a window that begins at `start`.
    fn bound(&self, start: u64) -> u64 {
        let within = self.ranges.iter().find(|range| range.contains(&start));
        within.map_or(self.at.object.size_bytes, |range| range.end)
    }

    fn begin(&self, wanted: &Range<u64>) -> io::Result<Window> {
        let size = self.at.object.size_bytes;
        let tail = size.saturating_sub(TAIL);
        let start = if self.ranges.is_empty() { wanted.start.min(tail) } else { wanted.start };
        let start = if wanted.start >= tail { start } else { wanted.start };
        let grown = FIRST.min(self.size_max());
        let end = (start + grown).min(self.bound(wanted.start)).max(wanted.end);
        let bytes = self.fetch(start..end)?;
        Ok(Window { start, bytes, next: None, grown })
    }

    /// Advances a window to `wanted.start`, which is in it or at its end.
    fn go_on(&self, mut window: Window, wanted: &Range<u64>) -> io::Result<Window> {
        let mut bytes = BytesMut::from(window.slice(&(wanted.start..window.end())).as_ref());
        let mut end = window.end();
        if let Some((range, reading)) = window.next.take() {
            bytes.extend_from_slice(&reading.bytes()?);
            end = range.end;
        }
        let grown = (window.grown * 2).min(self.size_max());
        let bound = self.bound(wanted.start);
        if end < wanted.end {
            let until = (end + grown).min(bound).max(wanted.end);
            bytes.extend_from_slice(&self.fetch(end..until)?);
            end = until;
        }
        let next = (end < bound).then(|| {
            let range = end..(end + grown).min(bound);
            let reading = self.at.start_to_read(range.clone());
            self.count(&range);
            (range, reading)
        });
        Ok(Window { start: wanted.start, bytes: bytes.freeze(), next, grown })
    }

    fn fetch(&self, range: Range<u64>) -> io::Result<Bytes> {
        let bytes = self.at.start_to_read(range.clone()).bytes()?;
        self.count(&range);
        Ok(bytes)
    }

    fn count(&self, range: &Range<u64>) {
        self.bytes_read.add(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
    }
}
