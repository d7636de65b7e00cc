//! Writable folders, on a local disk or in an object store. The rest of the crate addresses files by key
//! (`rejects/rejects-….parquet`); writes are atomic.
//!
//! The only module that uses `object_store`.

pub(crate) mod address;
pub(crate) mod confined;
mod fault;
mod keys;
mod layout;
mod lease;
mod local;
mod open;
mod remote;
mod wire;

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::Serialize;

pub use self::layout::BESIDE;
pub(crate) use self::layout::PLAN;
use self::{
    fault::Problem,
    lease::{Lease, LeaseError},
    local::LocalFolder,
    remote::RemoteFolder,
};
pub(crate) use self::{
    fault::last_cause,
    keys::{is_web, key_of},
    open::Reach,
    remote::{ObjectAt, Reading, retries},
};
pub use self::{
    fault::{StoreFault, fault_of},
    lease::LeaseTerms,
};

/// An error of writing a file.
#[derive(Debug, thiserror::Error)]
#[error("failed to write `{path}`")]
pub struct WriteError {
    /// The path or URL of the file.
    pub path: String,
    pub(crate) source: Problem,
}

/// An error of reading a file or a folder.
#[derive(Debug, thiserror::Error)]
#[error("failed to read `{path}`")]
pub struct ReadError {
    /// The path or URL of the file or folder.
    pub path: String,
    pub(crate) source: Problem,
}

/// An invalid location.
#[derive(Debug, thiserror::Error)]
#[error("invalid location `{url}`")]
pub struct LocationError {
    /// The URL.
    pub url: String,
    source: Problem,
}

impl WriteError {
    pub(crate) fn new(path: impl Into<String>, problem: impl Into<Problem>) -> Self {
        Self { path: path.into(), source: problem.into() }
    }
}

impl ReadError {
    fn new(path: impl Into<String>, problem: impl Into<Problem>) -> Self {
        Self { path: path.into(), source: problem.into() }
    }
}

impl From<ReadError> for WriteError {
    /// For files that are read before they are written.
    fn from(ReadError { path, source }: ReadError) -> Self {
        Self { path, source }
    }
}

impl From<LocationError> for Problem {
    /// For messages that already name the URL.
    fn from(error: LocationError) -> Self {
        error.source
    }
}

impl LocationError {
    fn new(url: impl Into<String>, problem: impl Into<Problem>) -> Self {
        Self { url: url.into(), source: problem.into() }
    }
}

/// Serialises a value as the bytes of a JSON file.
///
/// # Errors
///
/// The reason the value cannot be serialised.
pub(crate) fn json(value: &impl Serialize) -> Result<Bytes, String> {
    let bytes = serde_json::to_vec_pretty(value);
    bytes.map(Bytes::from).map_err(|error| format!("failed to serialise to JSON: {error}"))
}

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

/// Returns whether `location` is a URL rather than a path.
#[must_use]
pub fn is_url(location: &str) -> bool {
    location.contains("://")
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

const LOCK: &str = "_legenda/lock";
const LEASE: &str = "_legenda/lease.json";

/// The lock or lease that excludes other runs from writing to a folder.
#[derive(Debug)]
pub(crate) enum Hold {
    /// Released by the system when the process ends.
    Lock { _file: File },
    /// Renewed while the process lives, because a store does not release it.
    Lease(Lease),
}

impl Hold {
    /// Returns whether other runs are certainly still excluded.
    pub(crate) fn is_held(&self) -> bool {
        match self {
            Self::Lock { .. } => true,
            Self::Lease(lease) => lease.is_held(),
        }
    }
}

/// An error of excluding other runs.
#[derive(Debug)]
pub(crate) enum HoldError {
    /// Another run holds the folder.
    Held { owner: String },
    /// The folder cannot be written.
    Failed(WriteError),
}

/// The name of a holder whose name cannot be read.
const UNKNOWN_OWNER: &str = "unknown owner";

/// Describes this run to users who find its lock.
fn owner() -> String {
    let process = format!("process {}", std::process::id());
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(host) => format!("{process} on {}", host.trim()),
        Err(_) => process,
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

/// Returns the key of the file `name` in `dir`, where `""` is the root.
fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}
