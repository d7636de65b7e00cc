//! Model bundles from the Hugging Face Hub, fetched into the user's Hub cache file by file on
//! demand.
//!
//! The bundle determines which files are needed ([`Bundle::graphs`]): first its configs, then the
//! graphs that it runs in the selected precision, then their external data. The cache is
//! that of `huggingface_hub`, so both share downloads.

mod cache;
mod client;
mod dataset;
mod error;
mod options;

use std::{cell::OnceCell, collections::BTreeMap, fmt, path::Path, str::FromStr};

use legenda_schemas::precision::PrecisionChoice;

use crate::{
    Bundle, BundleError,
    bundle::{BundleFiles, is_config},
};

use cache::{Listing, RepoCache, is_commit};
use client::{ATTEMPTS_MAX, Client};
pub use dataset::HubDataset;
pub use error::HubError;
pub use options::{HubOptions, Token};

/// A model on the Hub at a branch, tag or commit, optionally in a folder of the repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HubRepo {
    name: String,
    folder: Option<String>,
    revision: Option<String>,
}

impl HubRepo {
    /// The prefix of a Hub model in `model.bundle`.
    pub const SCHEME: &'static str = "hf://";

    /// The default branch.
    const MAIN: &'static str = "main";

    /// Returns `owner/name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the folder of the repository that holds the model, if it is not the root.
    #[must_use]
    pub fn folder(&self) -> Option<&str> {
        self.folder.as_deref()
    }

    /// Returns `owner/name`, followed by the folder if there is one.
    fn name_and_folder(&self) -> String {
        let folder = self.folder.iter().flat_map(|folder| ["/", folder.as_str()]);
        std::iter::once(self.name.as_str()).chain(folder).collect()
    }

    /// Returns the path within the repository of a file of the model.
    fn path_in_repo(&self, file: &str) -> String {
        self.folder.as_ref().map_or_else(|| file.to_owned(), |folder| format!("{folder}/{file}"))
    }

    /// Returns the branch, tag or commit.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(Self::MAIN)
    }

    /// Returns the same model at another branch, tag or commit.
    fn with_revision(&self, revision: &str) -> Self {
        Self { revision: Some(revision.to_owned()), ..self.clone() }
    }
}

impl fmt::Display for HubRepo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::SCHEME, self.name_and_folder())?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

impl FromStr for HubRepo {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let invalid = |problem| HubError::Name { text: text.to_owned(), problem };
        let rest = text
            .strip_prefix(Self::SCHEME)
            .ok_or_else(|| invalid("it does not start with `hf://`"))?;
        let (place, revision) = match rest.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (rest, None),
        };
        // Names and revisions are used in URLs and paths.
        let plain = |part: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !part.is_empty() && part.bytes().all(allowed) && !part.contains("..") && part != "."
        };
        // Early Hub models have no owner.
        if !place.split('/').all(plain) {
            return Err(invalid("names may only contain letters, digits, `-`, `_` and `.`"));
        }
        let slash = place.match_indices('/').nth(1).map(|(at, _)| at);
        let (name, folder) = match slash {
            Some(at) => (&place[..at], Some(place[at + 1..].to_owned())),
            None => (place, None),
        };
        if revision.is_some_and(|revision| !revision.split('/').all(plain)) {
            return Err(invalid("invalid revision"));
        }
        Ok(Self { name: name.to_owned(), folder, revision: revision.map(str::to_owned) })
    }
}

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
    options: HubOptions,
    client: OnceCell<Client>,
}

/// A commit of a repository whose files are read from the cache, or fetched if they are missing.
struct Snapshot<'a> {
    hub: &'a Hub,
    repo: &'a HubRepo,
    precision: &'a PrecisionChoice,
    cache: RepoCache,
    listing: Listing,
    /// The reason why downloads are disabled, if they are.
    offline: Option<String>,
}

/// A bundle in the cache.
#[derive(Debug)]
pub struct Cached {
    /// The model, at its branch or tag if one points to the commit, else at the commit.
    pub repo: HubRepo,
    /// The bundle, or the reason why it cannot be run.
    pub bundle: Result<Bundle, BundleError>,
    /// The total size in bytes of the cached files of the commit.
    pub n_bytes: u64,
}

impl Hub {
    /// Creates a client. It sends no request yet.
    #[must_use]
    pub fn new(options: HubOptions) -> Self {
        Self { options, client: OnceCell::new() }
    }

    /// Opens a bundle and fetches its missing files.
    pub(crate) fn open(
        &self,
        repo: &HubRepo,
        precision: PrecisionChoice,
        progress: FetchProgress<'_>,
    ) -> Result<Bundle, BundleError> {
        let snapshot = self.snapshot(repo, &precision)?;
        let bundle = snapshot.open_bundle(progress)?;
        for file in bundle.adapters() {
            snapshot.ensure_cached(file, progress)?;
        }
        for graph in bundle.graphs()? {
            snapshot.ensure_cached(&graph.file, progress)?;
            for data in bundle.external_data(&graph.file)? {
                if !snapshot.listing.files.contains_key(&repo.path_in_repo(&data)) {
                    return Err(BundleError::MissingFile { file: data });
                }
                snapshot.ensure_cached(&data, progress)?;
            }
        }
        Ok(bundle)
    }

