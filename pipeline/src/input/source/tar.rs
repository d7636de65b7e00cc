//! WebDataset shards: tar files in which members with the same stem form a row, with one cell per
//! extension.
//!
//! A column may have several extensions (`image = "jpg;jpeg;png;webp"`), as in `webdataset`.
//!
//! One pass over the headers locates the members; their bytes are read with their rows.

use std::{
    cmp::Reverse,
    collections::HashMap,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, BinaryArray, StringArray},
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
};
use bytes::Bytes;
use parquet::file::reader::{ChunkReader, Length};

use super::{
    file::SourceFile,
    rows::{Damaged, ReadRows},
};
use crate::base::{excerpt::excerpt, guard::guarded};

/// The size of a tar block.
const BLOCK: u64 = 512;
/// The maximum number of columns of a shard.
const COLUMNS_MAX: usize = 256;
/// Members with smaller gaps are read together.
const GAP_MAX: u64 = 64 << 10;

const KEY: &str = "__key__";
/// Separates the extensions of one column, as in `jpg;png`.
const ALTERNATIVE: char = ';';

/// The lower-case extensions of text.
const TEXTS: [&str; 15] = [
    "txt",
    "text",
    "json",
    "cls",
    "cls2",
    "csv",
    "tsv",
    "md",
    "html",
    "xml",
    "caption",
    "transcript",
    "lang",
    "url",
    "id",
];

/// The rows of a shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Shard {
    /// The extensions, in order of appearance.
    columns: Vec<String>,
    pub(super) rows: Vec<ShardRow>,
    /// The maximum bytes of a member; a larger one is rejected.
    bytes_max: u64,
}

/// A row of a shard.
#[derive(Clone, Debug, Default)]
pub(super) struct ShardRow {
    key: String,
    /// The column and byte range of each member.
    members: Vec<(usize, Range<u64>)>,
    problem: Option<String>,
}

impl ShardRow {
    /// Returns the total bytes of the row's members.
    pub(super) fn n_bytes(&self) -> u64 {
        self.members.iter().map(|(_, range)| range.end - range.start).sum()
    }

    /// Formats a problem of one of the row's members.
    fn problem_with(&self, extension: &str, problem: &str) -> String {
        format!("the member `{}` {problem}", excerpt(&format!("{}.{extension}", self.key)))
    }
}

/// An error of indexing a shard.
pub(super) enum ShardError {
    /// The disk or the store failed.
    Io(io::Error),
    /// The file is not a shard.
    Format(String),
}

