//! Models of the Hugging Face Hub, fetched into the user's Hub cache file by file on demand.
//!
//! Which files are needed is decided by `load`, from the bundle. The cache is that of
//! `huggingface_hub`, so both share downloads.

mod cache;
mod client;
mod dataset;
mod error;
mod hub;
mod options;
mod repo;
mod short_names;
mod snapshot;

pub use dataset::HubDataset;
pub use error::HubError;
pub(crate) use hub::CachedCommit;
pub use hub::{FetchProgress, FetchState, Hub};
pub use options::{HubOptions, Token};
pub use repo::HubRepo;
pub use short_names::{KNOWN_MODELS, KnownModel};
pub(crate) use snapshot::Snapshot;
