//! Opens a bundle from where it is: inside this program, in a directory, on the Hub.

use std::path::{Path, PathBuf};

use legenda_schemas::precision::PrecisionChoice;

use crate::{
    bundle::{Bundle, BundleFiles},
    config::BundleError,
    hub::{FetchProgress, Hub, HubRepo, KnownModel},
    runtime::cache_dir_from_env,
};

/// The location of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleSource {
    /// The bundle embedded in the binary.
    Embedded,
    /// A directory.
    Directory(PathBuf),
    /// A model on the Hub, as written in the job: `hf://owner/name@revision`.
    Hub(String),
}

impl BundleSource {
    /// The name of the embedded bundle.
    pub const EMBEDDED_NAME: &'static str = Bundle::EMBEDDED_NAME;

    /// Parses the value of `model.bundle`: [`EMBEDDED_NAME`](Self::EMBEDDED_NAME), `hf://…` or a
    /// directory.
    #[must_use]
    pub fn parse(bundle: &str) -> Self {
        if bundle == Self::EMBEDDED_NAME {
            Self::Embedded
        } else if bundle.starts_with(HubRepo::SCHEME) {
            Self::Hub(bundle.to_owned())
        } else {
            Self::Directory(PathBuf::from(bundle))
        }
    }

    /// Parses the value of `model.bundle` and resolves it: a directory relative to `base_dir`, or, unless such
    /// a directory exists, a short name of a Hub model ([`KnownModel`]).
    #[must_use]
    pub fn resolve(bundle: &str, base_dir: &Path) -> Self {
        match Self::parse(bundle) {
            Self::Directory(path) => {
                let path = base_dir.join(path);
                match KnownModel::find(bundle).filter(|_| !path.is_dir()) {
                    Some(known) => Self::Hub(known.uri()),
                    None => Self::Directory(path),
                }
            }
            other => other,
        }
    }
}

impl Bundle {
    /// Opens a local bundle: reads its configs, checks that its graphs exist, and hashes all files
    /// that affect answers. Each graph is used in the first available precision.
    ///
    /// # Errors
    ///
    /// [`BundleError`] names the invalid file, or the unsupported architecture.
    pub fn open(source: &BundleSource) -> Result<Self, BundleError> {
        Self::open_with(source, PrecisionChoice::default(), &Hub::default(), &|_| {})
    }

    /// Opens a bundle in the requested precision, and fetches missing files of a Hub bundle.
    ///
    /// # Errors
    ///
    /// The errors of [`open`](Self::open), and [`BundleError::Hub`] if a file cannot be fetched.
    pub fn open_with(
        source: &BundleSource,
        precision: PrecisionChoice,
        hub: &Hub,
        progress: FetchProgress<'_>,
    ) -> Result<Self, BundleError> {
        match source {
            BundleSource::Embedded => Self::embedded(precision),
            BundleSource::Directory(path) => {
                let name = path
                    .file_name()
                    .map_or_else(|| path.display().to_string(), |n| n.display().to_string());
                let files = BundleFiles::directory(path, precision)?;
                let cache_dir = cache_dir_from_env();
                Self::from_files(name, files.keeping_digests(cache_dir.as_deref()), None)
            }
            BundleSource::Hub(reference) => hub.open(&reference.parse()?, precision, progress),
        }
    }
}
