//! Serialisation of tables to files, and back.

mod csv;
mod file;
mod json_lines;

pub(crate) use file::TableWriter;

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

/// Rows per row group of a part: enough to compress well, few enough to read in pieces.
const ROW_GROUP_ROWS: usize = 64 * 1024;

/// Serialises `batch` in `format`.
///
/// The bytes depend only on the rows, so a rewritten part is the same file.
///
/// # Errors
///
/// The encoder's.
pub(crate) fn write_table(format: Format, batch: &RecordBatch) -> Result<Bytes, ArrowError> {
    let schema = batch.schema();
    // The Parquet writer needs a `Send` sink; parts are small enough for memory.
    let mut bytes = Vec::new();
    match format {
        Format::Parquet => {
            let properties = parquet_properties();
            let write = |bytes: &mut Vec<u8>| -> Result<(), ParquetError> {
                let mut writer = ArrowWriter::try_new(bytes, schema, Some(properties))?;
                writer.write(batch)?;
                writer.close().map(|_| ())
            };
            write(&mut bytes)?;
        }
        Format::Arrow => {
            let mut writer =
                FileWriter::try_new_with_options(&mut bytes, &schema, arrow_options()?)?;
            writer.write(batch)?;
            writer.finish()?;
        }
        Format::Jsonl => json_lines::write_rows(batch, &mut bytes)?,
        Format::Csv => {
            csv::write_header(&schema, &mut bytes)?;
            csv::write_rows(batch, &mut bytes)?;
        }
    }
    Ok(bytes.into())
}

fn parquet_properties() -> WriterProperties {
    WriterProperties::builder()
        .set_created_by(format!("legenda {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build()
}

fn arrow_options() -> Result<IpcWriteOptions, ArrowError> {
    IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))
}

/// Serialises the schema of tables in `format`; `None` if the files store it themselves.
///
/// # Errors
///
/// The encoder's.
pub(crate) fn write_schema(
    format: Format,
    schema: &SchemaRef,
) -> Result<Option<Bytes>, ArrowError> {
    if matches!(format, Format::Parquet | Format::Arrow) {
        return Ok(None);
    }
    // Metadata has no order; sort it so that the bytes only depend on the schema.
    let mut bytes = Vec::new();
    StreamWriter::try_new(&mut bytes, schema)?.finish()?;
    Ok(Some(bytes.into()))
}

/// Reads a schema written by [`write_schema`].
///
/// # Errors
///
/// The reader's.
pub(crate) fn read_schema(bytes: Bytes) -> Result<SchemaRef, ArrowError> {
    Ok(StreamReader::try_new(Cursor::new(bytes), None)?.schema())
}

/// Reads a table written by [`write_table`]. JSON Lines and CSV files need the `schema` they were written
/// with.
///
/// # Errors
///
/// The reader's.
pub(crate) fn read_table(
    bytes: Bytes,
    format: Format,
    schema: Option<&SchemaRef>,
) -> Result<Vec<RecordBatch>, ArrowError> {
    let missing = || ArrowError::SchemaError("the schema is missing".to_owned());
    match format {
        Format::Parquet => ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()?.collect(),
        Format::Arrow => FileReader::try_new(Cursor::new(bytes), None)?.collect(),
        Format::Jsonl => json_lines::read(bytes, schema.ok_or_else(missing)?),
        Format::Csv => csv::read(&bytes, schema.ok_or_else(missing)?),
    }
}
