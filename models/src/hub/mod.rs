//! Bundles of the Hugging Face Hub: fetched into the user's cache of it, file by file as needed.
//!
//! What is needed is asked of the bundle itself ([`Bundle::graphs`]): first its configs, then the
//! graphs that it runs, in the precision that is taken, then what those keep outside. The
//! cache is that of `huggingface_hub`, so what one has fetched the other finds.

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

/// A model of the Hub, at a branch, tag or commit; where a repository holds several, in a folder of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HubRepo {
    name: String,
    folder: Option<String>,
    revision: Option<String>,
}

impl HubRepo {
    /// What a model of the Hub begins with in `model.bundle`.
    pub const SCHEME: &'static str = "hf://";

    /// The branch that is meant where none is named.
    const MAIN: &'static str = "main";

    /// Returns `owner/name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the folder of the repository that holds the model, if it is not the whole.
    #[must_use]
    pub fn folder(&self) -> Option<&str> {
        self.folder.as_deref()
    }

    /// Returns `owner/name`, and the folder behind it.
    fn place(&self) -> String {
        let folder = self.folder.iter().flat_map(|folder| ["/", folder.as_str()]);
        std::iter::once(self.name.as_str()).chain(folder).collect()
    }

    /// Returns the name of a file of the model within its repository.
    fn within(&self, file: &str) -> String {
        self.folder.as_ref().map_or_else(|| file.to_owned(), |folder| format!("{folder}/{file}"))
    }

    /// Returns the branch, tag or commit.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(Self::MAIN)
    }

    /// Returns the same model at another branch, tag or commit.
    fn at(&self, revision: &str) -> Self {
        Self { revision: Some(revision.to_owned()), ..self.clone() }
    }
}

impl fmt::Display for HubRepo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::SCHEME, self.place())?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

impl FromStr for HubRepo {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let refuse = |problem| HubError::Name { text: text.to_owned(), problem };
        let rest =
            text.strip_prefix(Self::SCHEME).ok_or_else(|| refuse("is no model of the Hub"))?;
        let (place, revision) = match rest.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (rest, None),
        };
        // Names and revisions become addresses and paths.
        let plain = |part: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !part.is_empty() && part.bytes().all(allowed) && !part.contains("..") && part != "."
        };
        // Models of the first years have no owner.
        if !place.split('/').all(plain) {
            return Err(refuse("is no name of a model"));
        }
        let slash = place.match_indices('/').nth(1).map(|(at, _)| at);
        let (name, folder) = match slash {
            Some(at) => (&place[..at], Some(place[at + 1..].to_owned())),
            None => (place, None),
        };
        if revision.is_some_and(|revision| !revision.split('/').all(plain)) {
            return Err(refuse("names no revision"));
        }
        Ok(Self { name: name.to_owned(), folder, revision: revision.map(str::to_owned) })
    }
}

/// How far the fetch of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchState<'a> {
    /// The file, relative to the bundle.
    pub file: &'a str,
    /// Bytes that are there.
    pub done_bytes: u64,
    /// Bytes of the whole file, where the Hub says.
    pub total_bytes: Option<u64>,
    /// Whether the file is whole and in the cache.
    pub ended: bool,
}

/// Gets the state of a fetch: at its begin, whenever bytes arrive, at its end.
pub type FetchProgress<'a> = &'a dyn Fn(FetchState<'_>);

/// The Hub, and the cache of what was fetched from it.
///
/// It waits for the network in the calling thread, which must not be one of an async executor.
#[derive(Debug, Default)]
pub struct Hub {
    options: HubOptions,
    client: OnceCell<Client>,
}

/// A commit of a repository whose files are looked for in the cache and then fetched.
struct Snapshot<'a> {
    hub: &'a Hub,
    repo: &'a HubRepo,
    precision: &'a PrecisionChoice,
    cache: RepoCache,
    listing: Listing,
    /// Why nothing may be fetched, if so.
    offline: Option<String>,
}

/// A bundle in the cache.
#[derive(Debug)]
pub struct Cached {
    /// The model, at its branch if one leads to the commit, else at the commit.
    pub repo: HubRepo,
    /// The bundle, or why it cannot be run.
    pub bundle: Result<Bundle, BundleError>,
    /// The bytes of all files of the commit that are in the cache.
    pub n_bytes: u64,
}

