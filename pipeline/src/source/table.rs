//! The table of a job: its Parquet files, what is common to their schemas, its spans and rows.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, SchemaRef},
    error::ArrowError,
};
use legenda_schemas::span::{SourceObject, Span};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
            RowSelectionPolicy, RowSelector,
        },
    },
    errors::ParquetError,
    file::metadata::{ColumnChunkMetaData, ParquetMetaData},
};

use super::{
    SourceError,
    file::{BytesRead, SourceFile},
    pages::{self, RowBounds},
    steps::Steps,
    text_bytes,
};

pub use super::steps::BatchLimits;

use crate::{
    guard::{CALL_MAX, guarded_within},
    store::is_url,
};

/// One Parquet file of the table, its footer read.
#[derive(Debug)]
pub struct TableFile {
    /// Identity of the file.
    pub object: SourceObject,
    /// Arrow schema of the whole file.
    pub schema: SchemaRef,
    /// Rows and uncompressed bytes of each row group.
    pub row_groups: Vec<RowGroupSize>,
}

/// The size of a row group.
#[derive(Clone, Copy, Debug)]
pub struct RowGroupSize {
    /// Rows.
    pub n_rows: usize,
    /// Bytes of all columns before compression.
    pub bytes: u64,
}

/// The table a job reads: at least one file.
#[derive(Debug)]
pub struct SourceTable {
    /// The files in the order they are read.
    pub files: Vec<TableFile>,
    /// Spans of files that need not be read, because they are done.
    pub done: Vec<Span>,
    /// What was read of them.
    pub bytes_read: BytesRead,
}

impl TableFile {
    /// Reads the footer of the Parquet file at `path`, absolute or a URL.
    ///
    /// # Errors
    ///
    /// [`SourceError::Io`] or [`SourceError::Parquet`].
    pub fn open(path: &str, bytes_read: &BytesRead) -> Result<Self, SourceError> {
        let FileReader { file, metadata } = FileReader::open(path, bytes_read)?;
        let row_groups = metadata
            .metadata()
            .row_groups()
            .iter()
            .map(|group| RowGroupSize {
                n_rows: usize::try_from(group.num_rows()).unwrap_or(0),
                bytes: u64::try_from(group.total_byte_size()).unwrap_or(0),
            })
            .collect();
        let schema = Arc::clone(metadata.schema());
        Ok(Self { object: file.object().clone(), schema, row_groups })
    }

    /// Returns the file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        Path::new(&self.object.path)
    }

    /// Returns the column called `name`.
    ///
    /// # Errors
    ///
    /// [`SourceError::MissingColumn`], which names the job's `key` and the columns there are.
    pub fn column(&self, key: &str, name: &str) -> Result<&Field, SourceError> {
        self.schema.field_with_name(name).map_err(|_| SourceError::MissingColumn {
            key: key.to_owned(),
            column: name.to_owned(),
            path: self.path().to_owned(),
            available: self.column_names(),
        })
    }

    /// Returns the names of the columns, for a message.
    #[must_use]
    pub fn column_names(&self) -> String {
        let names: Vec<String> =
            self.schema.fields().iter().map(|field| format!("`{}`", field.name())).collect();
        names.join(", ")
    }
}

impl SourceTable {
    /// Opens the files at `paths`, absolute or URLs (footers only). Of those that are `done`, and are
    /// still what they were, only the first is opened.
    ///
    /// # Errors
    ///
    /// [`SourceError`] for the first file that cannot be read.
    pub fn open(paths: &[String], done: &HashMap<String, Vec<Span>>) -> Result<Self, SourceError> {
        let bytes_read = BytesRead::default();
        // A store takes its time to answer, so several are asked at a time.
        let n_threads = if paths.iter().any(|path| is_url(path)) { OPENED_AT_A_TIME } else { 1 };
        let next = AtomicUsize::new(0);
        type Opened = Result<Result<TableFile, Vec<Span>>, SourceError>;
        let opened: Mutex<Vec<(usize, Opened)>> = Mutex::default();
        let open_one = |idx: usize, path: &str| {
            let spans = done.get(path).filter(|_| idx > 0);
            if let Some(spans) = spans {
                let file = SourceFile::open(path, &bytes_read);
                let file = file.map_err(|source| SourceError::Io { path: path.into(), source })?;
                if spans.first().is_some_and(|span| span.object == *file.object()) {
                    return Ok(Err(spans.clone()));
                }
            }
            TableFile::open(path, &bytes_read).map(Ok)
        };
        let open_some = || {
            while let Some((idx, path)) =
                Some(next.fetch_add(1, Relaxed)).and_then(|idx| Some((idx, paths.get(idx)?)))
            {
                let file = open_one(idx, path);
                opened.lock().unwrap_or_else(PoisonError::into_inner).push((idx, file));
            }
        };
        std::thread::scope(|threads| {
            for _ in 1..n_threads.min(paths.len()) {
                threads.spawn(open_some);
            }
            open_some();
        });
        let mut opened = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
        opened.sort_by_key(|(idx, _)| *idx);
        let mut this = Self { files: Vec::new(), done: Vec::new(), bytes_read };
        for (_, file) in opened {
            match file? {
                Ok(file) => this.files.push(file),
                Err(spans) => this.done.extend(spans),
            }
        }
        Ok(this)
    }

