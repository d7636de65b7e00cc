//! Image and audio files as rows, whose bytes are read with the row.
//!
//! Files are grouped, and a group acts as a file of other sources: its identity is that of all its files.
//! Group boundaries depend on the names, so that an added or removed file only changes its own group.

use std::{
    borrow::Cow,
    io::{self, Read},
    ops::Range,
    path::Path,
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, BinaryArray, Int64Array, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use bytes::Bytes;
use legenda_schemas::{sha256_hex, span::SourceObject};

use super::{
    file::{BytesRead, disk_object, open_file},
    partitions::Partitions,
    rows::{Damaged, ReadRows},
};
use crate::base::store::{ObjectAt, StoreFault, fault_of, is_url, key_of};

/// The maximum files per group; on average, one in this many names ends a group.
const GROUP_FILES_MAX: usize = 1024;

/// A group of files that are rows.
#[derive(Clone, Debug)]
pub(super) struct MediaFiles {
    pub(super) files: Vec<SourceObject>,
    /// The maximum bytes of a file; a larger one is rejected.
    bytes_max: u64,
}

/// Splits listed files into groups.
pub(super) fn groups(files: Vec<SourceObject>) -> Vec<Vec<SourceObject>> {
    let none = Schema::empty();
    let mut groups: Vec<Vec<SourceObject>> = Vec::new();
    let mut open: Option<Partitions> = None;
    for file in files {
        let folders = Partitions::from_path(&file.path, &none);
        let name = file_name(&file.path);
        // Two hex digits: one name in 256.
        let ends = sha256_hex([name.as_bytes()]).starts_with("00");
        match groups.last_mut() {
            Some(group) if open.as_ref() == Some(&folders) && group.len() < GROUP_FILES_MAX => {
                group.push(file);
            }
            _ => groups.push(vec![file]),
        }
        open = (!ends).then_some(folders);
    }
    groups
}

impl MediaFiles {
    pub(super) fn new(files: Vec<SourceObject>, bytes_max: u64) -> Self {
        Self { files, bytes_max }
    }

    /// Returns the bytes to read of a file: 0 if it is too large.
    pub(super) fn bytes_of(&self, file: &SourceObject) -> u64 {
        if file.size_bytes > self.bytes_max { 0 } else { file.size_bytes }
    }

    /// Returns the identity of the group, named after its first file.
    pub(super) fn object(&self) -> SourceObject {
        let parts = self.files.iter().map(|file| {
            let etag = file.etag.as_deref().unwrap_or_default();
            format!("{}\n{}\n{}\n{etag}\n", file.path, file.size_bytes, file.modified_ns)
        });
        let parts: Vec<String> = parts.collect();
        SourceObject {
            path: self.files.first().map(|file| file.path.clone()).unwrap_or_default(),
            size_bytes: self.files.iter().map(|file| file.size_bytes).sum(),
            modified_ns: self.files.iter().map(|file| file.modified_ns).max().unwrap_or_default(),
            etag: Some(sha256_hex(parts.iter().map(String::as_bytes))),
        }
    }

    pub(super) fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("path", DataType::Utf8, false),
            Field::new("file_name", DataType::Utf8, false),
            Field::new("size", DataType::Int64, false),
            Field::new("media", DataType::Binary, true),
        ]))
    }

    /// Reads the files at `rows` as rows of `schema`.
    ///
    /// # Errors
    ///
    /// An I/O error of the disk or the store; a file that vanished or changed is rejected.
    pub(super) fn read(
        &self,
        rows: &[usize],
        schema: &SchemaRef,
        bytes_read: &BytesRead,
    ) -> io::Result<ReadRows> {
        let files: Vec<&SourceObject> =
            rows.iter().filter_map(|&row| self.files.get(row)).collect();
        let mut damaged = Vec::new();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in schema.fields() {
            columns.push(match field.name().as_str() {
                "path" => Arc::new(StringArray::from_iter_values(files.iter().map(|f| &f.path))),
                "file_name" => {
                    let names = files.iter().map(|file| file_name(&file.path));
                    Arc::new(StringArray::from_iter_values(names))
                }
                "size" => {
                    let sizes = files.iter().map(|file| i64::try_from(file.size_bytes));
                    Arc::new(sizes.map(Result::ok).collect::<Int64Array>())
                }
                _ => Arc::new(self.contents(&files, bytes_read, &mut damaged)?),
            });
        }
        Ok(ReadRows::new(Arc::clone(schema), columns, files.len(), damaged))
    }

    /// Reads whole files, concurrently in a store.
    fn contents(
        &self,
        files: &[&SourceObject],
        bytes_read: &BytesRead,
        damaged: &mut Vec<Damaged>,
    ) -> io::Result<BinaryArray> {
        let started: Vec<_> = files.iter().map(|file| self.start(file)).collect();
        let mut cells: Vec<Option<Bytes>> = Vec::with_capacity(files.len());
        for (row, (file, started)) in files.iter().zip(started).enumerate() {
            let read = match started {
                Started::Refused(problem) => Err(problem),
                Started::OnDisk => read_whole(file)?,
                Started::Empty => Ok(Bytes::new()),
                Started::InStore(reading) => match reading?.bytes() {
                    Ok(bytes) => Ok(bytes),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Err(GONE.to_owned()),
                    Err(error) if fault_of(&error) == Some(&StoreFault::Changed) => {
                        Err(CHANGED.to_owned())
                    }
                    Err(error) => return Err(error),
                },
            };
            match read {
                Ok(bytes) => {
                    bytes_read.add(bytes.len());
                    cells.push(Some(bytes));
                }
                Err(problem) => {
                    damaged.push(Damaged { row, problem: format!("`{}` {problem}", file.path) });
                    cells.push(None);
                }
            }
        }
        Ok(cells.iter().map(|cell| cell.as_deref()).collect())
    }

    fn start(&self, file: &SourceObject) -> Started {
        if file.size_bytes > self.bytes_max {
            let (bytes, bytes_max) = (file.size_bytes, self.bytes_max);
            return Started::Refused(format!(
                "has {bytes} bytes; `limits.media_bytes` allows {bytes_max}"
            ));
        }
        if !is_url(&file.path) {
            return Started::OnDisk;
        }
        if file.size_bytes == 0 {
            return Started::Empty;
        }
        let whole: Range<u64> = 0..file.size_bytes;
        Started::InStore(ObjectAt::known(file.clone()).map(|at| at.start_to_read(whole)))
    }
}

