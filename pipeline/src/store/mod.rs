//! Folders that are written to: on a local disk, or a prefix of an object store. The rest of the crate
//! sees files by their keys (`rejects/rejects-….parquet`), which appear whole or not at all.
//!
//! The only room that names `object_store`.

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
    fault::{StoreFault, StoreKind, fault_of},
    lease::LeaseTerms,
};

/// Why a file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot write `{path}`: {problem}; what was committed is safe, run the same command again once this is mended"
)]
pub struct WriteError {
    /// The file, by its path or URL.
    pub path: String,
    /// What the system or the store says.
    pub problem: String,
    #[source]
    fault: Option<StoreFault>,
}

/// Why a file or a folder cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{path}`: {problem}")]
pub struct ReadError {
    /// The file or folder, by its path or URL.
    pub path: String,
    /// What the system or the store says.
    pub problem: String,
    #[source]
    fault: Option<StoreFault>,
}

/// Why a location cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`{url}` cannot be used: {problem}")]
pub struct LocationError {
    /// The URL.
    pub url: String,
    /// What is wrong.
    pub problem: String,
    #[source]
    fault: Option<StoreFault>,
}

impl WriteError {
    pub(crate) fn new(path: impl Into<String>, problem: impl Into<Problem>) -> Self {
        let Problem { text, fault } = problem.into();
        Self { path: path.into(), problem: text, fault }
    }
}

impl ReadError {
    fn new(path: impl Into<String>, problem: impl Into<Problem>) -> Self {
        let Problem { text, fault } = problem.into();
        Self { path: path.into(), problem: text, fault }
    }
}

impl From<ReadError> for WriteError {
    /// For what has to be read before it is written.
    fn from(ReadError { path, problem, fault }: ReadError) -> Self {
        Self { path, problem, fault }
    }
}

impl From<LocationError> for Problem {
    /// For where the URL is told anyway.
    fn from(LocationError { problem, fault, .. }: LocationError) -> Self {
        Self { text: problem, fault }
    }
}

impl LocationError {
    fn new(url: impl Into<String>, problem: impl Into<Problem>) -> Self {
        let Problem { text, fault } = problem.into();
        Self { url: url.into(), problem: text, fault }
    }
}

/// Returns a value as the bytes of a JSON file.
///
/// # Errors
///
/// Why the value cannot be JSON, in words.
pub(crate) fn json(value: &impl Serialize) -> Result<Bytes, String> {
    let bytes = serde_json::to_vec_pretty(value);
    bytes.map(Bytes::from).map_err(|error| format!("failed to serialise it: {error}"))
}

/// A folder on a local disk or in an object store.
#[derive(Clone, Debug)]
pub struct Folder {
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Local(LocalFolder),
    Remote(RemoteFolder),
}

/// Returns whether `location` is a URL and no path.
#[must_use]
pub fn is_url(location: &str) -> bool {
    location.contains("://")
}

impl Folder {
    /// Returns the folder at `location`: a URL (`s3://bucket/folder`, `gs://…`, `az://…`), or a path,
    /// resolved against `base_dir`. Nothing is read or made.
    ///
    /// # Errors
    ///
    /// [`LocationError`] for a URL that no store is known for.
    pub fn at(location: &str, base_dir: &Path) -> Result<Self, LocationError> {
        let place = match location.strip_prefix("file://") {
            Some(path) => Place::Local(LocalFolder::new(absolute(Path::new(path)))),
            None if is_url(location) => Place::Remote(RemoteFolder::at(location)?),
            None => Place::Local(LocalFolder::new(absolute(&base_dir.join(location)))),
        };
        Ok(Self { place })
    }

    /// Returns where the file `key` lies, for messages: a path or URL; the folder itself of an empty
    /// key.
    #[must_use]
    pub fn path_of(&self, key: &str) -> String {
        match &self.place {
            Place::Local(folder) => folder.path_of(key).display().to_string(),
            Place::Remote(folder) => folder.url_of(key),
        }
    }

    /// Returns whether a file at `path`, absolute or a URL, lies in the folder or in the one beside it.
    #[must_use]
    pub fn holds(&self, path: &str) -> bool {
        match &self.place {
            Place::Local(folder) => folder.holds(Path::new(path)),
            Place::Remote(folder) => folder.holds(path),
        }
    }

    /// Makes the folders `dirs` where folders need making; nobody else may look into those of
    /// answers where `holds_media`, and into all others.
    pub(crate) fn make_dirs(&self, dirs: &[&str], holds_media: bool) -> Result<(), WriteError> {
        match &self.place {
            Place::Local(folder) => folder.make_dirs(dirs, holds_media),
            Place::Remote(_) => Ok(()),
        }
    }