    /// Returns the type of the column `name`, which every file must have alike.
    ///
    /// # Errors
    ///
    /// [`SourceError::MissingColumn`] or [`SourceError::Differs`].
    pub fn common_column(&self, key: &str, name: &str) -> Result<&Field, SourceError> {
        let first = &self.files[0];
        let field = first.column(key, name)?;
        for file in &self.files[1..] {
            let other = file.column(key, name)?;
            if other.data_type() != field.data_type() {
                return Err(SourceError::Differs {
                    column: name.to_owned(),
                    path: file.path().to_owned(),
                    actual: other.data_type().to_string(),
                    first: first.path().to_owned(),
                    expected: field.data_type().to_string(),
                });
            }
        }
        Ok(field)
    }

    /// Returns how many files the table has, those that are done among them.
    #[must_use]
    pub fn n_files(&self) -> usize {
        let done: HashSet<&str> = self.done.iter().map(|span| span.object.path.as_str()).collect();
        self.files.len() + done.len()
    }

    /// Cuts the opened files into spans of at most `span_rows` rows, the first `limit` rows only when
    /// there is a limit.
    #[must_use]
    pub fn spans(&self, span_rows: usize, limit: Option<u64>) -> Vec<Span> {
        let mut left = limit.unwrap_or(u64::MAX);
        let mut spans = Vec::new();
        for file in &self.files {
            let mut file_row_start = 0;
            for (row_group, size) in file.row_groups.iter().enumerate() {
                let mut row_start = 0;
                while row_start < size.n_rows && left > 0 {
                    let rows_left = usize::try_from(left).unwrap_or(usize::MAX);
                    let n_rows = span_rows.min(size.n_rows - row_start).min(rows_left);
                    spans.push(Span {
                        object: file.object.clone(),
                        row_group,
                        row_start,
                        n_rows,
                        file_row_start: file_row_start + row_start as u64,
                    });
                    row_start += n_rows;
                    left -= n_rows as u64;
                }
                file_row_start += size.n_rows as u64;
            }
        }
        spans
    }
}

/// Files of a store whose footers are read at a time.
const OPENED_AT_A_TIME: usize = 16;

/// Reads rows of one row group at a time of one file, footer parsed once.
pub struct FileReader {
    file: SourceFile,
    metadata: ArrowReaderMetadata,
}

/// What the reader says of text that is not UTF-8: "non UTF-8 data", "invalid utf-8 sequence".
const NOT_UTF8: &str = "utf-8";

/// Why rows that the footer promises cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("rows of row group {row_group} of `{path}` cannot be read: {problem}")]
pub struct ReadError {
    /// The file.
    pub path: String,
    /// The row group.
    pub row_group: usize,
    /// What the reader says.
    pub problem: String,
    /// Whether the disk or the store failed, which may pass, and not the file is damaged.
    pub may_pass: bool,
}

impl ReadError {
    /// Returns whether text that is not UTF-8 is in the way.
    #[must_use]
    pub fn is_not_utf8(&self) -> bool {
        !self.may_pass && self.problem.to_lowercase().contains(NOT_UTF8)
    }
}

impl FileReader {
    /// Opens the file at `path`, absolute or a URL, and parses its footer.
    ///
    /// # Errors
    ///
    /// [`SourceError::Io`] or [`SourceError::Parquet`].
    pub fn open(path: &str, bytes_read: &BytesRead) -> Result<Self, SourceError> {
        let io_error = |source| SourceError::Io { path: PathBuf::from(path), source };
        let file = SourceFile::open(path, bytes_read).map_err(io_error)?;
        let metadata = load_metadata(&file)?;
        Ok(Self { file, metadata })
    }

    /// Returns the file as it was opened.
    #[must_use]
    pub fn file(&self) -> &SourceFile {
        &self.file
    }

