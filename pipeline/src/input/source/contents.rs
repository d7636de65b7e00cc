//! A common interface to the file formats: locating and reading the rows of a file.

use std::{
    io::{self, Read},
    ops::Range,
    path::PathBuf,
    sync::Arc,
};

use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use legenda_schemas::{cause::Cause, job::SourceFormat, span::SourceObject};
use parquet::{errors::ParquetError, file::reader::ChunkReader};

use super::{
    SourceError,
    arrow_ipc::ArrowFile,
    batch,
    compressed::unpacked,
    csv::{self, Csv},
    file::{BytesRead, SourceFile},
    foreign::{self, Foreign},
    json_lines,
    media::MediaFiles,
    names::{is_json, plain_extension},
    pages::{RefusedRows, RowBounds},
    parquet::{ParquetColumns, ParquetFile},
    reader::ReadError,
    records::{Block, RawRecord, Seen, Separation, lay_out},
    rows::ReadRows,
    shape::Members,
    steps::BatchLimits,
    table_file::RowGroupSize,
    tar::{Shard, ShardError},
};

/// The location of the rows of a file, as found by one scan.
#[derive(Clone, Debug)]
pub(super) enum Contents {
    /// In a Parquet file, whose footer is read again with the rows.
    Parquet(Arc<ParquetColumns>),
    /// In Arrow record batches.
    Arrow(ArrowFile),
    /// In blocks of text.
    Records(Arc<Records>),
    /// In members of a shard.
    Shard(Arc<Shard>),
    /// One file per row.
    Media(Arc<MediaFiles>),
}

/// The rows of a text file.
#[derive(Debug)]
pub(super) struct Records {
    blocks: Vec<Block>,
    separation: Separation,
    kind: RecordKind,
    /// The columns of the file itself.
    columns: Members,
}

#[derive(Debug)]
enum RecordKind {
    Csv(Csv),
    JsonLines,
    Batch,
}

/// The result of scanning a file: the location of its rows, its columns, its row groups.
pub(super) type Found = (Contents, SchemaRef, Vec<RowGroupSize>);

