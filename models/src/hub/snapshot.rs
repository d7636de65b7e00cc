//! A commit of a model, file by file.

use std::{collections::BTreeMap, path::PathBuf};

use legenda_schemas::{cause::chain, precision::PrecisionChoice};

use super::{
    FetchProgress, FetchState, Hub, HubError, HubRepo,
    cache::{Listing, RepoCache, is_commit},
    client::ATTEMPTS_MAX,
};

/// A commit of a repository whose files are read from the cache, or fetched if they are missing.
pub(crate) struct Snapshot<'a> {
    hub: &'a Hub,
    repo: &'a HubRepo,
    precision: &'a PrecisionChoice,
    cache: RepoCache,
    listing: Listing,
    /// The reason why downloads are disabled, if they are.
    offline: Option<String>,
}

impl Hub {
    /// Resolves the revision and lists the files of a repository: from the Hub, or from the cache
    /// if that suffices or the Hub is not available.
    pub(crate) fn snapshot<'a>(
        &'a self,
        repo: &'a HubRepo,
        precision: &'a PrecisionChoice,
    ) -> Result<Snapshot<'a>, HubError> {
        let cache = RepoCache::new(self.folder()?, repo);
        let revision = repo.revision();
        let fixed = is_commit(revision).then(|| revision.to_owned());
        let snapshot = |cache, listing, offline| Snapshot {
            hub: self,
            repo,
            precision,
            cache,
            listing,
            offline,
        };
        // A commit never changes.
        if let Some(listing) = fixed.as_ref().and_then(|commit| cache.listing(commit)) {
            return Ok(snapshot(cache, listing, self.options.offline.clone()));
        }
        let known = fixed.or_else(|| cache.commit_of(revision));
        let why = match &self.options.offline {
            Some(why) => why.clone(),
            // With a cached commit, try an unreachable Hub only once.
            None => {
                match self.client()?.listing(repo, if known.is_some() { 1 } else { ATTEMPTS_MAX }) {
                    Ok(listing) => {
                        cache.write_listing(&listing)?;
                        if !is_commit(revision) {
                            cache.write_ref(revision, &listing.commit)?;
                        }
                        return Ok(snapshot(cache, listing, None));
                    }
                    Err(error @ HubError::Connection { .. }) if known.is_some() => {
                        let why = chain(&error);
                        tracing::warn!(why, "Hub unreachable; using the cache");
                        why
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let Some(commit) = known else {
            return Err(not_cached(repo, precision, "config.json", why));
        };
        let listing = cache.listing(&commit).unwrap_or_else(|| cache.cached(&commit));
        Ok(snapshot(cache, listing, Some(why)))
    }
}

impl Snapshot<'_> {
    /// Returns the files of the model, with their sizes in bytes where the Hub reports them.
    ///
    /// # Errors
    ///
    /// [`HubError::NotFound`] if the repository has no such folder.
    pub(crate) fn files(&self) -> Result<BTreeMap<String, Option<u64>>, HubError> {
        let prefix = self.repo.path_in_repo("");
        let files =
            self.listing.files.iter().filter_map(|(name, file)| {
                Some((name.strip_prefix(&prefix)?.to_owned(), file.size))
            });
        let sizes: BTreeMap<String, Option<u64>> = files.collect();
        match self.repo.folder() {
            Some(folder) if sizes.is_empty() => {
                let what =
                    format!("folder `{folder}` in `{}{}`", HubRepo::SCHEME, self.repo.name());
                Err(HubError::NotFound { what })
            }
            _ => Ok(sizes),
        }
    }

    /// Returns whether the repository has a file of the model.
    pub(crate) fn has(&self, file: &str) -> bool {
        self.listing.files.contains_key(&self.repo.path_in_repo(file))
    }

    /// Returns the folder of the model in the cache.
    pub(crate) fn folder(&self) -> PathBuf {
        let root = self.cache.snapshot(&self.listing.commit);
        self.repo.folder().map_or_else(|| root.clone(), |folder| root.join(folder))
    }

    /// Returns the commit, followed by the folder of the repository that holds the model, if it is
    /// not the root.
    pub(crate) fn revision(&self) -> String {
        let commit = &self.listing.commit;
        self.repo.folder().map_or_else(|| commit.clone(), |folder| format!("{commit}/{folder}"))
    }

    /// Fetches one file of the model into the cache unless it is there.
    pub(crate) fn ensure_cached(
        &self,
        file: &str,
        progress: FetchProgress<'_>,
    ) -> Result<(), HubError> {
        let name = self.repo.path_in_repo(file);
        let name = name.as_str();
        let commit = &self.listing.commit;
        let path = self.cache.snapshot(commit).join(name);
        let is_cached = path.try_exists().map_err(|source| HubError::Cache {
            action: "read",
            path: path.clone(),
            source,
        })?;
        if is_cached {
            return Ok(());
        }
        if let Some(why) = &self.offline {
            return Err(not_cached(self.repo, self.precision, name, why.clone()));
        }
        let file = self.listing.files.get(name).cloned().unwrap_or_default();
        let report = |done_bytes, total_bytes, ended| {
            progress(FetchState { file: name, done_bytes, total_bytes, ended });
        };
        let blob = self.hub.client()?.fetch(
            self.repo,
            (commit, name, &file),
            &self.cache,
            &|done, total| report(done, total, false),
        )?;
        let size = file.size.unwrap_or(0);
        self.cache.link(commit, name, &blob)?;
        report(size, file.size, true);
        Ok(())
    }
}

/// Describes a file that is not in the cache while downloads are disabled.
pub(super) fn not_cached(
    repo: &HubRepo,
    precision: &PrecisionChoice,
    file: &str,
    why: String,
) -> HubError {
    let mut command = format!("legenda models pull {repo}");
    let precision = precision.to_string();
    if !precision.is_empty() {
        command = format!("{command} --precision {precision}");
    }
    HubError::NotCached { repo: repo.to_string(), file: file.to_owned(), problem: why, command }
}