    /// Returns the schema of the file.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    /// Returns a reader of the same file that gives its columns of text as bytes.
    ///
    /// # Errors
    ///
    /// The Parquet crate's, if the file's schema cannot be rewritten.
    pub fn texts_as_bytes(&self) -> Result<Self, ParquetError> {
        let metadata = text_bytes::without_text(&self.metadata)?;
        Ok(Self { file: self.file.clone(), metadata })
    }

    /// Finds what reading rows of `columns` (all when none are named) takes, where at most `bytes_max`
    /// may be taken.
    #[must_use]
    pub fn row_bounds(
        &self,
        row_group: usize,
        columns: Option<&[String]>,
        bytes_max: u64,
    ) -> RowBounds {
        let groups = self.metadata.metadata().row_groups();
        let n_rows = groups.get(row_group).map_or(0, |group| group.num_rows());
        let n_rows = usize::try_from(n_rows).unwrap_or(0);
        let is_far = is_url(&self.file.object().path);
        pages::bounds(&self.file, &self.chunks(row_group, columns), n_rows, bytes_max, is_far)
    }

    fn chunks(&self, row_group: usize, columns: Option<&[String]>) -> Vec<&ColumnChunkMetaData> {
        let chunks = self.metadata.metadata().row_groups().get(row_group);
        let chunks = chunks.map(|group| group.columns()).unwrap_or_default();
        let named = |chunk: &&ColumnChunkMetaData| {
            let root = chunk.column_path().parts().first();
            columns.is_none_or(|names| root.is_some_and(|root| names.contains(root)))
        };
        chunks.iter().filter(named).collect()
    }

    /// Starts to read the rows `ranges` (ascending, within the row group) of `columns` (all when
    /// none are named), in batches of at most `batch_rows` rows.
    ///
    /// Every item of the iterator may fail, and after a failure no more follow. A panic inside the
    /// reader, which hostile files can cause, is such a failure.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when not even the first page can be found.
    pub fn read(
        &self,
        row_group: usize,
        ranges: &[Range<usize>],
        columns: Option<&[String]>,
        batch_rows: usize,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, ReadError>> + use<>, ReadError> {
        self.read_within(row_group, ranges, columns, BatchLimits::of_rows(batch_rows))
    }

    /// Starts to read rows as [`read`](Self::read) does, in batches within `limits`.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when not even the first page can be found.
    pub fn read_within(
        &self,
        row_group: usize,
        ranges: &[Range<usize>],
        columns: Option<&[String]>,
        limits: BatchLimits,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, ReadError>> + use<>, ReadError> {
        let byte_ranges = self.chunks(row_group, columns).into_iter().map(|chunk| {
            // Of a hostile footer these may be anything; they bound what is fetched and no more.
            let column = |at: i64| u64::try_from(at).unwrap_or_default();
            let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
            column(start)..column(start.saturating_add(chunk.compressed_size()))
        });
        let file = self.file.within(byte_ranges.collect());
        let refuse = {
            let file = file.clone();
            move |problem: String| {
                let failure = file.failure();
                ReadError {
                    path: file.object().path.clone(),
                    row_group,
                    may_pass: failure.is_some(),
                    problem: failure.unwrap_or(problem),
                }
            }
        };
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
        let mask = match columns {
            None => ProjectionMask::all(),
            Some(names) => {
                let schema = builder.schema();
                let roots: Vec<usize> =
                    names.iter().filter_map(|name| schema.index_of(name).ok()).collect();
                ProjectionMask::roots(builder.parquet_schema(), roots)
            }
        };
        let builder = builder
            .with_row_groups(vec![row_group])
            .with_projection(mask)
            .with_row_selection(selection(ranges))
            // Rows that are skipped are not looked at, so damage in them costs nothing; with a mask
            // they would be read and thrown away.
            .with_row_selection_policy(RowSelectionPolicy::Selectors)
            .with_batch_size(limits.step_rows);
        let built = guarded_within(CALL_MAX, move || builder.build());
        let reader = match built {
            Ok(built) => built.map_err(|error| refuse(error.to_string()))?,
            Err(error) => return Err(refuse(error.to_string())),
        };
        let mut reader = Some(Steps::new(reader, limits));
        Ok(std::iter::from_fn(move || {
            // After a failure the reader is gone.
            let mut at_work = reader.take()?;
            let next = guarded_within(CALL_MAX, move || (at_work.next(), at_work));
            Some(match next {
                Ok((None, _)) => return None,
                Ok((Some(Ok(batch)), idle)) => {
                    reader = Some(idle);
                    Ok(batch)
                }
                Ok((Some(Err(error)), _)) => Err(refuse(shorten(&error))),
                Err(error) => Err(refuse(error.to_string())),
            })
        }))
    }
}

/// The reader's own message without the wrappers around it.
fn shorten(error: &ArrowError) -> String {
    error.to_string().replace("Parquet argument error: ", "")
}

fn selection(ranges: &[Range<usize>]) -> RowSelection {
    let mut selectors = Vec::with_capacity(ranges.len() * 2);
    let mut row = 0;
    for range in ranges {
        if range.start > row {
            selectors.push(RowSelector::skip(range.start - row));
        }
        selectors.push(RowSelector::select(range.len()));
        row = range.end;
    }
    RowSelection::from(selectors)
}

/// Reads a file's footer and holds it to itself: rows that it claims and cannot have would become
/// spans without end.
///
/// A hostile footer can make the reader panic (apache/arrow-rs#9705, #10107).
fn load_metadata(file: &SourceFile) -> Result<ArrowReaderMetadata, SourceError> {
    let own_file = file.clone();
    let load = move || ArrowReaderMetadata::load(&own_file, ArrowReaderOptions::new());
    let loaded = guarded_within(CALL_MAX, load)
        .unwrap_or_else(|error| Err(ParquetError::General(format!("its footer: {error}"))))
        .and_then(|loaded| match contradiction(loaded.metadata()) {
            Some(problem) => Err(ParquetError::General(problem)),
            None => Ok(loaded),
        });
    let path = PathBuf::from(&file.object().path);
    loaded.map_err(|source| match file.failure() {
        Some(problem) => SourceError::Io { path, source: std::io::Error::other(problem) },
        None => SourceError::Parquet { path, source },
    })
}

/// Finds where the counts of a footer contradict each other. Every column of a row group has a value
/// or a null for each of its rows, and the file has the rows of its row groups.
fn contradiction(metadata: &ParquetMetaData) -> Option<String> {
    let mut n_rows: i64 = 0;
    for (idx, group) in metadata.row_groups().iter().enumerate() {
        let claimed = group.num_rows();
        let mut values = group.columns().iter().map(|column| column.num_values());
        if claimed < 0 || values.any(|n_values| n_values < claimed) {
            return Some(format!("row group {idx} claims {claimed} rows, and columns with fewer"));
        }
        n_rows = n_rows.saturating_add(claimed);
    }
    let claimed = metadata.file_metadata().num_rows();
    (claimed != n_rows)
        .then(|| format!("it claims {claimed} rows, and row groups with {n_rows} together"))
}

/// Returns whether cells of this type can hold media: bytes, `{bytes, path}`, a path, or a list
/// of those.
#[must_use]
pub fn holds_media(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            !matches!(
                item.data_type(),
                DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)
            ) && holds_media(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| {
            matches!(field.name().as_str(), "bytes" | "path") && is_bytes_or_text(field.data_type())
        }),
        data_type => is_bytes_or_text(data_type),
    }
}