impl Contents {
    /// Scans the file at `path`.
    ///
    /// # Errors
    ///
    /// [`SourceError`] if it cannot be read or has another format.
    pub(super) fn find(
        path: &str,
        format: SourceFormat,
        media_bytes_max: u64,
        bytes_read: &BytesRead,
    ) -> Result<(SourceObject, Found), SourceError> {
        let io_error = |source| SourceError::Io { path: PathBuf::from(path), source };
        let refuse =
            |format, problem| SourceError::Format { path: PathBuf::from(path), format, problem };
        let foreign_error = |Foreign { kind, remedy }: Foreign| SourceError::Foreign {
            path: PathBuf::from(path),
            kind,
            remedy,
        };
        let damaged_or_io = |format, error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => refuse(format, error.to_string()),
            _ => io_error(error),
        };
        // Report damage, unless the file has the magic of another format.
        let foreign_or = |file: &SourceFile, name, problem| {
            let head = head_of(file, foreign::HEAD_BYTES).unwrap_or_default();
            let other = foreign::by_contents(path, &head).filter(|other| !other.is(format));
            other.map_or_else(|| refuse(name, problem), foreign_error)
        };
        let text_of = |file| {
            let file = unpacked(file).map_err(|error| damaged_or_io("text", error))?;
            let head = head_of(&file, TEXT_HEAD_BYTES).map_err(io_error)?;
            match foreign::by_contents(path, &head) {
                Some(other) => Err(foreign_error(other)),
                None => Ok((file, head)),
            }
        };
        let file = SourceFile::open(path, bytes_read).map_err(io_error)?;
        let object = file.object().clone();
        let found = match format {
            SourceFormat::Parquet => {
                let head = head_of(&file, foreign::HEAD_BYTES);
                let parquet = ParquetFile::open(file).map_err(|error| {
                    let other = head.ok().and_then(|head| {
                        foreign::by_contents(path, &head).or_else(|| foreign::by_name(path, &head))
                    });
                    other.filter(|other| !other.is(format)).map_or(error, foreign_error)
                })?;
                let columns = Arc::new(parquet.columns());
                (Self::Parquet(columns), parquet.schema(), parquet.row_groups())
            }
            SourceFormat::Arrow => {
                let arrow = ArrowFile::index(&file).map_err(|problem| match file.failure() {
                    Some(failure) => io_error(io::Error::other(failure)),
                    None => foreign_or(&file, "Arrow IPC", problem),
                })?;
                let (schema, row_groups) = (arrow.schema(), arrow.row_groups());
                (Self::Arrow(arrow), schema, row_groups)
            }
            SourceFormat::Csv => {
                let (file, head) = text_of(file)?;
                let is_whole = head.len() < TEXT_HEAD_BYTES;
                let usual = if plain_extension(path).is_some_and(|extension| extension == "tsv") {
                    b'\t'
                } else {
                    b','
                };
                let delimiter = csv::delimiter_of(&head, is_whole, usual);
                let separation = Separation::Csv { delimiter };
                let mut columns = csv::Columns::new(delimiter);
                let blocks = lay_out(&file, separation, true, |record| columns.see(record));
                let blocks = blocks.map_err(io_error)?;
                let (csv, columns) = columns.finish().map_err(|problem| refuse("CSV", problem))?;
                Self::from_records(blocks, separation, RecordKind::Csv(csv), columns)
            }
            SourceFormat::Jsonl => {
                let (file, head) = text_of(file)?;
                let is_whole = head.len() < TEXT_HEAD_BYTES;
                let is_json = is_json(path);
                let separation = json_lines::separation_of(&head, is_whole, is_json);
                let separation = separation.map_err(foreign_error)?;
                let mut columns = json_lines::Columns::default();
                let blocks = lay_out(&file, separation, false, |record| {
                    if let Seen::Row(row) = record {
                        columns.see(row);
                    }
                });
                let blocks = blocks.map_err(io_error)?;
                let columns = columns.finish().map_err(|problem| refuse("JSON Lines", problem))?;
                Self::from_records(blocks, separation, RecordKind::JsonLines, columns)
            }
            SourceFormat::OpenaiBatch => {
                let (file, _) = text_of(file)?;
                let separation = Separation::Lines;
                let blocks = lay_out(&file, separation, false, |_| ()).map_err(io_error)?;
                let none = Members::default();
                let (contents, _, groups) =
                    Self::from_records(blocks, separation, RecordKind::Batch, none);
                (contents, batch::schema(), groups)
            }
            SourceFormat::Tar => {
                let file = unpacked(file).map_err(|error| damaged_or_io("tar", error))?;
                let shard = Shard::index(&file, media_bytes_max).map_err(|error| match error {
                    ShardError::Io(source) => io_error(source),
                    ShardError::Format(problem) => foreign_or(&file, "tar", problem),
                })?;
                let bytes = shard.rows.iter().map(|row| row.n_bytes()).sum();
                let size = RowGroupSize { n_rows: shard.rows.len(), bytes };
                let groups = if size.n_rows > 0 { vec![size] } else { Vec::new() };
                let schema = shard.schema();
                (Self::Shard(Arc::new(shard)), schema, groups)
            }
            SourceFormat::Media => {
                Self::from_media(MediaFiles::new(vec![object.clone()], media_bytes_max))
            }
        };
        Ok((object, found))
    }

    /// Creates rows from media files.
    pub(super) fn from_media(files: MediaFiles) -> Found {
        let bytes = files.files.iter().map(|file| file.size_bytes).sum();
        let groups = vec![RowGroupSize { n_rows: files.files.len(), bytes }];
        (Self::Media(Arc::new(files)), MediaFiles::schema(), groups)
    }

    fn from_records(
        blocks: Vec<Block>,
        separation: Separation,
        kind: RecordKind,
        columns: Members,
    ) -> Found {
        let groups = blocks.iter().map(Block::size).collect();
        let schema = Arc::new(Schema::new(columns.fields().collect::<Vec<_>>()));
        (Self::Records(Arc::new(Records { blocks, separation, kind, columns })), schema, groups)
    }

    /// Returns whether column types were inferred from rows, so that those of another file may differ.
    pub(super) fn has_guessed_types(&self) -> bool {
        match self {
            Self::Parquet(_) | Self::Arrow(_) | Self::Media(_) => false,
            Self::Shard(_) => true,
            Self::Records(_) => self.columns().is_some(),
        }
    }

    /// Returns the columns of a text file.
    pub(super) fn columns(&self) -> Option<&Members> {
        match self {
            Self::Records(records) if !matches!(records.kind, RecordKind::Batch) => {
                Some(&records.columns)
            }
            _ => None,
        }
    }

    pub(super) fn is_shard(&self) -> bool {
        matches!(self, Self::Shard(_))
    }

    /// Returns whether the file declares its column types.
    pub(super) fn declares_types(&self) -> bool {
        matches!(self, Self::Parquet(_) | Self::Arrow(_))
    }

    /// Returns whether every value of a 64-bit integer column is known to be exact as a float.
    pub(super) fn has_small_integers(&self, column: &str) -> bool {
        match self {
            Self::Parquet(columns) => columns.has_small_integers(column),
            _ => false,
        }
    }

    pub(super) fn media(&self) -> &[SourceObject] {
        match self {
            Self::Media(files) => &files.files,
            _ => &[],
        }
    }

    /// Opens the contents found at `object`; returns the file's current state.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub(super) fn open(
        &self,
        object: &SourceObject,
        bytes_read: &BytesRead,
    ) -> Result<(SourceObject, Opened), SourceError> {
        if let Self::Media(files) = self {
            // Each file is opened when it is read.
            let opened = Opened::Media(Arc::clone(files), bytes_read.clone());
            return Ok((object.clone(), opened));
        }
        let io_error = |source| SourceError::Io { path: PathBuf::from(&object.path), source };
        let file = SourceFile::open(&object.path, bytes_read).map_err(io_error)?;
        let object = file.object().clone();
        let opened = match self {
            Self::Parquet(_) => Opened::Parquet(ParquetFile::open(file)?),
            Self::Arrow(arrow) => Opened::Arrow(file, arrow.clone()),
            Self::Records(records) => {
                Opened::Records(unpacked(file).map_err(io_error)?, Arc::clone(records))
            }
            Self::Shard(shard) => {
                Opened::Shard(unpacked(file).map_err(io_error)?, Arc::clone(shard))
            }
            Self::Media(_) => unreachable!("returned above"),
        };
        Ok((object, opened))
    }
}