    /// Opens a bundle without its graphs: fetches the configs and takes the names of the other
    /// files from the listing. The bundle cannot be loaded unless its graphs are in the cache.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if the Hub refuses access or the bundle is not supported.
    pub fn look(
        &self,
        repo: &HubRepo,
        precision: &PrecisionChoice,
        progress: FetchProgress<'_>,
    ) -> Result<Bundle, BundleError> {
        self.snapshot(repo, precision)?.open_bundle(progress)
    }

    /// Returns the cached commits of all models, ordered by model name.
    ///
    /// # Errors
    ///
    /// [`HubError`] if the cache folder is unknown or unreadable.
    pub fn cached(&self) -> Result<Vec<Cached>, HubError> {
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
                let files =
                    BundleFiles::directory(&cache.snapshot(&commit), PrecisionChoice::default());
                let bundle = files
                    .and_then(|files| Bundle::from_files(name.clone(), files, Some(&commit)))
                    .and_then(|bundle| bundle.is_whole().map(|()| bundle));
                let repo = match revision {
                    Some(revision) if revision == HubRepo::MAIN => repo.clone(),
                    Some(revision) => repo.with_revision(&revision),
                    None => repo.with_revision(&commit),
                };
                found.push(Cached { repo, bundle, n_bytes });
            }
        }
        Ok(found)
    }

    fn folder(&self) -> Result<&Path, HubError> {
        self.options.cache_dir.as_deref().ok_or(HubError::NoCache)
    }

    fn client(&self) -> Result<&Client, HubError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::new(&self.options)?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Resolves the revision and lists the files of a repository: from the Hub, or from the cache
    /// if that suffices or the Hub is not available.
    fn snapshot<'a>(
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
                        let why = error.to_string();
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

fn not_cached(repo: &HubRepo, precision: &PrecisionChoice, file: &str, why: String) -> HubError {
    let mut command = format!("legenda models pull {repo}");
    let precision = precision.to_string();
    if !precision.is_empty() {
        command = format!("{command} --precision {precision}");
    }
    HubError::NotCached { repo: repo.to_string(), file: file.to_owned(), why, command }
}

impl Snapshot<'_> {
    /// Fetches the configs and opens the bundle on the listed files.
    fn open_bundle(&self, progress: FetchProgress<'_>) -> Result<Bundle, BundleError> {
        let prefix = self.repo.path_in_repo("");
        let files =
            self.listing.files.iter().filter_map(|(name, file)| {
                Some((name.strip_prefix(&prefix)?.to_owned(), file.size))
            });
        let sizes: BTreeMap<String, Option<u64>> = files.collect();
        for file in sizes.keys().filter(|file| is_config(file)) {
            self.ensure_cached(file, progress)?;
        }
        let mut root = self.cache.snapshot(&self.listing.commit);
        let mut revision = self.listing.commit.clone();
        if let Some(folder) = self.repo.folder() {
            if sizes.is_empty() {
                let what =
                    format!("folder `{folder}` in `{}{}`", HubRepo::SCHEME, self.repo.name());
                return Err(HubError::NotFound { what }.into());
            }
            root = root.join(folder);
            revision = format!("{revision}/{folder}");
        }
        let files = BundleFiles::listed(&root, sizes, self.precision.clone())?;
        Bundle::from_files(self.repo.name_and_folder(), files, Some(&revision))
    }

    /// Fetches one file of the model into the cache unless it is there.
    fn ensure_cached(&self, file: &str, progress: FetchProgress<'_>) -> Result<(), HubError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_names_round_trip() {
        for text in [
            "hf://gpt2",
            "hf://o-1/n_2.x",
            "hf://o/n@v1.0",
            "hf://o/n@refs/pr/3",
            "hf://o/n/cpu/int4@v1",
        ] {
            assert_eq!(text.parse::<HubRepo>().unwrap().to_string(), text);
        }
        let deep: HubRepo = "hf://o/n/cpu/int4@v1".parse().unwrap();
        assert_eq!((deep.name(), deep.folder(), deep.revision()), ("o/n", Some("cpu/int4"), "v1"));
        assert_eq!("hf://o/n".parse::<HubRepo>().unwrap().revision(), "main");
    }

    #[test]
    fn unsafe_names_are_rejected() {
        for text in [
            "hf://",
            "hf://o/",
            "hf://o/n/",
            "hf://o/n/../x",
            "hf://../n",
            "hf://o/..",
            "hf://o/n@",
            "hf://o/n@../x",
            "hf://o/n@a//b",
            "hf://o/n?x",
            "hf://o/n x",
            "o/n",
        ] {
            let error = text.parse::<HubRepo>().unwrap_err();
            assert!(error.to_string().contains("expected `hf://owner/name`"), "{error}");
        }
    }
}