impl Hub {
    /// Makes a hub; nothing is asked of it yet.
    #[must_use]
    pub fn new(options: HubOptions) -> Self {
        Self { options, client: OnceCell::new() }
    }

    /// Opens a bundle, fetching what is missing.
    pub(crate) fn open(
        &self,
        repo: &HubRepo,
        precision: PrecisionChoice,
        progress: FetchProgress<'_>,
    ) -> Result<Bundle, BundleError> {
        let snapshot = self.snapshot(repo, &precision)?;
        let bundle = snapshot.look(progress)?;
        for file in bundle.adapters() {
            snapshot.bring(file, progress)?;
        }
        for graph in bundle.graphs()? {
            snapshot.bring(&graph.file, progress)?;
            for data in bundle.external_data(&graph.file)? {
                if !snapshot.listing.files.contains_key(&repo.within(&data)) {
                    return Err(BundleError::MissingFile { file: data });
                }
                snapshot.bring(&data, progress)?;
            }
        }
        Ok(bundle)
    }

    /// Looks at a bundle without its graphs: its configs are fetched, and the rest is what the
    /// repository says it has. It cannot be loaded unless its graphs are in the cache.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if the Hub refuses, or the bundle is of a kind that cannot be run.
    pub fn look(
        &self,
        repo: &HubRepo,
        precision: &PrecisionChoice,
        progress: FetchProgress<'_>,
    ) -> Result<Bundle, BundleError> {
        self.snapshot(repo, precision)?.look(progress)
    }

    /// Returns every commit of a model that is in the cache, in the order of their names.
    ///
    /// # Errors
    ///
    /// [`HubError`] if the cache's folder is not known or cannot be read.
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
                    Some(revision) => repo.at(&revision),
                    None => repo.at(&commit),
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

    /// Finds out what a repository holds: from the Hub, or from the cache where that is enough or
    /// all there is.
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
            // Where the cache will do, a Hub that is down is not waited for.
            None => {
                match self.client()?.listing(repo, if known.is_some() { 1 } else { ATTEMPTS_MAX }) {
                    Ok(listing) => {
                        cache.keep_listing(&listing)?;
                        if !is_commit(revision) {
                            cache.keep_ref(revision, &listing.commit)?;
                        }
                        return Ok(snapshot(cache, listing, None));
                    }
                    Err(error @ HubError::Connection { .. }) if known.is_some() => {
                        let why = error.to_string();
                        tracing::warn!(why, "the cache is taken as it is");
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
    /// Brings the configs and opens the bundle on what the repository has.
    fn look(&self, progress: FetchProgress<'_>) -> Result<Bundle, BundleError> {
        let within = self.repo.within("");
        let files =
            self.listing.files.iter().filter_map(|(name, file)| {
                Some((name.strip_prefix(&within)?.to_owned(), file.size))
            });
        let sizes: BTreeMap<String, Option<u64>> = files.collect();
        for file in sizes.keys().filter(|file| is_config(file)) {
            self.bring(file, progress)?;
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
        Bundle::from_files(self.repo.place(), files, Some(&revision))
    }

    /// Brings one file of the model to the cache unless it is there.
    fn bring(&self, file: &str, progress: FetchProgress<'_>) -> Result<(), HubError> {
        let name = self.repo.within(file);
        let name = name.as_str();
        let commit = &self.listing.commit;
        let path = self.cache.snapshot(commit).join(name);
        let is_there = path.try_exists().map_err(|source| HubError::Cache {
            action: "read",
            path: path.clone(),
            source,
        })?;
        if is_there {
            return Ok(());
        }
        if let Some(why) = &self.offline {
            return Err(not_cached(self.repo, self.precision, name, why.clone()));
        }
        let file = self.listing.files.get(name).cloned().unwrap_or_default();
        let told = |done_bytes, total_bytes, ended| {
            progress(FetchState { file: name, done_bytes, total_bytes, ended });
        };
        let blob = self.hub.client()?.fetch(
            self.repo,
            (commit, name, &file),
            &self.cache,
            &|done, total| told(done, total, false),
        )?;
        let size = file.size.unwrap_or(0);
        self.cache.link(commit, name, &blob)?;
        told(size, file.size, true);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
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
    fn what_could_lead_elsewhere_is_no_name() {
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
            assert!(error.to_string().contains("write `hf://owner/name`"), "{error}");
        }
    }
}
