//! The Hub and its local cache.

use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
};

use super::{HubError, HubOptions, HubRepo, cache::RepoCache, client::Client};

/// The progress of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchState<'a> {
    /// The file, relative to the bundle.
    pub file: &'a str,
    /// The number of bytes fetched so far.
    pub done_bytes: u64,
    /// The size of the file in bytes, if the Hub reports it.
    pub total_bytes: Option<u64>,
    /// Whether the file is complete and in the cache.
    pub ended: bool,
}

/// Receives the progress of a download: at the start, whenever bytes arrive, and at the end.
pub type FetchProgress<'a> = &'a dyn Fn(FetchState<'_>);

/// The Hub and its local cache.
///
/// It blocks the calling thread on the network, so it must not be used on a thread of an async
/// executor.
#[derive(Debug, Default)]
pub struct Hub {
    pub(super) options: HubOptions,
    client: OnceCell<Client>,
}

/// A commit in the cache.
#[derive(Debug)]
pub(crate) struct CachedCommit {
    /// The model, at its branch or tag if one points to the commit, else at the commit.
    pub(crate) repo: HubRepo,
    /// `owner/name`.
    pub(crate) name: String,
    pub(crate) commit: String,
    /// The folder of its files.
    pub(crate) folder: PathBuf,
    /// The total size in bytes of its cached files.
    pub(crate) n_bytes: u64,
}

impl Hub {
    /// Creates a client. It sends no request yet.
    #[must_use]
    pub fn new(options: HubOptions) -> Self {
        Self { options, client: OnceCell::new() }
    }

    /// Returns the cached commits of all models, ordered by model name.
    ///
    /// # Errors
    ///
    /// [`HubError`] if the cache folder is unknown or unreadable.
    pub(crate) fn cached_commits(&self) -> Result<Vec<CachedCommit>, HubError> {
        let folder = self.folder()?;
        let mut found = Vec::new();
        for name in RepoCache::names(folder)? {
            let Ok(repo) = format!("{}{name}", HubRepo::SCHEME).parse::<HubRepo>() else {
                continue;
            };
            let cache = RepoCache::new(folder, &repo);
            for (commit, revision) in cache.commits() {
                let n_bytes =
                    cache.cached(&commit).files.values().filter_map(|file| file.size).sum();
                let folder = cache.snapshot(&commit);
                let repo = match revision {
                    Some(revision) if revision == HubRepo::MAIN => repo.clone(),
                    Some(revision) => repo.with_revision(&revision),
                    None => repo.with_revision(&commit),
                };
                found.push(CachedCommit { repo, name: name.clone(), commit, folder, n_bytes });
            }
        }
        Ok(found)
    }

    /// Returns the folder of the cache.
    pub(super) fn folder(&self) -> Result<&Path, HubError> {
        self.options.cache_dir.as_deref().ok_or(HubError::NoCache)
    }

    pub(super) fn client(&self) -> Result<&Client, HubError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::new(&self.options)?;
        Ok(self.client.get_or_init(|| client))
    }
}
