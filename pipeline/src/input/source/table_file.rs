//! One file of a table: its columns and row groups.

use std::{path::Path, sync::Arc};

use arrow::datatypes::{Field, Schema, SchemaRef};
use legenda_schemas::span::SourceObject;

use super::{
    SourceError, computed::Computed, contents::Contents, file::BytesRead, listing::Listed,
    media::MediaFiles, partitions::Partitions, tar::with_alternatives,
};

/// A file of the table, or a group of media files, with the location of its rows.
#[derive(Debug)]
pub struct TableFile {
    /// The identity of the file; of a group, that of all files under the path of the first.
    pub object: SourceObject,
    /// The Arrow schema of the whole file, including partition columns.
    pub schema: SchemaRef,
    /// The size of each row group: of Parquet, or an equivalent range in other formats.
    pub row_groups: Vec<RowGroupSize>,
    pub(super) contents: Contents,
    pub(super) partitions: Partitions,
    pub(super) computed: Option<Computed>,
}

/// The size of a row group.
#[derive(Clone, Copy, Debug)]
pub struct RowGroupSize {
    /// The number of rows.
    pub n_rows: usize,
    /// The uncompressed bytes of all columns.
    pub bytes: u64,
}

impl TableFile {
    /// Locates the rows of a listed table file: by the footer of a Parquet file, by a scan of other formats.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub fn open(
        listed: &Listed,
        media_bytes_max: u64,
        bytes_read: &BytesRead,
    ) -> Result<Self, SourceError> {
        let Listed { path, format, .. } = listed;
        let (object, found) = Contents::find(path, *format, media_bytes_max, bytes_read)?;
        Ok(Self::new(object, found))
    }

    /// Creates a group of media files.
    pub(super) fn from_media(files: Vec<SourceObject>, media_bytes_max: u64) -> Self {
        let group = MediaFiles::new(files, media_bytes_max);
        Self::new(group.object(), Contents::from_media(group))
    }

    fn new(
        object: SourceObject,
        (contents, schema, row_groups): (Contents, SchemaRef, Vec<RowGroupSize>),
    ) -> Self {
        let partitions = Partitions::from_path(&object.path, &schema);
        let schema = partitions.add_to(&schema);
        Self { object, schema, row_groups, contents, partitions, computed: None }
    }

    /// Returns the columns of the file itself.
    pub(super) fn own_schema(&self) -> SchemaRef {
        let is_own = |field: &&Arc<Field>| {
            !self.partitions.names(field.name())
                && !self.computed.as_ref().is_some_and(|computed| computed.names(field.name()))
        };
        let fields: Vec<_> = self.schema.fields().iter().filter(is_own).cloned().collect();
        Arc::new(Schema::new_with_metadata(fields, self.schema.metadata().clone()))
    }

    /// Replaces the columns of the file itself with those of `schema`.
    pub(super) fn set_own_schema(&mut self, schema: &SchemaRef) {
        self.schema = self.partitions.add_to(schema);
    }

    pub(super) fn join_alternatives(&mut self, names: &[String]) {
        if !self.contents.is_shard() {
            return;
        }
        for name in names {
            if let Some(schema) = with_alternatives(&self.own_schema(), name) {
                self.set_own_schema(&schema);
            }
        }
    }

    /// Adds columns that a query computed.
    pub fn add_computed(&mut self, computed: Computed) {
        self.schema = computed.add_to(&self.schema);
        self.computed = Some(computed);
    }

    /// Returns whether the file has no rows.
    pub(super) fn is_empty(&self) -> bool {
        self.row_groups.iter().all(|group| group.n_rows == 0)
    }

    /// Returns the image or audio files of its rows; empty for table files.
    #[must_use]
    pub fn media(&self) -> &[SourceObject] {
        self.contents.media()
    }

    /// Returns the paths of all files to read.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        let media = self.media().iter().map(|file| file.path.as_str());
        std::iter::once(self.object.path.as_str()).chain(media)
    }

    /// Returns the file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        Path::new(&self.object.path)
    }

    /// Returns the column `name`.
    ///
    /// # Errors
    ///
    /// [`SourceError::MissingColumn`], which names the job's `key` and the available columns.
    pub fn column(&self, key: &str, name: &str) -> Result<&Field, SourceError> {
        self.schema.field_with_name(name).map_err(|_| SourceError::MissingColumn {
            key: key.to_owned(),
            column: name.to_owned(),
            path: self.path().to_owned(),
            available: self.column_names(),
        })
    }

    /// Returns the names of the columns, for a message.
    #[must_use]
    pub fn column_names(&self) -> String {
        let names: Vec<String> =
            self.schema.fields().iter().map(|field| format!("`{}`", field.name())).collect();
        names.join(", ")
    }
}
