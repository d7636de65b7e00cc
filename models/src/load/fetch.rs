//! Bundles from the Hugging Face Hub.
//!
//! The bundle determines which files are needed ([`Bundle::graphs`]): first its configs, then the
//! graphs that it runs in the selected precision, then their external data.

use legenda_schemas::precision::PrecisionChoice;

use crate::{
    bundle::{Bundle, BundleFiles, is_config},
    config::BundleError,
    hub::{CachedCommit, FetchProgress, Hub, HubError, HubRepo, Snapshot},
};

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
    /// Opens a bundle and fetches its missing files.
    pub(crate) fn open(
        &self,
        repo: &HubRepo,
        precision: PrecisionChoice,
        progress: FetchProgress<'_>,
    ) -> Result<Bundle, BundleError> {
        let snapshot = self.snapshot(repo, &precision)?;
        let bundle = open_bundle(&snapshot, repo, precision.clone(), progress)?;
        for file in bundle.adapters() {
            snapshot.ensure_cached(file, progress)?;
        }
        for graph in bundle.graphs()? {
            snapshot.ensure_cached(&graph.file, progress)?;
            for data in bundle.external_data(&graph.file)? {
                if !snapshot.has(&data) {
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
        open_bundle(&self.snapshot(repo, precision)?, repo, precision.clone(), progress)
    }

    /// Returns the cached commits of all models, ordered by model name.
    ///
    /// # Errors
    ///
    /// [`HubError`] if the cache folder is unknown or unreadable.
    pub fn cached(&self) -> Result<Vec<Cached>, HubError> {
        let opened = |commit: CachedCommit| {
            let files = BundleFiles::directory(&commit.folder, PrecisionChoice::default());
            let bundle = files
                .and_then(|files| Bundle::from_files(commit.name, files, Some(&commit.commit)))
                .and_then(|bundle| bundle.is_whole().map(|()| bundle));
            Cached { repo: commit.repo, bundle, n_bytes: commit.n_bytes }
        };
        Ok(self.cached_commits()?.into_iter().map(opened).collect())
    }
}

/// Fetches the configs and opens the bundle on the listed files.
fn open_bundle(
    snapshot: &Snapshot<'_>,
    repo: &HubRepo,
    precision: PrecisionChoice,
    progress: FetchProgress<'_>,
) -> Result<Bundle, BundleError> {
    let sizes = snapshot.files()?;
    for file in sizes.keys().filter(|file| is_config(file)) {
        snapshot.ensure_cached(file, progress)?;
    }
    let files = BundleFiles::listed(&snapshot.folder(), sizes, precision)?;
    Bundle::from_files(repo.name_and_folder(), files, Some(&snapshot.revision()))
}
