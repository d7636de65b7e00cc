//! Tables as the bytes of a file, and back.

mod json_lines;

use std::io::Cursor;

use arrow::{
    array::RecordBatch,
    datatypes::SchemaRef,
    error::ArrowError,
    ipc::{
        CompressionType,
        reader::{FileReader, StreamReader},
        writer::{FileWriter, IpcWriteOptions, StreamWriter},
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
        Format::Jsonl => return json_lines::write(batch),
    }
    Ok(bytes.into())
}

/// Writes down the schema of tables in `format`, where their files do not tell it.
///
/// # Errors
///
/// The encoder's.
pub fn write_schema(format: Format, schema: &SchemaRef) -> Result<Option<Bytes>, ArrowError> {
    if format != Format::Jsonl {
        return Ok(None);
    }
    // Metadata come in no order; bytes that depend on the schema alone need one.
    let mut bytes = Vec::new();
    StreamWriter::try_new(&mut bytes, schema)?.finish()?;
    Ok(Some(bytes.into()))
}

/// Reads a schema that [`write_schema`] wrote.
///
/// # Errors
///
/// The reader's.
pub fn read_schema(bytes: Bytes) -> Result<SchemaRef, ArrowError> {
    Ok(StreamReader::try_new(Cursor::new(bytes), None)?.schema())
}

/// Reads a table that [`write_table`] wrote. A JSON Lines file needs the `schema` that it was written
/// by.
///
/// # Errors
///
/// The reader's.
pub fn read_table(
    bytes: Bytes,
    format: Format,
    schema: Option<&SchemaRef>,
) -> Result<Vec<RecordBatch>, ArrowError> {
    match format {
        Format::Parquet => ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()?.collect(),
        Format::Arrow => FileReader::try_new(Cursor::new(bytes), None)?.collect(),
        Format::Jsonl => {
            let missing = || ArrowError::SchemaError("its schema is not known".to_owned());
            json_lines::read(bytes, schema.ok_or_else(missing)?)
        }
    }
}
