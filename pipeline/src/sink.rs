//! Tables as the bytes of a file, and back.

use std::io::Cursor;

use arrow::{
    array::RecordBatch,
    error::ArrowError,
    ipc::{
        CompressionType,
        reader::FileReader,
        writer::{FileWriter, IpcWriteOptions},
    },
};
use bytes::Bytes;
use legenda_schemas::job::Format;
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};

/// Rows of a row group of a part: large enough to compress, small enough to read piecewise.
const ROW_GROUP_ROWS: usize = 64 * 1024;

/// Writes `batch` in `format`.
///
/// The bytes depend on the rows alone, so that a part written again is the same file.
///
/// # Errors
///
/// The encoder's.
pub fn write_table(format: Format, batch: &RecordBatch) -> Result<Bytes, ArrowError> {
    let schema = batch.schema();
    // The Parquet writer wants a sized, sendable sink: parts are small, so memory is one.
    let mut bytes = Vec::new();
    match format {
        Format::Parquet => {
            let properties = WriterProperties::builder()
                .set_created_by(format!("legenda {}", env!("CARGO_PKG_VERSION")))
                .set_compression(Compression::ZSTD(ZstdLevel::default()))
                .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                .build();
            let write = |bytes: &mut Vec<u8>| -> Result<(), ParquetError> {
                let mut writer = ArrowWriter::try_new(bytes, schema, Some(properties))?;
                writer.write(batch)?;
                writer.close().map(|_| ())
            };
            write(&mut bytes)?;
        }
        Format::Arrow => {
            let options =
                IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
            let mut writer = FileWriter::try_new_with_options(&mut bytes, &schema, options)?;
            writer.write(batch)?;
            writer.finish()?;
        }
    }
    Ok(bytes.into())
}

/// Reads a table that [`write_table`] wrote.
///
/// # Errors
///
/// The reader's.
pub fn read_table(bytes: Bytes, format: Format) -> Result<Vec<RecordBatch>, ArrowError> {
    match format {
        Format::Parquet => ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()?.collect(),
        Format::Arrow => FileReader::try_new(Cursor::new(bytes), None)?.collect(),
    }
}
