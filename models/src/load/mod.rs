//! A bundle opened, fetched and loaded: the only module that knows all others.

mod embedder;
mod fetch;
mod long_audio;
mod model;
mod open;

pub use embedder::{Embedder, EmbedderInfo, Loaded};
pub use fetch::Cached;
pub use model::{Model, ModelInfo, ModelOptions};
pub use open::BundleSource;
