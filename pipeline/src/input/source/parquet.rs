//! Parquet files: footers and row groups.

use std::{collections::HashSet, ops::Range, path::PathBuf, sync::Arc};

use arrow::{
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
};
use legenda_schemas::cause::{Cause, chain};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ParquetRecordBatchReaderBuilder, RowSelection, RowSelectionPolicy,
            RowSelector,
        },
    },
    basic::ConvertedType,
    errors::ParquetError,
    file::{
        metadata::{ColumnChunkMetaData, ParquetMetaData},
        statistics::Statistics,
    },
};

use super::{
    SourceError,
    convert::{EXACT_MAX, conform},
    file::SourceFile,
    footer::{columns_of, read_footer},
    pages::{self, RowBounds},
    portable::portable_schema,
    reader::ReadError,
    rows::ReadRows,
    steps::{BatchLimits, Steps},
    table_file::RowGroupSize,
    text_bytes,
};
use crate::base::{
    guard::{CALL_MAX, guarded_within},
    store::is_url,
};

/// A Parquet file with a parsed footer.
pub(super) struct ParquetFile {
    file: SourceFile,
    metadata: ArrowReaderMetadata,
    /// Whether text columns are read as bytes.
    is_text_as_bytes: bool,
}

/// Properties of columns besides their types.
#[derive(Debug)]
pub(super) struct ParquetColumns {
    /// 64-bit integer columns whose values are exact as floats according to the file's statistics.
    small_integers: HashSet<String>,
}

impl ParquetColumns {
    pub(super) fn has_small_integers(&self, column: &str) -> bool {
        self.small_integers.contains(column)
    }
}

impl ParquetFile {
    /// Parses the footer of `file`.
    ///
    /// # Errors
    ///
    /// [`SourceError::Io`] or [`SourceError::Parquet`].
    pub(super) fn open(file: SourceFile) -> Result<Self, SourceError> {
        let metadata = load_metadata(&file)?;
        Ok(Self { file, metadata, is_text_as_bytes: false })
    }

    /// Returns the columns, converted to types that every output supports.
    pub(super) fn schema(&self) -> SchemaRef {
        portable_schema(self.metadata.schema())
    }

    pub(super) fn columns(&self) -> ParquetColumns {
        let integers = self.metadata.schema().fields().iter().filter(|field| {
            matches!(field.data_type(), DataType::Int64 | DataType::UInt64)
                && self.chunks_of(field.name()).all(has_small_integers)
        });
        let small_integers = integers.map(|field| field.name().clone()).collect();
        ParquetColumns { small_integers }
    }