impl Shard {
    /// Reads the headers of a shard.
    pub(super) fn index(file: &SourceFile, bytes_max: u64) -> Result<Self, ShardError> {
        let size = file.len();
        let mut indexer = Indexer::default();
        let mut start = 0;
        while start < size {
            let mut end = start;
            let found = guarded(|| indexer.add_from(file, start, &mut end));
            let problem = match found {
                Ok(Ok(())) => break,
                Ok(Err(_)) if file.failure().is_some() => {
                    let problem = file.failure().unwrap_or_default();
                    return Err(ShardError::Io(io::Error::other(problem)));
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            // The member of a damaged header is unknown, so continue at the next sound header.
            let next = next_header(file, end + BLOCK).map_err(ShardError::Io)?;
            if start == 0 && end == 0 && next.is_none() {
                return Err(ShardError::Format(problem));
            }
            indexer.add_damage(end, &problem);
            let Some(next) = next else { break };
            start = next;
        }
        if indexer.columns.len() > COLUMNS_MAX {
            let problem = format!("the members have {} extensions", indexer.columns.len());
            return Err(ShardError::Format(problem));
        }
        Ok(Self { columns: indexer.columns, rows: indexer.rows, bytes_max })
    }

    pub(super) fn schema(&self) -> SchemaRef {
        let key = Field::new(KEY, DataType::Utf8, true);
        let columns = self.columns.iter().map(|extension| {
            let kind = if is_text(extension) { DataType::Utf8 } else { DataType::Binary };
            Field::new(extension, kind, true)
        });
        Arc::new(Schema::new(std::iter::once(key).chain(columns).collect::<Vec<_>>()))
    }

    /// Maps each extension needed by a column of `schema` to the name of that column and the rank of the
    /// extension within it.
    fn wanted<'a>(&self, schema: &'a SchemaRef) -> HashMap<usize, (&'a str, usize)> {
        let mut wanted = HashMap::new();
        for name in schema.fields().iter().map(|field| field.name().as_str()) {
            for (rank, extension) in name.split(ALTERNATIVE).enumerate() {
                if let Some(column) = self.columns.iter().position(|known| known == extension) {
                    wanted.insert(column, (name, rank));
                }
            }
        }
        wanted
    }

    /// Reads the columns of `schema` of the given rows. A column with several extensions contains the first
    /// member that the row has.
    ///
    /// # Errors
    ///
    /// The error of the disk or the store; a damaged member is rejected with its row.
    pub(super) fn read(
        &self,
        file: &SourceFile,
        rows: &[usize],
        schema: &SchemaRef,
    ) -> io::Result<ReadRows> {
        let rows: Vec<&ShardRow> = rows.iter().filter_map(|&row| self.rows.get(row)).collect();
        let wanted = self.wanted(schema);
        let mut damaged: Vec<Damaged> = rows
            .iter()
            .enumerate()
            .filter_map(|(row, of)| Some(Damaged { row, problem: of.problem.clone()? }))
            .collect();
        let ranges = rows.iter().flat_map(|row| &row.members);
        let ranges = ranges.filter(|(column, _)| wanted.contains_key(column));
        let within = file.within(joined(ranges.map(|(_, range)| range.clone()).collect()));
        let mut cells: HashMap<&str, Vec<Option<Bytes>>> =
            wanted.values().map(|(name, _)| (*name, vec![None; rows.len()])).collect();
        for (idx, row) in rows.iter().enumerate() {
            if row.problem.is_some() {
                continue;
            }
            let mut members: Vec<_> = row.members.iter().collect();
            // Of several members for one cell, write the preferred one last.
            members.sort_by_key(|(column, _)| wanted.get(column).map(|(_, rank)| Reverse(*rank)));
            for (column, range) in members {
                let Some((name, _)) = wanted.get(column) else { continue };
                let extension = &self.columns[*column];
                let n_bytes = range.end - range.start;
                let read = if n_bytes > self.bytes_max {
                    let bytes_max = self.bytes_max;
                    Err(format!("has {n_bytes} bytes; `limits.media_bytes` allows {bytes_max}"))
                } else {
                    let n_bytes = usize::try_from(n_bytes).unwrap_or(usize::MAX);
                    let bytes = within.get_bytes(range.start, n_bytes).map_err(io::Error::other)?;
                    match std::str::from_utf8(&bytes) {
                        Err(error) if is_text(extension) => {
                            Err(format!("is not valid UTF-8: {error}"))
                        }
                        _ => Ok(bytes),
                    }
                };
                match read {
                    Ok(bytes) => {
                        if let Some(cell) = cells.get_mut(name).and_then(|cells| cells.get_mut(idx))
                        {
                            *cell = Some(bytes);
                        }
                    }
                    Err(problem) => {
                        let problem = row.problem_with(extension, &problem);
                        damaged.push(Damaged { row: idx, problem });
                    }
                }
            }
        }
        let columns = schema.fields().iter().map(|field| -> ArrayRef {
            if field.name() == KEY {
                let keys = rows.iter().map(|row| (!row.key.is_empty()).then_some(&row.key));
                return Arc::new(keys.collect::<StringArray>());
            }
            let cells =
                cells.remove(field.name().as_str()).unwrap_or_else(|| vec![None; rows.len()]);
            if *field.data_type() == DataType::Utf8 {
                let texts = cells.iter().map(|cell| std::str::from_utf8(cell.as_deref()?).ok());
                return Arc::new(texts.collect::<StringArray>());
            }
            Arc::new(cells.iter().map(|cell| cell.as_deref()).collect::<BinaryArray>())
        });
        let columns = columns.collect();
        Ok(ReadRows::new(Arc::clone(schema), columns, rows.len(), damaged))
    }
}

/// Returns the columns of a shard with those of the extensions in `name`, such as `jpg;png`, replaced by one
/// in place of the first; `None` if the shard has none of them.
pub(super) fn with_alternatives(schema: &SchemaRef, name: &str) -> Option<SchemaRef> {
    let extensions: Vec<&str> = name.split(ALTERNATIVE).collect();
    let is_one = |field: &FieldRef| extensions.contains(&field.name().as_str());
    let found: Vec<&FieldRef> = schema.fields().iter().filter(|field| is_one(field)).collect();
    if extensions.len() < 2 || found.is_empty() || schema.field_with_name(name).is_ok() {
        return None;
    }
    let are_texts = found.iter().all(|field| *field.data_type() == DataType::Utf8);
    let kind = if are_texts { DataType::Utf8 } else { DataType::Binary };
    let mut joined = Some(Arc::new(Field::new(name, kind, true)));
    let fields = schema.fields().iter();
    let fields = fields.filter_map(|field| match is_one(field) {
        true => joined.take(),
        false => Some(Arc::clone(field)),
    });
    let fields: Vec<FieldRef> = fields.collect();
    Some(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())))
}

fn is_text(extension: &str) -> bool {
    let last = extension.rsplit('.').next().unwrap_or(extension);
    TEXTS.contains(&last)
}

/// Merges ranges that are close together.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end + GAP_MAX => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// Collects the rows of a shard member by member.
#[derive(Default)]
struct Indexer {
    columns: Vec<String>,
    by_extension: HashMap<String, usize>,
    rows: Vec<ShardRow>,
}

