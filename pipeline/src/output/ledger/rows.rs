//! Serialised rows.

use arrow::{array::RecordBatch, datatypes::SchemaRef, error::ArrowError};
use bytes::Bytes;
use legenda_schemas::job::Format;

use crate::output::sink::{write_schema, write_table};

/// Rows serialised as the bytes of a file.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// The number of rows.
    pub n_rows: u64,
    /// The file.
    pub bytes: Bytes,
    /// The schema, if the file format does not store it.
    pub schema: Option<Described>,
}

/// A schema with its serialised form.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    /// The schema.
    pub schema: SchemaRef,
    /// The serialised schema.
    pub bytes: Bytes,
}

impl Rows {
    /// Serialises `batch` in `format`.
    ///
    /// # Errors
    ///
    /// The encoder's.
    pub(crate) fn new(format: Format, batch: &RecordBatch) -> Result<Self, ArrowError> {
        let schema = batch.schema();
        let described = write_schema(format, &schema)?.map(|bytes| Described { schema, bytes });
        let bytes = write_table(format, batch)?;
        Ok(Self { n_rows: batch.num_rows() as u64, bytes, schema: described })
    }
}
