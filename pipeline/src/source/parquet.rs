//! Parquet files: their footers, and rows of their row groups.

use std::{ops::Range, path::PathBuf, sync::Arc};

use arrow::{array::RecordBatch, datatypes::SchemaRef, error::ArrowError};
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
    file::SourceFile,
    pages::{self, RowBounds},
    reader::ReadError,
    steps::{BatchLimits, Steps},
    table::RowGroupSize,
    text_bytes,
};
use crate::{
    guard::{CALL_MAX, guarded_within},
    store::is_url,
};

/// A Parquet file, its footer parsed.
pub(super) struct ParquetFile {
    file: SourceFile,
    metadata: ArrowReaderMetadata,
}

impl ParquetFile {
    /// Parses the footer of `file`.
    ///
    /// # Errors
    ///
    /// [`SourceError::Io`] or [`SourceError::Parquet`].
    pub(super) fn open(file: SourceFile) -> Result<Self, SourceError> {
        let metadata = load_metadata(&file)?;
        Ok(Self { file, metadata })
    }

    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(self.metadata.schema())
    }

    pub(super) fn row_groups(&self) -> Vec<RowGroupSize> {
        let groups = self.metadata.metadata().row_groups().iter();
        groups
            .map(|group| RowGroupSize {
                n_rows: usize::try_from(group.num_rows()).unwrap_or(0),
                bytes: u64::try_from(group.total_byte_size()).unwrap_or(0),
            })
            .collect()
    }

    /// Returns the same file, its columns of text as bytes.
    pub(super) fn texts_as_bytes(&self) -> Result<Self, ParquetError> {
        let metadata = text_bytes::without_text(&self.metadata)?;
        Ok(Self { file: self.file.clone(), metadata })
    }

    /// See [`super::reader::FileReader::row_bounds`].
    pub(super) fn row_bounds(
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
    pub(super) fn read(
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
