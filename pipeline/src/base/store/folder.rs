//! A folder, wherever it is.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{
    error::{LocationError, ReadError, WriteError},
    hold::{Hold, HoldError, LEASE, LOCK, owner},
    keys::is_url,
    lease::{Lease, LeaseError, LeaseTerms},
    local::LocalFolder,
    remote::RemoteFolder,
};

/// A folder on a local disk or in an object store.
#[derive(Clone, Debug)]
pub struct Folder {
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    Local(LocalFolder),
    Remote(RemoteFolder),
}

impl Folder {
    /// Returns the folder at `location`: a URL (`s3://bucket/folder`, `gs://…`, `az://…`), or a path,
    /// resolved against `base_dir`. Does no I/O.
    ///
    /// # Errors
    ///
    /// [`LocationError`] for an unsupported URL scheme.
    pub fn at(location: &str, base_dir: &Path) -> Result<Self, LocationError> {
        let backend = match location.strip_prefix("file://") {
            Some(path) => Backend::Local(LocalFolder::new(absolute(Path::new(path)))),
            None if is_url(location) => Backend::Remote(RemoteFolder::at(location)?),
            None => Backend::Local(LocalFolder::new(absolute(&base_dir.join(location)))),
        };
        Ok(Self { backend })
    }

    /// Returns the path or URL of the file `key`, for messages; of the folder itself if `key` is empty.
    #[must_use]
    pub fn path_of(&self, key: &str) -> String {
        match &self.backend {
            Backend::Local(folder) => folder.path_of(key).display().to_string(),
            Backend::Remote(folder) => folder.url_of(key),
        }
    }

    /// Returns whether a file at `path`, absolute or a URL, is in the folder or in the one beside it.
    #[must_use]
    pub fn holds(&self, path: &str) -> bool {
        match &self.backend {
            Backend::Local(folder) => folder.holds(Path::new(path)),
            Backend::Remote(folder) => folder.holds(path),
        }
    }

    /// Creates the folders `dirs` where the backend needs them. Folders of answers are private if
    /// `holds_media`, all others always.
    pub(crate) fn make_dirs(&self, dirs: &[&str], holds_media: bool) -> Result<(), WriteError> {
        match &self.backend {
            Backend::Local(folder) => folder.make_dirs(dirs, holds_media),
            Backend::Remote(_) => Ok(()),
        }
    }

    /// Removes leftovers of interrupted writes.
    pub(crate) fn clear_unfinished(&self) -> Result<(), WriteError> {
        match &self.backend {
            Backend::Local(folder) => folder.clear_unfinished(),
            Backend::Remote(_) => Ok(()),
        }
    }

    /// Returns the keys of the files directly in `dir` (`""` for the root) whose names begin with `prefix`,
    /// sorted; empty if the folder does not exist.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn list(&self, dir: &str, prefix: &str) -> Result<Vec<String>, ReadError> {
        match &self.backend {
            Backend::Local(folder) => folder.list(dir, prefix),
            Backend::Remote(folder) => folder.list(dir, prefix),
        }
    }

    /// Returns the names of the non-empty folders directly in this one.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn list_dirs(&self) -> Result<Vec<String>, ReadError> {
        match &self.backend {
            Backend::Local(folder) => folder.list_dirs(),
            Backend::Remote(folder) => folder.list_dirs(),
        }
    }

    /// Reads a whole file; `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn read(&self, key: &str) -> Result<Option<Bytes>, ReadError> {
        match &self.backend {
            Backend::Local(folder) => folder.read(key),
            Backend::Remote(folder) => folder.read(key),
        }
    }

    /// Reads whole files, concurrently where that helps, in the order of `keys`; skips missing ones.
    ///
    /// # Errors
    ///
    /// [`ReadError`] for the first that cannot be read.
    pub fn read_all(&self, keys: &[String]) -> Result<Vec<(String, Bytes)>, ReadError> {
        match &self.backend {
            Backend::Local(folder) => {
                let read = |key: &String| Ok(folder.read(key)?.map(|bytes| (key.clone(), bytes)));
                keys.iter().filter_map(|key| read(key).transpose()).collect()
            }
            Backend::Remote(folder) => folder.read_all(keys),
        }
    }

    /// Writes a whole file that does not exist yet. In an object store, fails if another writer has created
    /// it with other bytes; on a local disk, the lock excludes other writers.
    pub(crate) fn create(&self, key: &str, bytes: Bytes) -> Result<(), WriteError> {
        match &self.backend {
            Backend::Local(folder) => folder.write(key, &bytes),
            Backend::Remote(folder) => folder.create(key, &bytes),
        }
    }

    /// Writes a whole file, replacing an existing one.
    pub(crate) fn replace(&self, key: &str, bytes: Bytes) -> Result<(), WriteError> {
        match &self.backend {
            Backend::Local(folder) => folder.write(key, &bytes),
            Backend::Remote(folder) => folder.replace(key, bytes),
        }
    }

    /// Removes a file; succeeds if it does not exist.
    pub(crate) fn remove(&self, key: &str) -> Result<(), WriteError> {
        match &self.backend {
            Backend::Local(folder) => folder.remove(key),
            Backend::Remote(folder) => folder.remove(key),
        }
    }

    /// Excludes other runs from writing to the folder until the hold is dropped or this process dies. In a
    /// store, this may take one lease duration after another run has died.
    pub(crate) fn hold(&self, terms: LeaseTerms) -> Result<Hold, HoldError> {
        match &self.backend {
            Backend::Local(folder) => {
                folder.lock(LOCK, &owner()).map(|file| Hold::Lock { _file: file })
            }
            Backend::Remote(folder) => Lease::take(folder, LEASE, &owner(), terms)
                .map(Hold::Lease)
                .map_err(|error| match error {
                    LeaseError::Held { owner } => HoldError::Held { owner },
                    LeaseError::Store(problem) => {
                        HoldError::Failed(WriteError::new(self.path_of(LEASE), problem))
                    }
                }),
        }
    }
}

/// Resolves the existing prefix of `path`, so that links and `..` do not hide its location.
fn absolute(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            // Joining an empty path would add a slash.
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.to_owned()
}
