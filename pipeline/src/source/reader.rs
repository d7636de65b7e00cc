//! A file of the source, open: its rows, row group by row group.

use std::{ops::Range, sync::Arc};

use arrow::datatypes::{Schema, SchemaRef};
use legenda_schemas::span::SourceObject;
use parquet::errors::ParquetError;

use super::{
    SourceError, computed::Computed, contents::Opened, file::BytesRead, pages::RowBounds,
    partitions::Partitions, rows::ReadRows, table_file::TableFile,
};

pub use super::steps::BatchLimits;

/// Reads rows of one row group at a time of one file.
pub struct FileReader {
    object: SourceObject,
    schema: SchemaRef,
    partitions: Partitions,
    computed: Option<Computed>,
    /// How many rows stand before each row group.
    starts: Arc<[u64]>,
    opened: Opened,
}

/// What the reader says of text that is not UTF-8: "non UTF-8 data", "invalid utf-8 sequence".
const NOT_UTF8: &str = "utf-8";

/// Why rows that were planned cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("rows of row group {row_group} of `{path}` cannot be read: {problem}")]
pub struct ReadError {
    /// The file.
    pub path: String,
    /// The row group.
    pub row_group: usize,
    /// What the reader says.
    pub problem: String,
    /// Whether the disk or the store failed, which may pass, and not the file is damaged.
    pub may_pass: bool,
}

impl ReadError {
    /// Returns whether text that is not UTF-8 is in the way.
    #[must_use]
    pub fn is_not_utf8(&self) -> bool {
        !self.may_pass && self.problem.to_lowercase().contains(NOT_UTF8)
    }
}

impl FileReader {
    /// Opens a file whose rows were found.
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

    /// Returns the columns, those that the file's folders name and those that a query computed among
    /// them.
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

    /// Returns a reader of the same file that gives its columns of text as bytes, where that is a Parquet
    /// file.
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

    /// Finds what reading rows of `columns` (all when none are named) takes, where at most `bytes_max`
    /// may be taken.
    #[must_use]
    pub fn row_bounds(
        &self,
        row_group: usize,
        columns: Option<&[String]>,
        bytes_max: u64,
    ) -> RowBounds {
        self.opened.row_bounds(row_group, columns, bytes_max)
    }

    /// Starts to read the rows `ranges` (ascending, within the row group) of `columns` (all when
    /// none are named), in batches of at most `batch_rows` rows. Columns come in the order of the
    /// schema.
    ///
    /// Every item of the iterator may fail, and after a failure no more follow. A panic inside a
    /// reader, which hostile files can cause, is such a failure.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when not even the beginning can be found.
    pub fn read(
        &self,
        row_group: usize,
        ranges: &[Range<usize>],
        columns: Option<&[String]>,
        batch_rows: usize,
    ) -> Result<impl Iterator<Item = Result<ReadRows, ReadError>> + use<>, ReadError> {
        self.read_within(row_group, ranges, columns, BatchLimits::of_rows(batch_rows))
    }

    /// Starts to read rows as [`read`](Self::read) does, in batches within `limits`.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when not even the beginning can be found.
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
        let asked: Vec<Range<usize>> = ranges.to_vec();
        let mut file_rows = asked.into_iter().flatten().map(move |row| start + row as u64);
        Ok(rows.map(move |read| {
            let read = partitions.fill(read?, &is_wanted);
            let Some(computed) = &computed else { return Ok(read) };
            let file_rows: Vec<u64> = file_rows.by_ref().take(read.rows.num_rows()).collect();
            computed.fill(read, &file_rows, &is_wanted).map_err(|error| ReadError {
                path: path.clone(),
                row_group,
                problem: error.to_string(),
                may_pass: true,
            })
        }))
    }
}
