//! A table written to a file piece by piece, so that only a piece is in memory.

use std::io::Write;

use arrow::{array::RecordBatch, datatypes::SchemaRef, error::ArrowError, ipc::writer::FileWriter};
use legenda_schemas::job::Format;
use parquet::arrow::ArrowWriter;

use super::{arrow_options, csv, json_lines, parquet_properties};

/// The size at which a row group of a Parquet file is written, even if it has few rows.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Writes a table to `W` in any format.
pub(crate) enum TableWriter<W: Write + Send> {
    /// Parquet.
    Parquet(Box<ArrowWriter<W>>),
    /// Arrow IPC.
    Arrow(Box<FileWriter<W>>),
    /// JSON Lines.
    Jsonl(W),
    /// CSV, whose header is written.
    Csv(W),
}

impl<W: Write + Send> TableWriter<W> {
    /// Starts a table with the columns of `schema`.
    ///
    /// # Errors
    ///
    /// The encoder's.
    pub(crate) fn new(format: Format, schema: &SchemaRef, mut out: W) -> Result<Self, ArrowError> {
        Ok(match format {
            Format::Parquet => {
                let properties = Some(parquet_properties());
                let writer = ArrowWriter::try_new(out, SchemaRef::clone(schema), properties)?;
                Self::Parquet(Box::new(writer))
            }
            Format::Arrow => {
                let writer = FileWriter::try_new_with_options(out, schema, arrow_options()?)?;
                Self::Arrow(Box::new(writer))
            }
            Format::Jsonl => Self::Jsonl(out),
            Format::Csv => {
                csv::write_header(schema, &mut out)?;
                Self::Csv(out)
            }
        })
    }

    /// Writes rows.
    ///
    /// # Errors
    ///
    /// The encoder's.
    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        match self {
            Self::Parquet(writer) => {
                writer.write(rows)?;
                if writer.in_progress_size() >= ROW_GROUP_BYTES {
                    writer.flush()?;
                }
                Ok(())
            }
            Self::Arrow(writer) => writer.write(rows),
            Self::Jsonl(out) => json_lines::write_rows(rows, out),
            Self::Csv(out) => csv::write_rows(rows, out),
        }
    }

    /// Ends the table and returns the writer below it.
    ///
    /// # Errors
    ///
    /// The encoder's.
    pub(crate) fn finish(self) -> Result<W, ArrowError> {
        match self {
            Self::Parquet(writer) => Ok(writer.into_inner()?),
            Self::Arrow(mut writer) => {
                writer.finish()?;
                writer.into_inner()
            }
            Self::Jsonl(out) | Self::Csv(out) => Ok(out),
        }
    }
}