/// An open file.
pub(super) enum Opened {
    Parquet(ParquetFile),
    Arrow(SourceFile, ArrowFile),
    Records(SourceFile, Arc<Records>),
    Shard(SourceFile, Arc<Shard>),
    Media(Arc<MediaFiles>, BytesRead),
}

/// An iterator over rows as they are read.
type Reading = Box<dyn Iterator<Item = Result<ReadRows, ReadError>>>;

/// The number of leading bytes of a text file from which its delimiter is detected.
const TEXT_HEAD_BYTES: usize = 64 << 10;

/// The maximum bytes of a batch, even if more are requested.
const BATCH_BYTES_MAX: u64 = 16 << 20;

impl Opened {
    /// Returns the same Parquet file with text columns read as bytes.
    pub(super) fn texts_as_bytes(&self) -> Result<Self, ParquetError> {
        match self {
            Self::Parquet(file) => file.texts_as_bytes().map(Self::Parquet),
            _ => Err(ParquetError::General("the file is not Parquet".to_owned())),
        }
    }

    /// Computes the memory needs of rows; see [`super::reader::FileReader::row_bounds`].
    pub(super) fn row_bounds(
        &self,
        row_group: usize,
        columns: Option<&[String]>,
        bytes_max: u64,
    ) -> RowBounds {
        let sizes: Vec<u64> = match self {
            Self::Parquet(file) => return file.row_bounds(row_group, columns, bytes_max),
            Self::Arrow(file, arrow) => return arrow.row_bounds(file, row_group, bytes_max),
            // A block is read whole and bounds its rows.
            Self::Records(_, records) => {
                let range = records.blocks.get(row_group).map_or(0..0, Block::range);
                let row_bytes_max = (range.end - range.start).min(bytes_max);
                return RowBounds { row_bytes_max, ..RowBounds::default() };
            }
            Self::Shard(_, shard) => shard.rows.iter().map(|row| row.n_bytes()).collect(),
            Self::Media(files, _) => files.files.iter().map(|file| files.bytes_of(file)).collect(),
        };
        let refused = sizes.iter().enumerate().filter(|(_, bytes)| **bytes > bytes_max);
        let refused =
            refused.map(|(row, &bytes)| RefusedRows { rows: row..row + 1, bytes }).collect();
        let kept = sizes.iter().copied().filter(|bytes| *bytes <= bytes_max);
        RowBounds { row_bytes_max: kept.max().unwrap_or(0), refused }
    }

