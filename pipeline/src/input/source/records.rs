//! Text files whose rows are lines, CSV records or list items: locating and reading their rows.
//!
//! One pass over a file splits it at record boundaries into blocks of some megabytes, which act as row
//! groups. The same scanner finds records during planning and reading, so a block read alone has the
//! records it was planned with.

use std::{
    io::{self, Read},
    ops::Range,
};

use bytes::Bytes;
use memchr::{memchr, memchr_iter, memchr2};

use super::{file::SourceFile, table_file::RowGroupSize};

/// The minimum size of a block: enough to amortise the cost of a read. Tests use small files and need many
/// blocks.
const BLOCK_BYTES: u64 = if cfg!(test) { 200 } else { 8 << 20 };
/// The maximum size of a record; a longer one is damaged, and its bytes are discarded.
const RECORD_BYTES_MAX: usize = if cfg!(test) { 20_000 } else { 64 << 20 };
/// The bytes read at a time.
const PIECE_BYTES: usize = if cfg!(test) { 100 } else { 1 << 20 };
const BOM: &[u8] = b"\xef\xbb\xbf";

/// How the rows of a text file are separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Separation {
    /// One row per line.
    Lines,
    /// CSV records (RFC 4180), in which quoted fields may contain line breaks.
    Csv {
        /// The field delimiter.
        delimiter: u8,
    },
    /// Items of a JSON list.
    Items,
}

/// A range of a file that begins and ends at record boundaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) n_rows: usize,
    /// The line number of its start, from 1.
    first_line: u64,
    /// Whether it is a single record that is too long.
    is_too_long: bool,
}

/// An undecoded row of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawRecord {
    /// The bytes, including the line ending.
    pub(super) bytes: Bytes,
    /// The line number of its start, from 1.
    pub(super) line: u64,
    /// A problem found by the scanner.
    pub(super) problem: Option<String>,
}

/// The result of scanning for a record.
enum Next {
    /// A record or a blank line of `n_bytes`.
    Record { n_bytes: usize, kind: Kind },
    /// The record continues beyond the given bytes.
    Open,
}

enum Kind {
    Row,
    Blank,
    Malformed(&'static str),
}

impl Kind {
    /// Returns the problem of the record, if any.
    fn problem(&self) -> Option<String> {
        match self {
            Self::Malformed(problem) => Some((*problem).to_owned()),
            Self::Row | Self::Blank => None,
        }
    }
}

impl Separation {
    /// Returns at most `n_max` records from the start of `bytes`; `is_whole` if nothing follows them.
    pub(super) fn first(self, bytes: &[u8], is_whole: bool, n_max: usize) -> Vec<&[u8]> {
        let mut at = if bytes.starts_with(BOM) { BOM.len() } else { 0 };
        let mut found = Vec::new();
        while found.len() < n_max && at < bytes.len() {
            let Next::Record { n_bytes, kind } = self.next(&bytes[at..], is_whole) else { break };
            if matches!(kind, Kind::Row) {
                found.push(&bytes[at..at + n_bytes]);
            }
            at += n_bytes;
        }
        found
    }

    /// Finds the first record of `bytes`; nothing follows them if they are `last`.
    fn next(self, bytes: &[u8], last: bool) -> Next {
        if self == Self::Items {
            return item(bytes, last);
        }
        let Some(line) = line_length(bytes, last) else { return Next::Open };
        if self.is_blank(&bytes[..line]) {
            return Next::Record { n_bytes: line, kind: Kind::Blank };
        }
        match self {
            Self::Lines | Self::Items => Next::Record { n_bytes: line, kind: Kind::Row },
            // Most records have no quotes.
            Self::Csv { .. } if memchr(b'"', &bytes[..line]).is_none() => {
                Next::Record { n_bytes: line, kind: Kind::Row }
            }
            Self::Csv { delimiter } => match quoted(bytes, delimiter, last) {
                Quoted::Ends(n_bytes) => Next::Record { n_bytes, kind: Kind::Row },
                Quoted::Open if !last => Next::Open,
                // Only its own line is rejected.
                Quoted::Open => malformed(line, "unclosed quote"),
                Quoted::Malformed => malformed(line, "unexpected text after a closing quote"),
            },
        }
    }

    /// Returns a record without leading separators.
    fn row_within(self, record: &[u8]) -> &[u8] {
        match self {
            Self::Items => &record[before_item(record)..],
            _ => record,
        }
    }

