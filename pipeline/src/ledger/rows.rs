//! Rows as they are written.

use arrow::{array::RecordBatch, datatypes::SchemaRef, error::ArrowError};
use bytes::Bytes;
use legenda_schemas::job::Format;

use crate::sink::{write_schema, write_table};

/// Rows as the bytes of a file.
#[derive(Clone, Debug)]
pub struct Rows {
    /// How many.
    pub n_rows: u64,
    /// The file.
    pub bytes: Bytes,
    /// Its schema, where the file does not tell it.
    pub schema: Option<Described>,
}

/// A schema and its file.
#[derive(Clone, Debug)]
pub struct Described {
    /// The schema.
    pub schema: SchemaRef,
    /// The file.
    pub bytes: Bytes,
}

impl Rows {
    /// Writes `batch` in `format`.
    ///
    /// # Errors
    ///
    /// The encoder's.
    pub fn new(format: Format, batch: &RecordBatch) -> Result<Self, ArrowError> {
        let schema = batch.schema();
        let described = write_schema(format, &schema)?.map(|bytes| Described { schema, bytes });
        let bytes = write_table(format, batch)?;
        Ok(Self { n_rows: batch.num_rows() as u64, bytes, schema: described })
    }
}
