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
use crate::{source::batch::Asked, stage::scan::contiguous};

/// Rows are written to the disk when so many bytes of them wait.
const WAITING_BYTES_MAX: usize = 32 << 20;
/// Hex digits of a digest in the name of a table.
const DIGEST_CHARS: usize = 16;

impl Requests {
    /// Writes the table of a group into the folder `dir`, unless it is there: a row for each input of its
    /// requests, with `line`, `index` (which input of its line it is), `messages` or `text`, `images` and
    /// `seed`. Returns its path; what other requests have left of such tables goes.
    ///
    /// # Errors
    ///
    /// [`BatchError`].
    pub fn write_table(&self, group: &Group, dir: &Path) -> Result<PathBuf, BatchError> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |source: io::Error| BatchError::Table { path, source }
        };
        // The folder beside the responses, and that of the tables in it.
        if let Some(link) = dir.ancestors().take(2).find(|folder| folder.is_symlink()) {
            let problem = io::Error::other("it is a link, which is not followed");
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
        // By its name it is the same table, so nothing is done again for another time of change.
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
                    // It was a request when the file was read before.
                    let Ok(Ok((parameters, asked))) = request else { continue };
                    for (index, asked) in (0..).zip(asked) {
                        rows.push(line, index, parameters.seed, &asked);
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

/// Rows of a table that are on their way.
struct Rows {
    lines: Vec<i64>,
    indices: Vec<i64>,
    seeds: Int64Builder,
    /// What is asked: messages of chats, texts of others.
    asked_name: &'static str,
    asked: StringBuilder,
    images: ListBuilder<BinaryBuilder>,
    has_images: bool,
}

impl Rows {
    fn new(group: &Group) -> Self {
        Self {
            lines: Vec::new(),
            indices: Vec::new(),
            seeds: Int64Builder::new(),
            asked_name: group.asked_column(),
            asked: StringBuilder::new(),
            images: ListBuilder::new(BinaryBuilder::new()),
            has_images: group.has_images,
        }
    }

    fn push(&mut self, line: i64, index: i64, seed: Option<i64>, asked: &Asked) {
        self.lines.push(line);
        self.indices.push(index);
        self.seeds.append_option(seed);
        self.asked.append_option(asked.messages.as_ref().or(asked.text.as_ref()));
        self.images.append_value(asked.images.iter().map(Some));
    }

    /// Returns the rows so far.
    fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        let mut columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("line", Arc::new(Int64Array::from(std::mem::take(&mut self.lines))), false),
            ("index", Arc::new(Int64Array::from(std::mem::take(&mut self.indices))), false),
            ("seed", Arc::new(self.seeds.finish()), true),
            (self.asked_name, Arc::new(self.asked.finish()), true),
        ];
        let images = self.images.finish();
        if self.has_images {
            columns.push(("images", Arc::new(images), true));
        }
        RecordBatch::try_from_iter_with_nullable(columns)
    }
}