    /// Starts to read rows of a row group; see [`super::reader::FileReader::read`]. `schema` contains those
    /// of `columns` that are in the file itself.
    pub(super) fn read(
        &self,
        path: &str,
        row_group: usize,
        ranges: &[Range<usize>],
        columns: Option<&[String]>,
        schema: SchemaRef,
        limits: BatchLimits,
    ) -> Result<Reading, ReadError> {
        let rows = ranges.iter().flat_map(Clone::clone).collect::<Vec<usize>>();
        let refuse = {
            let path = path.to_owned();
            move |source: Cause| ReadError { path: path.clone(), row_group, source, may_pass: true }
        };
        Ok(match self {
            Self::Parquet(file) => {
                Box::new(file.read(row_group, ranges, columns, &schema, limits)?)
            }
            Self::Arrow(file, arrow) => {
                Box::new(arrow.read(file, row_group, ranges, schema, limits)?)
            }
            Self::Records(file, records) => {
                let Some(block) = records.blocks.get(row_group) else {
                    return Err(refuse("the file has changed since it was planned".into()));
                };
                let bytes = read_block(file, block).map_err(&refuse)?;
                let found = block.rows(records.separation, &bytes);
                let wanted: Vec<RawRecord> =
                    rows.iter().filter_map(|&row| found.get(row).cloned()).collect();
                if wanted.len() < rows.len() {
                    return Err(refuse("the file has changed since it was planned".into()));
                }
                let sizes = wanted.iter().map(|record| record.bytes.len() as u64).collect();
                let records = Arc::clone(records);
                Box::new(batches(sizes, limits).map(move |batch| {
                    let batch = &wanted[batch];
                    Ok(match &records.kind {
                        RecordKind::Csv(csv) => csv.decode(batch, &schema),
                        RecordKind::JsonLines => json_lines::decode(batch, &schema),
                        RecordKind::Batch => batch::decode(batch, &schema),
                    })
                }))
            }
            Self::Shard(file, shard) => {
                let size = |row: &usize| shard.rows.get(*row).map_or(0, |row| row.n_bytes());
                let sizes = rows.iter().map(size).collect();
                let (file, shard) = (file.clone(), Arc::clone(shard));
                Box::new(batches(sizes, limits).map(move |batch| {
                    let read = shard.read(&file, &rows[batch], &schema);
                    read.map_err(|error| refuse(error.into()))
                }))
            }
            Self::Media(files, bytes_read) => {
                let size = |row: &usize| files.files.get(*row).map_or(0, |file| file.size_bytes);
                let sizes = rows.iter().map(size).collect();
                let (files, bytes_read) = (Arc::clone(files), bytes_read.clone());
                Box::new(batches(sizes, limits).map(move |batch| {
                    let read = files.read(&rows[batch], &schema, &bytes_read);
                    read.map_err(|error| refuse(error.into()))
                }))
            }
        })
    }
}

/// Returns the first bytes of a file.
fn head_of(file: &SourceFile, n_bytes: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.read_from(0).take(n_bytes as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn read_block(file: &SourceFile, block: &Block) -> Result<Bytes, Cause> {
    let range = block.range();
    let n_bytes = usize::try_from(range.end - range.start)?;
    if n_bytes == 0 {
        return Ok(Bytes::new());
    }
    let within = file.within(std::iter::once(range.clone()).collect());
    Ok(within.get_bytes(range.start, n_bytes)?)
}

/// Splits rows of these sizes into batches within the limits on rows and bytes; a single row may exceed the
/// byte limit.
fn batches(sizes: Vec<u64>, limits: BatchLimits) -> impl Iterator<Item = Range<usize>> {
    let bytes_max = limits.bytes_max.min(BATCH_BYTES_MAX);
    let mut start = 0;
    std::iter::from_fn(move || {
        let mut end = start;
        let mut bytes = 0;
        while end < sizes.len() && end - start < limits.rows_max.max(1) {
            bytes += sizes[end];
            if bytes > bytes_max && end > start {
                break;
            }
            end += 1;
        }
        let batch = start..end;
        start = end;
        (!batch.is_empty()).then_some(batch)
    })
}