enum Started {
    Refused(String),
    OnDisk,
    /// Stores do not support empty ranges.
    Empty,
    InStore(io::Result<crate::base::store::Reading>),
}

const GONE: &str = "was removed after it was listed";
const CHANGED: &str = "was changed after it was listed";

/// Reads a file on disk. The inner error is that of the row, the outer one that of the disk.
fn read_whole(file: &SourceObject) -> io::Result<Result<Bytes, String>> {
    let mut opened = match open_file(Path::new(&file.path)) {
        Ok(opened) => opened,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound => Ok(Err(GONE.to_owned())),
                io::ErrorKind::PermissionDenied => Ok(Err(format!("is not readable: {error}"))),
                _ => Err(error),
            };
        }
    };
    if disk_object(&file.path, &opened.metadata()?)? != *file {
        return Ok(Err(CHANGED.to_owned()));
    }
    let mut bytes = Vec::new();
    (&mut opened).take(file.size_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == file.size_bytes {
        return Ok(Ok(bytes.into()));
    }
    Ok(Err(CHANGED.to_owned()))
}

/// Returns the last component of a path or of the key in a URL.
fn file_name(path: &str) -> Cow<'_, str> {
    if is_url(path) {
        return match key_of(path) {
            Cow::Borrowed(key) => Cow::from(key.rsplit('/').next().unwrap_or(key)),
            Cow::Owned(key) => Cow::from(key.rsplit('/').next().unwrap_or(&key).to_owned()),
        };
    }
    Cow::from(Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use legenda_schemas::span::SourceObject;

    use super::{MediaFiles, groups};

    fn file(path: String) -> SourceObject {
        SourceObject { path, size_bytes: 1, modified_ns: 2, etag: None }
    }

    #[test]
    fn a_file_that_comes_changes_its_own_group_only() {
        let names = |n_files: u32| (0..n_files).map(|n| file(format!("/p/{n:06}.png")));
        let objects = |files: Vec<SourceObject>| -> Vec<SourceObject> {
            groups(files).into_iter().map(|group| MediaFiles::new(group, 9).object()).collect()
        };
        let before = objects(names(5000).collect());
        assert!(before.len() > 5);
        let mut more: Vec<_> = names(5000).collect();
        more.insert(2500, file("/p/002499b.png".to_owned()));
        let after = objects(more);
        let changed = after.iter().filter(|group| !before.contains(group)).count();
        assert!((1..=3).contains(&changed), "{changed}");
    }

    #[test]
    fn groups_end_where_folders_name_other_values() {
        let paths = ["/l=a/1.png", "/l=a/2.png", "/l=b/1.png"];
        let sizes: Vec<usize> =
            groups(paths.map(|path| file(path.to_owned())).to_vec()).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1]);
    }
}