    fn is_blank(self, line: &[u8]) -> bool {
        match self {
            Self::Lines | Self::Items => line.iter().all(u8::is_ascii_whitespace),
            // White space is a field.
            Self::Csv { .. } => line.iter().all(|byte| b"\r\n".contains(byte)),
        }
    }
}

/// Finds the first item of a list, including what precedes it. Its validity is checked when it is read.
fn item(bytes: &[u8], last: bool) -> Next {
    let n_before = before_item(bytes);
    if n_before == bytes.len() {
        return Next::Record { n_bytes: n_before, kind: Kind::Blank };
    }
    match item_length(&bytes[n_before..]) {
        Some(n_bytes) => Next::Record { n_bytes: n_before + n_bytes, kind: Kind::Row },
        None if !last => Next::Open,
        None => {
            malformed(line_length(bytes, true).unwrap_or(bytes.len()), "unexpected end of file")
        }
    }
}

/// Returns the number of bytes before the first item: white space, commas and list brackets.
fn before_item(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| b" \t\r\n,[]".contains(byte)).count()
}

/// Returns the length of an item; `None` if it is incomplete.
fn item_length(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        match bytes.get(at)? {
            b'"' => {
                at += 1;
                loop {
                    at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
                    if bytes[at] == b'"' {
                        break;
                    }
                    at += 2;
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return Some(at.max(usize::from(depth == 0)) + depth),
            b'}' | b']' => depth -= 1,
            b',' if depth == 0 => return Some(at),
            _ => {}
        }
        at += 1;
    }
}

fn malformed(n_bytes: usize, problem: &'static str) -> Next {
    Next::Record { n_bytes, kind: Kind::Malformed(problem) }
}

/// Returns the length of the first line including its ending.
fn line_length(bytes: &[u8], last: bool) -> Option<usize> {
    let end = memchr(b'\n', bytes).map(|at| at + 1);
    end.or_else(|| last.then_some(bytes.len()))
}

enum Quoted {
    Ends(usize),
    Open,
    Malformed,
}

/// Finds the end of a record with quotes. A quote only counts at the start of a field; within it, quotes
/// are doubled, and the closing one is followed by the end of the field.
fn quoted(bytes: &[u8], delimiter: u8, last: bool) -> Quoted {
    let mut at = 0;
    loop {
        // At the start of a field.
        if bytes.get(at) == Some(&b'"') {
            at += 1;
            loop {
                let Some(n) = memchr(b'"', &bytes[at..]) else { return Quoted::Open };
                at += n + 1;
                if bytes.get(at) != Some(&b'"') {
                    break;
                }
                at += 1;
            }
            match &bytes[at..] {
                [] if last => return Quoted::Ends(at),
                [] => return Quoted::Open,
                [b'\n', ..] => return Quoted::Ends(at + 1),
                [b'\r', b'\n', ..] => return Quoted::Ends(at + 2),
                [b'\r'] if last => return Quoted::Ends(at + 1),
                [b'\r'] => return Quoted::Open,
                [byte, ..] if *byte == delimiter => {}
                _ => return Quoted::Malformed,
            }
        } else {
            match memchr2(delimiter, b'\n', &bytes[at..]) {
                Some(n) => at += n,
                None if last => return Quoted::Ends(bytes.len()),
                None => return Quoted::Open,
            }
            if bytes[at] == b'\n' {
                return Quoted::Ends(at + 1);
            }
        }
        at += 1;
    }
}

/// An event of the scan over a file.
pub(super) enum Seen<'a> {
    /// The first record, if it contains the column names.
    Header(&'a RawRecord),
    /// A row without a problem so far.
    Row(&'a [u8]),
}

/// Scans a whole file and returns the location of its rows; calls `see` for each record.
///
/// # Errors
///
/// The error of the disk or the store.
pub(super) fn lay_out(
    file: &SourceFile,
    separation: Separation,
    has_header: bool,
    mut see: impl FnMut(Seen<'_>),
) -> io::Result<Vec<Block>> {
    let mut reader = file.read_from(0);
    let mut cutter = Cutter::default();
    let mut buffer: Vec<u8> = Vec::new();
    let (mut at, mut line, mut last) = (0_u64, 1_u64, false);
    let mut wants_header = has_header;
    let mut n_used = 0;
    loop {
        let bytes = &buffer[n_used..];
        let next = if bytes.is_empty() { Next::Open } else { separation.next(bytes, last) };
        let (n_bytes, kind) = match next {
            Next::Record { n_bytes, kind } => (n_bytes, kind),
            Next::Open if last => break,
            Next::Open if bytes.len() > RECORD_BYTES_MAX => {
                // A quote that is not closed nearby rejects only its line; an endless line is
                // skipped.
                match line_length(bytes, false) {
                    Some(n_bytes) => (n_bytes, Kind::Malformed("unclosed quote")),
                    None => {
                        let n_held = bytes.len() as u64;
                        buffer.clear();
                        n_used = 0;
                        let n_more = skip_line(&mut reader, &mut buffer)?;
                        let end = at + n_held + n_more;
                        cutter.add_too_long(at..end, line);
                        (at, line) = (end, line + 1);
                        continue;
                    }
                }
            }
            Next::Open => {
                buffer.drain(..n_used);
                n_used = 0;
                // Long records are scanned again from their start, so read larger pieces.
                let n_wanted = PIECE_BYTES.max(buffer.len());
                let n_read = (&mut reader).take(n_wanted as u64).read_to_end(&mut buffer)?;
                if at == 0 && buffer.starts_with(BOM) {
                    n_used = BOM.len();
                    at = BOM.len() as u64;
                }
                last = n_read < n_wanted;
                continue;
            }
        };
        let raw = &bytes[..n_bytes];
        let n_lines = memchr_iter(b'\n', raw).count() as u64;
        match kind {
            Kind::Blank => cutter.add_blank(at + n_bytes as u64),
            kind => {
                let problem = kind.problem();
                if wants_header {
                    let bytes = Bytes::copy_from_slice(raw);
                    see(Seen::Header(&RawRecord { bytes, line, problem }));
                    wants_header = false;
                } else {
                    if problem.is_none() {
                        see(Seen::Row(separation.row_within(raw)));
                    }
                    cutter.add(at, n_bytes, line);
                }
            }
        }
        at += n_bytes as u64;
        line += n_lines;
        n_used += n_bytes;
    }
    cutter.close();
    Ok(cutter.blocks)
}

/// Skips to the end of a line and stores the bytes after it in `rest`. Returns the bytes of the line.
fn skip_line(reader: &mut impl Read, rest: &mut Vec<u8>) -> io::Result<u64> {
    let mut n_bytes = 0;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let n_read = reader.read(&mut piece)?;
        match line_length(&piece[..n_read], n_read == 0) {
            Some(end) => {
                rest.extend_from_slice(&piece[end..n_read]);
                return Ok(n_bytes + end as u64);
            }
            None => n_bytes += n_read as u64,
        }
    }
}

/// Collects records into blocks.
#[derive(Default)]
struct Cutter {
    blocks: Vec<Block>,
    block: Option<Block>,
}

impl Cutter {
    fn add(&mut self, at: u64, n_bytes: usize, line: u64) {
        let empty = Block { start: at, end: at, n_rows: 0, first_line: line, is_too_long: false };
        let block = self.block.get_or_insert(empty);
        block.n_rows += 1;
        block.end = at + n_bytes as u64;
        if block.end - block.start >= BLOCK_BYTES {
            self.close();
        }
    }

    fn add_blank(&mut self, end: u64) {
        if let Some(block) = &mut self.block {
            block.end = end;
        }
    }

    fn add_too_long(&mut self, range: Range<u64>, line: u64) {
        self.close();
        let Range { start, end } = range;
        let block = Block { start, end, n_rows: 1, first_line: line, is_too_long: true };
        self.blocks.push(block);
    }

    fn close(&mut self) {
        self.blocks.extend(self.block.take());
    }
}

impl Block {
    pub(super) fn size(&self) -> RowGroupSize {
        let range = self.range();
        RowGroupSize { n_rows: self.n_rows, bytes: range.end - range.start }
    }

    /// Returns the byte range of the rows in the file.
    pub(super) fn range(&self) -> Range<u64> {
        if self.is_too_long { self.start..self.start } else { self.start..self.end }
    }

    /// Splits the block's `bytes`, those of [`Block::range`], into rows.
    pub(super) fn rows(&self, separation: Separation, bytes: &Bytes) -> Vec<RawRecord> {
        if self.is_too_long {
            let problem = Some(format!("the record is longer than {RECORD_BYTES_MAX} bytes"));
            return vec![RawRecord { bytes: Bytes::new(), line: self.first_line, problem }];
        }
        let mut rows = Vec::with_capacity(self.n_rows);
        let (mut at, mut line) = (0, self.first_line);
        while at < bytes.len() {
            let Next::Record { n_bytes, kind } = separation.next(&bytes[at..], true) else { break };
            let raw = bytes.slice(at..at + n_bytes);
            let n_lines = memchr_iter(b'\n', &raw).count() as u64;
            if !matches!(kind, Kind::Blank) {
                let n_before = raw.len() - separation.row_within(&raw).len();
                let lines_before = memchr_iter(b'\n', &raw[..n_before]).count() as u64;
                rows.push(RawRecord {
                    bytes: raw.slice(n_before..),
                    line: line + lines_before,
                    problem: kind.problem(),
                });
            }
            at += n_bytes;
            line += n_lines;
        }
        rows
    }
}
