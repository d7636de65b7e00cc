//! The memory needs of the rows of a row group, computed from its page sizes, which are only in the page
//! headers.
//!
//! A page is read whole, so a row needs as much memory as its page. Headers use Thrift's compact protocol;
//! only the few relevant fields are parsed here, and the Parquet reader parses them again.

use std::{io::Read, ops::Range};

use parquet::file::{metadata::ColumnChunkMetaData, reader::ChunkReader};

use super::compact::{Compact, I32, STRUCT};

/// The memory needs of rows of a row group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowBounds {
    /// The maximum bytes of a row that is not refused.
    pub row_bytes_max: u64,
    /// Rows whose pages exceed the limit, as ascending positions within the row group.
    pub refused: Vec<RefusedRows>,
}

impl RowBounds {
    /// Returns the memory needs of a refused row; `None` if the row is not refused.
    #[must_use]
    pub fn refused_at(&self, row: usize) -> Option<u64> {
        let after = self.refused.partition_point(|refused| refused.rows.end <= row);
        self.refused.get(after).filter(|refused| refused.rows.contains(&row)).map(|one| one.bytes)
    }
}

/// Rows of a page that exceeds the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRows {
    /// The rows.
    pub rows: Range<usize>,
    /// The bytes needed to read them.
    pub bytes: u64,
}

/// Smaller row groups are not inspected: no row of them is large.
const WHOLE_BYTES_MAX: u64 = 64 << 10;

/// Computes the memory needs of the rows of `chunks`, the columns to read of a row group of `n_rows`, with at
/// most `bytes_max`, and as much again for decompression, for copied dictionary values, or for cells. If the
/// file `is_far`, in a store, headers are only read if necessary, because every read is expensive.
///
///
/// Damaged headers refuse no row: the reader reports them.
pub(super) fn bounds(
    file: &impl ChunkReader,
    chunks: &[&ColumnChunkMetaData],
    n_rows: usize,
    bytes_max: u64,
    is_far: bool,
) -> RowBounds {
    let size = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    let total: u64 = chunks.iter().map(|chunk| size(chunk.uncompressed_size())).sum();
    if (is_far || total <= WHOLE_BYTES_MAX) && total <= bytes_max {
        return RowBounds { row_bytes_max: total, refused: Vec::new() };
    }
    let columns: Vec<Column> = chunks.iter().map(|chunk| Column::read(file, chunk)).collect();
    let need = |column: &Column| column.dictionary_need + column.page_need_max();
    // Small columns are always read; large ones share the rest.
    let is_small = |column: &&Column| need(column) <= bytes_max / 8;
    let small_bytes: u64 = columns.iter().filter(is_small).map(need).sum();
    let n_large = columns.iter().filter(|column| !is_small(column)).count() as u64;
    let share = bytes_max.saturating_sub(small_bytes) / n_large.max(1);
    let mut refused: Vec<RefusedRows> = Vec::new();
    let mut row_bytes_max = 0;
    for column in &columns {
        let mut largest = column.dictionary_bytes;
        for page in &column.pages {
            let bytes = column.dictionary_need + page.need;
            if !is_small(&column) && bytes > share {
                // Page headers of lists may not contain the row range.
                let rows = page.rows.clone().unwrap_or(0..n_rows);
                refused.push(RefusedRows { rows, bytes });
            } else {
                largest = largest.max(page.bytes);
            }
        }
        // A row of a list may span two pages.
        let pages = if column.is_flat { 1 } else { 2 };
        row_bytes_max += largest.min(column.dictionary_bytes.max(share)) * pages;
    }
    RowBounds { row_bytes_max, refused: joined(refused) }
}

/// Sorts ranges and merges adjacent ones.
fn joined(mut refused: Vec<RefusedRows>) -> Vec<RefusedRows> {
    refused.sort_by_key(|one| (one.rows.start, one.rows.end));
    let mut joined: Vec<RefusedRows> = Vec::new();
    for next in refused {
        match joined.last_mut() {
            Some(last) if next.rows.start <= last.rows.end => {
                last.rows.end = last.rows.end.max(next.rows.end);
                last.bytes = last.bytes.max(next.bytes);
            }
            _ => joined.push(next),
        }
    }
    joined
}

/// The pages of a column in a row group.
struct Column {
    is_flat: bool,
    /// The memory needed to read the dictionary.
    dictionary_bytes: u64,
    dictionary_need: u64,
    pages: Vec<Page>,
}

struct Page {
    /// Its rows, if known.
    rows: Option<Range<usize>>,
    /// The memory needed to read it.
    bytes: u64,
    need: u64,
}

impl Column {
    fn read(file: &impl ChunkReader, chunk: &ColumnChunkMetaData) -> Self {
        let is_flat = chunk.column_descr().max_rep_level() == 0;
        let mut column =
            Self { is_flat, dictionary_bytes: 0, dictionary_need: 0, pages: Vec::new() };
        let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
        let mut at = u64::try_from(start).unwrap_or(u64::MAX);
        let end = at.saturating_add(u64::try_from(chunk.compressed_size()).unwrap_or(0));
        let mut row = 0;
        while at < end.min(file.len()) {
            let Some(header) = file.get_read(at).ok().and_then(Header::read) else {
                break;
            };
            let bytes = u64::from(header.uncompressed_bytes);
            let packed = u64::from(header.compressed_bytes);
            let need = bytes.max(packed);
            if header.kind == DICTIONARY {
                column.dictionary_bytes = bytes;
                column.dictionary_need = need;
            } else {
                let n_rows = if is_flat { header.n_values } else { header.n_rows };
                let rows = n_rows.map(|n_rows| row..row + n_rows as usize);
                // After a page with unknown rows, row numbers are unknown.
                row = rows.as_ref().map_or(usize::MAX / 2, |rows| rows.end);
                let rows = rows.filter(|rows| rows.end < usize::MAX / 2);
                column.pages.push(Page { rows, bytes, need });
            }
            at = at.saturating_add(header.n_bytes).saturating_add(packed);
        }
        column
    }

