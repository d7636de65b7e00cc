//! The table of a group of requests.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, Int64Array, Int64Builder, ListBuilder, RecordBatch, StringBuilder,
    },
    datatypes::SchemaRef,
    error::ArrowError,
};
use legenda_schemas::hex;
use parquet::arrow::ArrowWriter;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{BatchError, Group, Requests};
use crate::{input::source::batch::RequestInput, run::stage::scan::contiguous};

/// Rows are flushed to disk when their size reaches this many bytes.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// Hex digits of the digest in a table name.
const DIGEST_CHARS: usize = 16;

impl Requests {
    /// Writes the table of a group into the folder `dir`, unless it exists: one row per input of its
    /// requests, with `line`, `index` (of the input in its line), `messages` or `text`, `images` and `seed`.
    /// Returns its path; removes tables of earlier requests.
    ///
    /// # Errors
    ///
    /// [`BatchError`].
    pub fn write_table(&self, group: &Group, dir: &Path) -> Result<PathBuf, BatchError> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |source: io::Error| BatchError::Table { path, source }
        };
        // The folder next to the responses, and its folder of tables.
        if let Some(link) = dir.ancestors().take(2).find(|folder| folder.is_symlink()) {
            let problem = io::Error::other("it is a link, and links are not followed");
            return Err(problem).map_err(failed(link));
        }
        fs::create_dir_all(dir).map_err(failed(dir))?;
        let file = NamedTempFile::new_in(dir).map_err(failed(dir))?;
        self.write_rows(group, file.as_file(), file.path())?;
        let mut digest = Sha256::new();
        File::open(file.path())
            .and_then(|mut written| io::copy(&mut written, &mut digest))
            .map_err(failed(file.path()))?;
        let digest = &hex(digest)[..DIGEST_CHARS];
        // The name identifies the content, so a new modification time does not cause recomputation.
        let name = format!("{}-{digest}.parquet", group.name());
        let path = dir.join(&name);
        if !path.is_file() {
            file.as_file().sync_all().map_err(failed(&path))?;
            file.persist(&path).map_err(|error| error.error).map_err(failed(&path))?;
        }
        for entry in fs::read_dir(dir).map_err(failed(dir))? {
            let other = entry.map_err(failed(dir))?;
            let is_of_group = other.file_name().to_string_lossy().starts_with(&group.name());
            if is_of_group && other.file_name() != *name {
                fs::remove_file(other.path()).map_err(failed(&other.path()))?;
            }
        }
        Ok(path)
    }

    fn write_rows(&self, group: &Group, file: &File, path: &Path) -> Result<(), BatchError> {
        let path = || path.display().to_string();
        let failed = |source: io::Error| BatchError::Table { path: path(), source };
        let writing = |error: parquet::errors::ParquetError| failed(io::Error::other(error));
        let mut rows = Rows::new(group);
        let none = rows.take().map_err(|error| failed(io::Error::other(error)))?;
        let schema: SchemaRef = none.schema();
        let mut writer = ArrowWriter::try_new(file, schema, None).map_err(writing)?;
        let mut by_group: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (row_group, row) in &group.rows {
            by_group.entry(*row_group).or_default().push(*row);
        }
        for (row_group, positions) in by_group {
            for lines in self.lines(row_group, contiguous(positions.into_iter()))? {
                for (line, request) in lines? {
                    let request = request.map(|request| request.request);
                    // It was a valid request when the file was first read.
                    let Ok(Ok((parameters, input))) = request else { continue };
                    for (index, input) in (0..).zip(input) {
                        rows.push(line, index, parameters.seed, &input);
                    }
                }
                let batch = rows.take().map_err(|error| failed(io::Error::other(error)))?;
                writer.write(&batch).map_err(writing)?;
                if writer.in_progress_size() > WAITING_BYTES_MAX {
                    writer.flush().map_err(writing)?;
                }
            }
        }
        writer.close().map_err(writing)?;
        Ok(())
    }
}

/// Buffered rows of a table.
struct Rows {
    lines: Vec<i64>,
    indices: Vec<i64>,
    seeds: Int64Builder,
    /// The input column: messages of chats, text of other requests.
    input_name: &'static str,
    input: StringBuilder,
    images: ListBuilder<BinaryBuilder>,
    has_images: bool,
}

impl Rows {
    fn new(group: &Group) -> Self {
        Self {
            lines: Vec::new(),
            indices: Vec::new(),
            seeds: Int64Builder::new(),
            input_name: group.input_column(),
            input: StringBuilder::new(),
            images: ListBuilder::new(BinaryBuilder::new()),
            has_images: group.has_images,
        }
    }

    fn push(&mut self, line: i64, index: i64, seed: Option<i64>, input: &RequestInput) {
        self.lines.push(line);
        self.indices.push(index);
        self.seeds.append_option(seed);
        self.input.append_option(input.messages.as_ref().or(input.text.as_ref()));
        self.images.append_value(input.images.iter().map(Some));
    }

    /// Takes the buffered rows.
    fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        let mut columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("line", Arc::new(Int64Array::from(std::mem::take(&mut self.lines))), false),
            ("index", Arc::new(Int64Array::from(std::mem::take(&mut self.indices))), false),
            ("seed", Arc::new(self.seeds.finish()), true),
            (self.input_name, Arc::new(self.input.finish()), true),
        ];
        let images = self.images.finish();
        if self.has_images {
            columns.push(("images", Arc::new(images), true));
        }
        RecordBatch::try_from_iter_with_nullable(columns)
    }
}