impl Indexer {
    /// Adds the members starting with the header at `start`. `end` is set to the end of the last sound one.
    fn add_from(&mut self, file: &SourceFile, start: u64, end: &mut u64) -> io::Result<()> {
        let size = file.len();
        let mut archive = ::tar::Archive::new(Headers::new(file, start));
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let at = start + entry.raw_file_position();
            let n_bytes = entry.size();
            let padded = n_bytes.checked_next_multiple_of(BLOCK).and_then(|n| n.checked_add(at));
            let Some(padded) = padded else { return Err(io::Error::other("invalid member size")) };
            *end = padded.min(size);
            let kind = entry.header().entry_type();
            if !(kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse()) {
                continue;
            }
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let problem = if kind.is_gnu_sparse() {
                Some("is a sparse file, which is not supported")
            } else if at + n_bytes > size {
                Some("is truncated by the end of the file")
            } else {
                None
            };
            self.add(&path, at..at + n_bytes, problem);
            if self.columns.len() > COLUMNS_MAX {
                return Ok(());
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &str, range: Range<u64>, problem: Option<&str>) {
        let (folder, name) = path.rsplit_once('/').map_or(("", path), |(dir, name)| (dir, name));
        // Names without a stem or an extension are not cells, such as those that begin with two dots.
        let Some((stem, extension)) = name.split_once('.') else { return };
        if stem.is_empty() || extension.is_empty() || name.starts_with("__") {
            return;
        }
        let key = if folder.is_empty() { stem.to_owned() } else { format!("{folder}/{stem}") };
        let extension = extension.to_lowercase();
        let n_columns = self.columns.len();
        let column = *self.by_extension.entry(extension.clone()).or_insert(n_columns);
        if column == n_columns {
            self.columns.push(extension.clone());
        }
        if self.rows.last().is_none_or(|row| row.key != key) {
            self.rows.push(ShardRow { key, ..ShardRow::default() });
        }
        let Some(row) = self.rows.last_mut() else { return };
        let twice = row.members.iter().any(|(known, _)| *known == column);
        let problem = problem.or(twice.then_some("occurs twice"));
        if let Some(problem) = problem {
            let problem = row.problem_with(&extension, problem);
            row.problem.get_or_insert(problem);
        } else {
            row.members.push((column, range));
        }
    }

    /// Adds a row in place of unknown members.
    fn add_damage(&mut self, at: u64, problem: &str) {
        let problem = Some(format!("damaged header at byte {at}: {problem}"));
        self.rows.push(ShardRow { problem, ..ShardRow::default() });
    }
}

/// Finds the first header block at or after `at` by its magic and checksum.
fn next_header(file: &SourceFile, at: u64) -> io::Result<Option<u64>> {
    let at = at.next_multiple_of(BLOCK);
    let mut reader = io::BufReader::with_capacity(1 << 20, file.read_from(at));
    let mut block = [0_u8; 512];
    let mut found = at;
    while found + BLOCK <= file.len() {
        reader.read_exact(&mut block)?;
        let header = ::tar::Header::from_byte_slice(&block);
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(idx, &byte)| u32::from(if (148..156).contains(&idx) { b' ' } else { byte }))
            .sum();
        if &block[257..262] == b"ustar" && header.cksum().is_ok_and(|stored| stored == sum) {
            return Ok(Some(found));
        }
        found += BLOCK;
    }
    Ok(None)
}

/// Reads headers and little else: reads grow where headers are close together.
struct Headers {
    file: SourceFile,
    start: u64,
    /// The position in the archive, relative to `start`.
    at: u64,
    piece: Bytes,
    piece_at: u64,
    grown: usize,
}

const PIECE_MIN: usize = 4 << 10;
const PIECE_MAX: usize = 1 << 20;

impl Headers {
    fn new(file: &SourceFile, start: u64) -> Self {
        Self {
            file: file.clone(),
            start,
            at: 0,
            piece: Bytes::new(),
            piece_at: 0,
            grown: PIECE_MIN,
        }
    }
}

impl Read for Headers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.start + self.at;
        let left = self.file.len().saturating_sub(at);
        let piece_end = self.piece_at + self.piece.len() as u64;
        if !(self.piece_at..piece_end).contains(&at) && left > 0 {
            let is_near = at >= piece_end && at - piece_end < self.grown as u64;
            self.grown = if is_near { (self.grown * 2).min(PIECE_MAX) } else { PIECE_MIN };
            let n_bytes = usize::try_from(left).unwrap_or(usize::MAX).min(self.grown);
            let within = self.file.within(std::iter::once(at..at + n_bytes as u64).collect());
            let piece = within.get_bytes(at, n_bytes);
            if let Some(problem) = within.failure() {
                self.file.fail(problem);
            }
            self.piece = piece.map_err(io::Error::other)?;
            self.piece_at = at;
        }
        if left == 0 {
            return Ok(0);
        }
        let offset = usize::try_from(at - self.piece_at).unwrap_or(usize::MAX);
        let there = &self.piece[offset.min(self.piece.len())..];
        let n_bytes = there.len().min(buffer.len());
        buffer[..n_bytes].copy_from_slice(&there[..n_bytes]);
        self.at += n_bytes as u64;
        Ok(n_bytes)
    }
}

impl Seek for Headers {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.file.len().checked_add_signed(by),
        };
        self.at = to.ok_or_else(|| io::Error::other("seek before the start"))?;
        Ok(self.at)
    }
}