    /// Removes what writes that were cut off have left.
    pub(crate) fn clear_unfinished(&self) -> Result<(), WriteError> {
        match &self.place {
            Place::Local(folder) => folder.clear_unfinished(),
            Place::Remote(_) => Ok(()),
        }
    }

    /// Returns the keys of the files directly in `dir` (the root: `""`) whose names begin with
    /// `prefix`, sorted; none when there is no such folder.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn list(&self, dir: &str, prefix: &str) -> Result<Vec<String>, ReadError> {
        match &self.place {
            Place::Local(folder) => folder.list(dir, prefix),
            Place::Remote(folder) => folder.list(dir, prefix),
        }
    }

    /// Returns the names of the folders directly in this one that have files.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn list_dirs(&self) -> Result<Vec<String>, ReadError> {
        match &self.place {
            Place::Local(folder) => folder.list_dirs(),
            Place::Remote(folder) => folder.list_dirs(),
        }
    }

    /// Reads a whole file; `None` when it is not there.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    pub fn read(&self, key: &str) -> Result<Option<Bytes>, ReadError> {
        match &self.place {
            Place::Local(folder) => folder.read(key),
            Place::Remote(folder) => folder.read(key),
        }
    }

    /// Reads whole files, several at a time where that helps; in the order of `keys`, but for those
    /// that are not there.
    ///
    /// # Errors
    ///
    /// [`ReadError`] for the first that cannot be read.
    pub fn read_all(&self, keys: &[String]) -> Result<Vec<(String, Bytes)>, ReadError> {
        match &self.place {
            Place::Local(folder) => {
                let read = |key: &String| Ok(folder.read(key)?.map(|bytes| (key.clone(), bytes)));
                keys.iter().filter_map(|key| read(key).transpose()).collect()
            }
            Place::Remote(folder) => folder.read_all(keys),
        }
    }

    /// Writes a whole file that is not there yet. Where another writer was faster with other bytes
    /// that is an error in an object store; on a local disk the lock keeps others away.
    pub(crate) fn create(&self, key: &str, bytes: Bytes) -> Result<(), WriteError> {
        match &self.place {
            Place::Local(folder) => folder.write(key, &bytes),
            Place::Remote(folder) => folder.create(key, &bytes),
        }
    }

    /// Writes a whole file in the place of what may be there.
    pub(crate) fn replace(&self, key: &str, bytes: Bytes) -> Result<(), WriteError> {
        match &self.place {
            Place::Local(folder) => folder.write(key, &bytes),
            Place::Remote(folder) => folder.replace(key, bytes),
        }
    }

    /// Removes a file; one that is not there is as wanted.
    pub(crate) fn remove(&self, key: &str) -> Result<(), WriteError> {
        match &self.place {
            Place::Local(folder) => folder.remove(key),
            Place::Remote(folder) => folder.remove(key),
        }
    }

    /// Keeps other runs from writing to the folder, until the hold is dropped or this process dies. Of
    /// an output in a store that may take as long as a lease lasts, where another run has died.
    pub(crate) fn hold(&self, terms: LeaseTerms) -> Result<Hold, HoldError> {
        match &self.place {
            Place::Local(folder) => {
                folder.lock(LOCK, &owner()).map(|file| Hold::Lock { _file: file })
            }
            Place::Remote(folder) => Lease::take(folder, LEASE, &owner(), terms)
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

/// What keeps other runs from writing to a folder.
#[derive(Debug)]
pub(crate) enum Hold {
    /// The system lets go of a lock when the process ends, however it ends.
    Lock { _file: File },
    /// Nobody does of an object, so it is renewed while the process lives.
    Lease(Lease),
}

impl Hold {
    /// Returns whether other runs are certainly kept away still.
    pub(crate) fn is_held(&self) -> bool {
        match self {
            Self::Lock { .. } => true,
            Self::Lease(lease) => lease.is_held(),
        }
    }
}

/// Why other runs cannot be kept away.
#[derive(Debug)]
pub(crate) enum HoldError {
    /// Another run is there.
    Held { owner: String },
    /// The folder cannot be written.
    Failed(WriteError),
}

/// What is said of a holder whose name cannot be read.
const UNKNOWN_OWNER: &str = "of unknown name";

/// Says who this run is, to people who meet its lock.
fn owner() -> String {
    let process = format!("process {}", std::process::id());
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(host) => format!("{process} on {}", host.trim()),
        Err(_) => process,
    }
}

/// Resolves `path` as far as it is there, so that links and `..` do not hide where it leads.
fn absolute(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            // An empty path would add a slash.
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.to_owned()
}

/// Returns the key of the file `name` in `dir`, where the root is `""`.
fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}