    fn chunks_of(&self, column: &str) -> impl Iterator<Item = &ColumnChunkMetaData> {
        let groups = self.metadata.metadata().row_groups().iter();
        let chunks = groups.flat_map(|group| group.columns());
        chunks.filter(move |chunk| chunk.column_path().parts() == [column])
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

    /// Returns the same file with text columns read as bytes.
    pub(super) fn texts_as_bytes(&self) -> Result<Self, ParquetError> {
        let metadata = text_bytes::without_text(&self.metadata)?;
        Ok(Self { file: self.file.clone(), metadata, is_text_as_bytes: true })
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

    /// Starts to read the rows `ranges` (ascending, within the row group) of `columns` (`None` for all) in
    /// batches of at most `batch_rows` rows, as rows of `schema`.
    ///
    /// Any item of the iterator may fail, and none follows an error. A panic inside the reader, which
    /// malicious files can cause, is such an error.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the first page cannot be found.
    pub(super) fn read(
        &self,
        row_group: usize,
        ranges: &[Range<usize>],
        columns: Option<&[String]>,
        schema: &SchemaRef,
        limits: BatchLimits,
    ) -> Result<impl Iterator<Item = Result<ReadRows, ReadError>> + use<>, ReadError> {
        let schema = if self.is_text_as_bytes {
            text_bytes::schema_of_bytes(schema)
        } else {
            Arc::clone(schema)
        };
        let byte_ranges = self.chunks(row_group, columns).into_iter().map(|chunk| {
            // In a malicious footer these may have any value; they only bound what is fetched.
            let column = |at: i64| u64::try_from(at).unwrap_or_default();
            let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
            column(start)..column(start.saturating_add(chunk.compressed_size()))
        });
        let file = self.file.within(byte_ranges.collect());
        let refuse = {
            let file = file.clone();
            move |problem: Cause| file.read_error(row_group, problem)
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
            // Skipped rows are not decoded, so damage in them has no effect; with a mask they would be
            // decoded and discarded.
            .with_row_selection_policy(RowSelectionPolicy::Selectors)
            .with_batch_size(limits.step_rows);
        let built = guarded_within(CALL_MAX, move || builder.build());
        let reader = match built {
            Ok(built) => built.map_err(|error| refuse(error.into()))?,
            Err(error) => return Err(refuse(error.into())),
        };
        let mut reader = Some(Steps::new(reader, limits));
        Ok(std::iter::from_fn(move || {
            // The reader is dropped after an error.
            let mut at_work = reader.take()?;
            let next = guarded_within(CALL_MAX, move || (at_work.next(), at_work));
            Some(match next {
                Ok((None, _)) => return None,
                Ok((Some(Ok(batch)), idle)) => {
                    reader = Some(idle);
                    Ok(conform(batch, &schema))
                }
                Ok((Some(Err(error)), _)) => Err(refuse(shorten(&error).into())),
                Err(error) => Err(refuse(error.into())),
            })
        }))
    }
}

/// Returns the reader's own message without its wrappers.
fn shorten(error: &ArrowError) -> String {
    error.to_string().replace("Parquet argument error: ", "")
}

/// Returns whether the statistics of a chunk imply that its integers are exact as floats.
fn has_small_integers(chunk: &ColumnChunkMetaData) -> bool {
    let Some(Statistics::Int64(values)) = chunk.statistics() else { return false };
    let n_values = u64::try_from(chunk.num_values()).ok();
    if n_values.is_some() && values.null_count_opt() == n_values {
        return true;
    }
    let Some((min, max)) = values.min_opt().zip(values.max_opt()) else { return false };
    // Statistics of unsigned integers contain their bits, so large ones look negative.
    let is_unsigned = chunk.column_descr().converted_type() == ConvertedType::UINT_64;
    (!is_unsigned || (*min >= 0 && *max >= 0))
        && min.unsigned_abs().max(max.unsigned_abs()) <= EXACT_MAX
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

/// Reads a file's footer and checks its consistency: rows that it claims but cannot have would become
/// endless spans.
///
/// A malicious footer can make the reader panic (apache/arrow-rs#9705, #10107).
fn load_metadata(file: &SourceFile) -> Result<ArrowReaderMetadata, SourceError> {
    let own_file = file.clone();
    let load = move || {
        let footer = read_footer(&own_file)?;
        match contradiction(&footer) {
            Some(problem) => Err(ParquetError::General(problem)),
            None => columns_of(footer),
        }
    };
    let loaded = guarded_within(CALL_MAX, load)
        .unwrap_or_else(|error| Err(ParquetError::General(format!("footer: {}", chain(&error)))));
    let path = PathBuf::from(&file.object().path);
    loaded.map_err(|source| match file.failure() {
        Some(problem) => SourceError::Io { path, source: std::io::Error::other(problem) },
        None => SourceError::Parquet { path, source },
    })
}

/// Finds contradictions between the counts of a footer. Every column of a row group has a value or a null
/// for each of its rows, and the file has the rows of its row groups, or claims none (some writers count
/// none; pyarrow trusts the row groups).
fn contradiction(metadata: &ParquetMetaData) -> Option<String> {
    let mut n_rows: i64 = 0;
    for (idx, group) in metadata.row_groups().iter().enumerate() {
        let claimed = group.num_rows();
        let mut values = group.columns().iter().map(|column| column.num_values());
        if claimed < 0 || values.any(|n_values| n_values < claimed) {
            return Some(format!(
                "row group {idx} claims {claimed} rows, but has columns with fewer"
            ));
        }
        n_rows = n_rows.saturating_add(claimed);
    }
    let claimed = metadata.file_metadata().num_rows();
    (claimed != n_rows && claimed != 0)
        .then(|| format!("the footer claims {claimed} rows, but its row groups have {n_rows}"))
}
