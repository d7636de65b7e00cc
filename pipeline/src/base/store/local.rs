//! A folder on a local disk.

use std::{
    ffi::OsStr,
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{
    confined::Confined,
    error::{ReadError, WriteError},
    hold::{HoldError, UNKNOWN_OWNER},
    keys::join,
    layout,
};
use crate::base::crash;

/// The folder of incomplete files.
const UNFINISHED: &str = "_legenda/tmp";

#[derive(Clone, Debug)]
pub(super) struct LocalFolder {
    root: PathBuf,
    /// The folder of all files except answers, unless they are within the root.
    beside: Option<PathBuf>,
}

impl LocalFolder {
    pub(super) fn new(root: PathBuf) -> Self {
        let beside = layout::dir_beside(&root);
        Self { root, beside }
    }

    /// Returns the folder of the file `key`, and its path there.
    fn place_of<'a>(&'a self, key: &'a str) -> (&'a Path, &'a str) {
        match (&self.beside, layout::key_beside(key)) {
            (Some(beside), Some(key)) => (beside, key),
            _ => (&self.root, key),
        }
    }

    pub(super) fn path_of(&self, key: &str) -> PathBuf {
        let (dir, key) = self.place_of(key);
        if key.is_empty() { dir.to_owned() } else { dir.join(key) }
    }

    /// Opens the parent folder of the file `key`; returns the file's name too.
    fn folder_of<'a>(&'a self, key: &'a str) -> io::Result<(Confined, &'a OsStr)> {
        let (dir, key) = self.place_of(key);
        Confined::open(dir)?.folder_of(Path::new(key))
    }

    pub(super) fn holds(&self, path: &Path) -> bool {
        path.starts_with(&self.root)
            || self.beside.as_ref().is_some_and(|beside| path.starts_with(beside))
    }

    /// Creates the folders `dirs`. Folders of rejects, reports and the job are private, and so are those of
    /// answers if they hold media.
    pub(super) fn make_dirs(&self, dirs: &[&str], holds_media: bool) -> Result<(), WriteError> {
        for dir in dirs.iter().chain(&["", UNFINISHED]) {
            let (root, below) = self.place_of(dir);
            let is_private = holds_media || layout::key_beside(dir).is_some();
            let is_beside = self.beside.as_deref() == Some(root);
            Confined::make(root, holds_media || is_beside)
                .and_then(|root| root.make_dirs(Path::new(below), is_private))
                .map_err(|error| write_error(&self.path_of(dir), error))?;
            crash::step();
        }
        Ok(())
    }

    pub(super) fn clear_unfinished(&self) -> Result<(), WriteError> {
        self.list(UNFINISHED, "")?.iter().try_for_each(|key| self.remove(key))
    }

    pub(super) fn list(&self, dir: &str, prefix: &str) -> Result<Vec<String>, ReadError> {
        self.entries(dir, prefix, Path::is_file)
    }

    pub(super) fn list_dirs(&self) -> Result<Vec<String>, ReadError> {
        self.entries("", "", Path::is_dir)
    }

    fn entries(
        &self,
        dir: &str,
        prefix: &str,
        is_wanted: fn(&Path) -> bool,
    ) -> Result<Vec<String>, ReadError> {
        let path = self.path_of(dir);
        let entries = match path.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(read_error(&path, error)),
        };
        let mut keys = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| read_error(&path, error))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(prefix) && is_wanted(&entry.path()) {
                keys.push(join(dir, &name));
            }
        }
        keys.sort();
        Ok(keys)
    }

    pub(super) fn read(&self, key: &str) -> Result<Option<Bytes>, ReadError> {
        let path = self.path_of(key);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(read_error(&path, error)),
        }
    }

    /// Writes a file under a temporary name, syncs it, and renames it; on failure the previous file is
    /// unchanged.
    pub(super) fn write(&self, key: &str, bytes: &[u8]) -> Result<(), WriteError> {
        let write = || {
            let (folder, name) = self.folder_of(key)?;
            let (books, below) = self.place_of(UNFINISHED);
            let work = Confined::open(books)?.open_dir(Path::new(below))?;
            folder.write_whole(name, &work, name, bytes)?;
            folder.sync()?;
            crash::step();
            Ok(())
        };
        write().map_err(|error| write_error(&self.path_of(key), error))
    }

    /// Locks the file `key` and writes `owner` to it.
    pub(super) fn lock(&self, key: &str, owner: &str) -> Result<File, HoldError> {
        let locked = self.folder_of(key).and_then(|(folder, name)| folder.open_lock(name));
        locked
            .and_then(|file| lock(file, owner))
            .unwrap_or_else(|error| Err(HoldError::Failed(write_error(&self.path_of(key), error))))
    }

    pub(super) fn remove(&self, key: &str) -> Result<(), WriteError> {
        let removed = self.folder_of(key).and_then(|(folder, name)| folder.remove(name));
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(write_error(&self.path_of(key), error));
            }
            _ => crash::step(),
        }
        Ok(())
    }
}

fn lock(mut file: File, owner: &str) -> io::Result<Result<File, HoldError>> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // The owner's name is only for the message.
            if file.read_to_string(&mut owner).is_err() || owner.trim().is_empty() {
                owner = UNKNOWN_OWNER.to_owned();
            }
            return Ok(Err(HoldError::Held { owner: owner.trim().to_owned() }));
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    file.set_len(0)?;
    writeln!(file, "{owner}")?;
    Ok(Ok(file))
}

fn write_error(path: &Path, error: io::Error) -> WriteError {
    WriteError::new(path.display().to_string(), error)
}

fn read_error(path: &Path, error: io::Error) -> ReadError {
    ReadError::new(path.display().to_string(), error)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use legenda_schemas::cause::chain;

    use super::{LocalFolder, UNFINISHED};

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let folder = LocalFolder::new(dir.path().to_owned());
        folder.make_dirs(&[], false).unwrap();
        folder.write("part", b"old").unwrap();
        // A folder in place of the temporary file makes every write fail.
        fs::create_dir(folder.path_of(UNFINISHED).join("part")).unwrap();
        let refused = folder.write("part", b"new").unwrap_err();
        assert!(chain(&refused).starts_with("failed to write `"), "{refused:?}");
        assert_eq!(folder.read("part").unwrap().unwrap(), "old");
        assert_eq!(folder.list("", "").unwrap(), ["part"]);
        folder.remove("part").unwrap();
        folder.remove("part").unwrap();
        assert_eq!(folder.read("part").unwrap(), None);
    }
}
