//! The Hub cache on disk, shared with `huggingface_hub`.
//!
//! ```text
//! models--owner--name/refs/main                the commit of a branch
//!                     blobs/<digest>           contents, by digest; <digest>.incomplete while fetched
//!                     snapshots/<commit>/…     the files of a commit: links to blobs
//!                     .legenda/<commit>.json   what the repository holds (ours alone)
//! .locks/models--owner--name/<digest>.lock     held while a blob is fetched
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{HubError, HubRepo};

/// The files of a repository at one commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: BTreeMap<String, RemoteFile>,
}

/// A file of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RemoteFile {
    /// The size in bytes, if the Hub reports it.
    pub(super) size: Option<u64>,
    /// The name of the blob, if the Hub reports it: the SHA-256 of a large file, the git object ID
    /// of a small one.
    pub(super) blob: Option<String>,
}

/// The part of the cache that belongs to one repository.
#[derive(Debug)]
pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

const PREFIX: &str = "models--";

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HubError {
    move |source| HubError::Cache { action, path: path.to_owned(), source }
}

impl RepoCache {
    pub(super) fn new(cache: &Path, repo: &HubRepo) -> Self {
        let folder = format!("{PREFIX}{}", repo.name().replace('/', "--"));
        Self { root: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    /// Returns the names of all repositories in the cache.
    pub(super) fn names(cache: &Path) -> Result<Vec<String>, HubError> {
        let entries = match fs::read_dir(cache) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", cache)(error)),
        };
        let name = |entry: fs::DirEntry| {
            let folder = entry.file_name().into_string().ok()?;
            Some(folder.strip_prefix(PREFIX)?.replacen("--", "/", 1))
        };
        let mut names: Vec<String> = entries.filter_map(Result::ok).filter_map(name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Returns the cached commits, each with a branch or tag that points to it, if there is one.
    pub(super) fn commits(&self) -> BTreeMap<String, Option<String>> {
        let names = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(self.root.join(folder)).into_iter().flatten();
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
        };
        let mut commits: BTreeMap<String, Option<String>> =
            names("snapshots").into_iter().map(|commit| (commit, None)).collect();
        for revision in names("refs") {
            let entry = self.commit_of(&revision).and_then(|commit| commits.get_mut(&commit));
            if let Some(revision_slot) = entry {
                revision_slot.get_or_insert(revision);
            }
        }
        commits
    }

    /// Returns the commit that a branch or tag pointed to when it was last resolved.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        let commit = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        let commit = commit.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        write_atomic(&self.root.join("refs").join(revision), commit.as_bytes())
    }

    /// Returns the cached file listing of a commit.
    pub(super) fn listing(&self, commit: &str) -> Option<Listing> {
        let text = fs::read(self.listing_path(commit)).ok()?;
        serde_json::from_slice(&text).ok().filter(|listing: &Listing| listing.commit == commit)
    }

    pub(super) fn write_listing(&self, listing: &Listing) -> Result<(), HubError> {
        let path = self.listing_path(&listing.commit);
        let text =
            serde_json::to_vec(listing).map_err(|error| failed("write", &path)(error.into()));
        write_atomic(&path, &text?)
    }

    fn listing_path(&self, commit: &str) -> PathBuf {
        self.root.join(".legenda").join(format!("{commit}.json"))
    }

    /// Lists the files of a commit that are in the cache.
    pub(super) fn cached(&self, commit: &str) -> Listing {
        let snapshot = self.snapshot(commit);
        let mut files = BTreeMap::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(snapshot.join(&folder)).into_iter().flatten().flatten() {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let file = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                // Follows links and skips broken ones.
                let Ok(data) = fs::metadata(entry.path()) else { continue };
                if data.is_dir() {
                    folders.push(file);
                } else {
                    files.insert(file, RemoteFile { size: Some(data.len()), blob: None });
                }
            }
        }
        Listing { commit: commit.to_owned(), files }
    }

    /// Returns the folder that holds the files of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, blob: &str) -> PathBuf {
        self.root.join("blobs").join(blob)
    }

    /// Waits until no other process fetches a blob. Dropping the returned file releases the lock.
    pub(super) fn lock(&self, blob: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{blob}.lock"));
        create_parent(&path)?;
        let lock = File::create(&path).map_err(failed("write", &path))?;
        lock.lock().map_err(failed("lock", &path))?;
        Ok(lock)
    }

    /// Links a blob into the files of a commit.
    pub(super) fn link(&self, commit: &str, file: &str, blob: &str) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(file);
        create_parent(&path)?;
        let up = "../".repeat(file.matches('/').count() + 2);
        let linked = link(Path::new(&format!("{up}blobs/{blob}")), &self.blob(blob), &path);
        match linked {
            // Either another process created the link first, or the existing link is broken.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if path.try_exists().map_err(failed("read", &path))? {
                    return Ok(());
                }
                fs::remove_file(&path).map_err(failed("remove", &path))?;
                link(Path::new(&format!("{up}blobs/{blob}")), &self.blob(blob), &path)
                    .map_err(failed("write", &path))
            }
            linked => linked.map_err(failed("write", &path)),
        }
    }
}

#[cfg(unix)]
fn link(target: &Path, _blob: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Symbolic links need a privilege on this platform; `huggingface_hub` also moves the blob instead.
#[cfg(not(unix))]
fn link(_target: &Path, blob: &Path, path: &Path) -> io::Result<()> {
    fs::rename(blob, path)
}

/// Returns whether `text` is a git commit hash in hexadecimal.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40
        && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

pub(super) fn create_parent(path: &Path) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(failed("create", folder))
}

/// Writes a small file atomically.
fn write_atomic(path: &Path, content: &[u8]) -> Result<(), HubError> {
    create_parent(path)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let work = path.with_file_name(name);
    let written = File::create(&work)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&work, path));
    written.map_err(failed("write", path))
}
