//! Reads the rows of an open source file by row group.

use std::{ops::Range, sync::Arc};

use arrow::datatypes::{Schema, SchemaRef};
use legenda_schemas::{
    cause::{Cause, chain},
    span::SourceObject,
};
use parquet::errors::ParquetError;

use super::{
    SourceError, computed::Computed, contents::Opened, file::BytesRead, pages::RowBounds,
    partitions::Partitions, rows::ReadRows, table_file::TableFile,
};

pub(crate) use super::steps::BatchLimits;

/// Reads rows of a file, one row group at a time.
pub struct FileReader {
    object: SourceObject,
    schema: SchemaRef,
    partitions: Partitions,
    computed: Option<Computed>,
    /// The number of rows before each row group.
    starts: Arc<[u64]>,
    opened: Opened,
}

/// A substring of the reader's messages for invalid UTF-8: "non UTF-8 data", "invalid utf-8 sequence".
const NOT_UTF8: &str = "utf-8";

/// An error of reading planned rows.
#[derive(Debug, thiserror::Error)]
#[error("failed to read row group {row_group} of `{path}`")]
pub struct ReadError {
    /// The file.
    pub path: String,
    /// The row group.
    pub row_group: usize,
    /// The reader's error.
    pub source: Cause,
    /// Whether this is a transient I/O error rather than a damaged file.
    pub may_pass: bool,
}

impl ReadError {
    /// Returns whether the error is caused by invalid UTF-8.
    #[must_use]
    pub fn is_not_utf8(&self) -> bool {
        !self.may_pass && chain(&*self.source).to_lowercase().contains(NOT_UTF8)
    }
}

impl FileReader {
    /// Opens a file whose rows were located.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub fn open(file: &TableFile, bytes_read: &BytesRead) -> Result<Self, SourceError> {
        let (object, opened) = file.contents.open(&file.object, bytes_read)?;
        let (schema, partitions) = (file.own_schema(), file.partitions.clone());
        let computed = file.computed.clone();
        let starts = file.row_groups.iter().scan(0, |before, size| {
            let start = *before;
            *before += size.n_rows as u64;
            Some(start)
        });
        Ok(Self { object, schema, partitions, computed, starts: starts.collect(), opened })
    }

    /// Returns the columns, including those of partition folders and those computed by a query.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        let schema = self.partitions.add_to(&self.schema);
        self.computed.as_ref().map_or(schema.clone(), |computed| computed.add_to(&schema))
    }

    /// Returns the identity of the file as it was opened.
    #[must_use]
    pub fn object(&self) -> &SourceObject {
        &self.object
    }

    /// Returns a reader of the same file that reads text columns as bytes, for Parquet.
    ///
    /// # Errors
    ///
    /// The Parquet crate's, if the file's schema cannot be rewritten.
    pub fn texts_as_bytes(&self) -> Result<Self, ParquetError> {
        Ok(Self {
            object: self.object.clone(),
            schema: Arc::clone(&self.schema),
            partitions: self.partitions.clone(),
            computed: self.computed.clone(),
            starts: Arc::clone(&self.starts),
            opened: self.opened.texts_as_bytes()?,
        })
    }

    /// Computes the memory needs of rows of `columns` (`None` for all) with at most `bytes_max`.
    #[must_use]
    pub fn row_bounds(
        &self,
        row_group: usize,
        columns: Option<&[String]>,
        bytes_max: u64,
    ) -> RowBounds {
        self.opened.row_bounds(row_group, columns, bytes_max)
    }

    /// Starts to read the rows `ranges` (ascending, within the row group) of `columns` (`None` for all) in
    /// batches of at most `batch_rows` rows. Columns are in schema order.
    ///
    /// Any item of the iterator may fail, and none follows an error. A panic inside a reader, which malicious
    /// files can cause, is such an error.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the start of the rows cannot be found.
    pub fn read(
        &self,
        row_group: usize,
        ranges: &[Range<usize>],
        columns: Option<&[String]>,
        batch_rows: usize,
    ) -> Result<impl Iterator<Item = Result<ReadRows, ReadError>> + use<>, ReadError> {
        self.read_within(row_group, ranges, columns, BatchLimits::from_rows_max(batch_rows))
    }

    /// Starts to read rows like [`read`](Self::read), in batches within `limits`.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the start of the rows cannot be found.
    pub fn read_within(
        &self,
        row_group: usize,
        ranges: &[Range<usize>],
        columns: Option<&[String]>,
        limits: BatchLimits,
    ) -> Result<impl Iterator<Item = Result<ReadRows, ReadError>> + use<>, ReadError> {
        let is_wanted = {
            let columns = columns.map(<[String]>::to_vec);
            move |name: &str| {
                columns.as_ref().is_none_or(|columns| columns.iter().any(|known| known == name))
            }
        };
        let wanted = self.schema.fields().iter().filter(|field| is_wanted(field.name()));
        let wanted: Vec<_> = wanted.cloned().collect();
        let schema = Schema::new_with_metadata(wanted, self.schema.metadata().clone());
        let path = &self.object.path;
        let rows = self.opened.read(path, row_group, ranges, columns, Arc::new(schema), limits)?;
        let (partitions, computed) = (self.partitions.clone(), self.computed.clone());
        let path = path.clone();
        let start = self.starts.get(row_group).copied().unwrap_or_default();
        let ranges: Vec<Range<usize>> = ranges.to_vec();
        let mut file_rows = ranges.into_iter().flatten().map(move |row| start + row as u64);
        Ok(rows.map(move |read| {
            let read = partitions.fill(read?, &is_wanted);
            let Some(computed) = &computed else { return Ok(read) };
            let file_rows: Vec<u64> = file_rows.by_ref().take(read.rows.num_rows()).collect();
            computed.fill(read, &file_rows, &is_wanted).map_err(|error| ReadError {
                path: path.clone(),
                row_group,
                source: error.into(),
                may_pass: true,
            })
        }))
    }
}