    fn page_need_max(&self) -> u64 {
        self.pages.iter().map(|page| page.need).max().unwrap_or(0)
    }
}

/// `PageType.DICTIONARY_PAGE` of parquet.thrift.
const DICTIONARY: i64 = 2;

/// The relevant fields of a page header (`PageHeader` of parquet.thrift).
#[derive(Debug, Default, PartialEq, Eq)]
struct Header {
    kind: i64,
    uncompressed_bytes: u32,
    compressed_bytes: u32,
    n_values: Option<u32>,
    n_rows: Option<u32>,
    /// The size of the header itself.
    n_bytes: u64,
}

impl Header {
    fn read(from: impl Read) -> Option<Self> {
        let mut input = Compact::new(from);
        let mut header = Self::default();
        let size = |n: i64| u32::try_from(n).ok();
        let mut last = 0;
        while let Some((id, kind)) = input.field(&mut last)? {
            match (id, kind) {
                (1, I32) => header.kind = input.integer()?,
                (2, I32) => header.uncompressed_bytes = size(input.integer()?)?,
                (3, I32) => header.compressed_bytes = size(input.integer()?)?,
                // `DataPageHeader` and `DataPageHeaderV2`: values are field 1, rows are field 3 of the
                // latter.
                (5 | 8, STRUCT) => {
                    let mut last = 0;
                    while let Some((field, kind)) = input.field(&mut last)? {
                        match (field, kind) {
                            (1, I32) => header.n_values = Some(size(input.integer()?)?),
                            (3, I32) if id == 8 => header.n_rows = Some(size(input.integer()?)?),
                            _ => input.skip(kind, DEPTH_MAX)?,
                        }
                    }
                }
                _ => input.skip(kind, DEPTH_MAX)?,
            }
        }
        header.n_bytes = input.n_read;
        Some(header)
    }
}

/// Headers nest structs three levels deep.
const DEPTH_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
    use bytes::Bytes;
    use parquet::{
        arrow::ArrowWriter,
        basic::{Compression, ZstdLevel},
        file::{
            metadata::ParquetMetaDataReader,
            properties::{WriterProperties, WriterVersion},
        },
    };

    use super::{RefusedRows, RowBounds, bounds};

    /// Pages of ten rows of 1,000 bytes each, except for row 25, which has 300,000.
    fn file(version: WriterVersion, compression: Compression, by_dictionary: bool) -> Bytes {
        let cells = (0_u8..40).map(|row| vec![row; if row == 25 { 300_000 } else { 1000 }]);
        let cells: ArrayRef = Arc::new(BinaryArray::from_iter_values(cells));
        let batch = RecordBatch::try_from_iter([("c", cells)]).unwrap();
        let properties = WriterProperties::builder()
            .set_writer_version(version)
            .set_compression(compression)
            .set_dictionary_enabled(by_dictionary)
            .set_data_page_row_count_limit(10)
            .set_write_batch_size(10)
            .build();
        let mut bytes = Vec::new();
        let mut writer =
            ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        bytes.into()
    }

    fn bounds_of(file: &Bytes, bytes_max: u64) -> RowBounds {
        let metadata = ParquetMetaDataReader::new().parse_and_finish(file).unwrap();
        let chunks: Vec<_> = metadata.row_group(0).columns().iter().collect();
        bounds(file, &chunks, 40, bytes_max, false)
    }

    #[test]
    fn rows_of_a_large_page_are_refused_and_no_others() {
        let zstd = Compression::ZSTD(ZstdLevel::default());
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for compression in [Compression::UNCOMPRESSED, zstd] {
                let file = file(version, compression, false);
                let found = bounds_of(&file, 100_000);
                let [RefusedRows { rows, bytes }] = found.refused.as_slice() else {
                    panic!("{version:?} {compression:?}: {found:?}")
                };
                assert_eq!(*rows, 20..30, "{version:?} {compression:?}");
                assert!((309_000..350_000).contains(bytes), "{bytes}");
                assert!((10_000..12_000).contains(&found.row_bytes_max), "{found:?}");
                assert_eq!(found.refused_at(25), Some(*bytes));
                assert_eq!((found.refused_at(19), found.refused_at(30)), (None, None));
                let roomy = bounds_of(&file, 1 << 20);
                assert!(roomy.refused.is_empty() && roomy.row_bytes_max > 300_000, "{roomy:?}");
            }
        }
    }

    #[test]
    fn a_dictionary_is_read_for_any_row() {
        let file = file(WriterVersion::PARQUET_1_0, Compression::UNCOMPRESSED, true);
        assert_eq!(bounds_of(&file, 100_000).refused[0].rows, 0..40);
        let roomy = bounds_of(&file, 1 << 20);
        assert!(roomy.refused.is_empty() && roomy.row_bytes_max > 300_000, "{roomy:?}");
    }

    #[test]
    fn damaged_headers_are_left_to_the_reader() {
        let mut bytes = file(WriterVersion::PARQUET_1_0, Compression::UNCOMPRESSED, false).to_vec();
        bytes[4..64].fill(0xFF);
        let end = bytes.len();
        assert!(bytes[end - 4..] == *b"PAR1");
        assert!(bounds_of(&bytes.into(), 100_000).refused.is_empty());
    }
}