fn is_bytes_or_text(data_type: &DataType) -> bool {
    is_bytes(data_type)
        || matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_)
    )
}

/// Returns whether a column holds bytes anywhere, which are not carried to the answers unasked.
#[must_use]
pub fn holds_bytes(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            holds_bytes(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| holds_bytes(field.data_type())),
        data_type => is_bytes(data_type),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs::File, path::Path, sync::Arc};

    use arrow::{
        array::{ArrayRef, AsArray, Int64Array, RecordBatch},
        datatypes::Int64Type,
    };
    use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
    use proptest::prelude::*;

    use super::{FileReader, SourceTable};

    fn write(path: &Path, n_rows: i64, group_rows: usize) {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n_rows));
        let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        let properties =
            WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
        let file = File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn spans_cover_every_row_once(
            n_rows in 0_i64..60,
            group_rows in 1_usize..20,
            span_rows in 1_usize..20,
            limit in prop::option::of(0_u64..70),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("t.parquet");
            write(&path, n_rows, group_rows);
            let path = path.to_string_lossy().into_owned();
            let table = SourceTable::open(std::slice::from_ref(&path), &HashMap::new()).unwrap();
            let reader = FileReader::open(&path, &table.bytes_read).unwrap();
            let mut seen: Vec<i64> = Vec::new();
            for span in table.spans(span_rows, limit) {
                prop_assert_eq!(span.file_row_start, seen.len() as u64);
                let rows = span.row_start..span.row_start + span.n_rows;
                for batch in reader.read(span.row_group, &[rows], None, 7).unwrap() {
                    let batch = batch.unwrap();
                    seen.extend(batch.column(0).as_primitive::<Int64Type>().values().iter());
                }
            }
            let wanted = n_rows.min(i64::try_from(limit.unwrap_or(99)).unwrap());
            prop_assert_eq!(seen, (0..wanted).collect::<Vec<_>>());
        }
    }
}
