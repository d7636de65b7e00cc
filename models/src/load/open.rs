//! Opens a bundle from where it is: inside this program, in a directory, on the Hub.

use std::path::PathBuf;

use legenda_schemas::precision::PrecisionChoice;

use crate::{
    bundle::{Bundle, BundleFiles},
    config::BundleError,
    hub::{FetchProgress, Hub, HubRepo},
};

/// Where a bundle is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleSource {
    /// The bundle inside this program.
    Embedded,
    /// A directory.
    Directory(PathBuf),
    /// A model of the Hub, as it is written: `hf://owner/name@revision`.
    Hub(String),
}

impl BundleSource {
    /// The name that means the embedded bundle.
    pub const EMBEDDED_NAME: &'static str = Bundle::EMBEDDED_NAME;

    /// Reads the value of `model.bundle`: [`EMBEDDED_NAME`](Self::EMBEDDED_NAME), `hf://…` or a
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
}

impl Bundle {
    /// Opens a bundle that is on this machine: reads its configs, checks that its graphs are there,
    /// hashes every file that has a part in an answer. Graphs are taken in the first precision that
    /// is there.
    ///
    /// # Errors
    ///
    /// [`BundleError`] names the file and what is wrong with it, or the architecture and what is
    /// supported.
    pub fn open(source: &BundleSource) -> Result<Self, BundleError> {
        Self::open_with(source, PrecisionChoice::default(), &Hub::default(), &|_| {})
    }

    /// Opens a bundle in the precision that is wanted; fetches what is missing of one of the Hub.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), and [`BundleError::Hub`] if something cannot be fetched.
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
                Self::from_files(name, BundleFiles::directory(path, precision)?, None)
            }
            BundleSource::Hub(reference) => hub.open(&reference.parse()?, precision, progress),
        }
    }
}
