//! A model directory, opened: its files, its configs, its architecture.

mod bundle;
mod embedded;
mod embedding;
mod encoder_decoder;
mod extensions;
mod files;
mod genai;
mod graphs;
mod languages;
mod multimodal;
mod start;
#[cfg(test)]
mod tests;

pub use bundle::{Bundle, Modalities};
pub(crate) use embedding::{Dense, EmbeddingConfig, EmbeddingKind, Step, TextLimits};
pub(crate) use files::BundleFiles;
pub use graphs::GraphFile;
pub(crate) use graphs::is_config;
pub use start::SpeechOptions;
pub(crate) use start::{DecoderStart, SourceLanguage, StartConfig};
