//! Loads a model bundle from disk and runs it on samples.
//!
//! ```text
//! Bundle ──► Processor ──► Encoder ──► Engine
//!  files      Record        Sample      Prompt
//!             → Sample      → Prompt    → Generation
//! ```
//!
//! From bottom to top; a module uses only those above it in this list (`tests/tests/tidy/`):
//!
//! - [`tensors`]: shape-checked host tensors.
//! - `kept`: small results that are kept between starts.
//! - `graph`: ONNX files, read without a runtime.
//! - [`grammar`]: answers of a declared form over the tokens of a vocabulary.
//! - [`engine`]: slots, sampling, stop rules; knows no architecture.
//! - [`template`]: templates whose rendering is bounded in time and memory.
//! - [`hub`]: fetches files of the Hugging Face Hub into the user's cache of it.
//! - [`config`]: the published config files as values.
//! - `arch`: the supported architectures, one file each.
//! - [`bundle`]: a directory or the embedded bundle: its files, its configs, its architecture.
//! - [`preprocess`]: text, images and audio as the bundle's processor configs say.
//! - `postprocess`: generated ids turned into answers.
//! - [`runtime`]: the only place that knows ONNX Runtime: finding it, sessions, in-place caches.
//! - [`exec`]: how the graphs of a bundle are run.
//! - [`load`]: opens a bundle wherever it is, and puts the parts of a model together.
//!
//! This crate does not read Parquet, does not know jobs, does not print and, except for
//! [`RuntimeOptions::from_env`](runtime::RuntimeOptions::from_env),
//! [`HubOptions::from_env`](hub::HubOptions::from_env) and the cache folder in
//! [`Bundle::open_with`](bundle::Bundle::open_with), does not read the environment.

mod arch;
pub mod bundle;
pub mod config;
pub mod engine;
pub mod exec;
#[cfg(any(test, feature = "test-support"))]
pub mod fake;
pub mod grammar;
mod graph;
pub mod hub;
mod kept;
pub mod load;
mod postprocess;
pub mod preprocess;
pub mod runtime;
pub mod template;
pub mod tensors;

pub use bundle::{Bundle, GraphFile, Modalities, SpeechOptions};
pub use config::BundleError;
pub use engine::{
    DecodeError, Embedding, EmbeddingInput, Engine, EngineOptions, FinishReason, Finished,
    GenerateError, Generation, Prompt, Sampling, Trial,
};
pub use exec::{EncodeError, Encoder, ModelError, rewritings};
pub use hub::{Hub, HubDataset, HubError, HubOptions, HubRepo, KNOWN_MODELS, KnownModel};
pub use load::{BundleSource, Embedder, EmbedderInfo, Loaded, Model, ModelInfo, ModelOptions};
pub use preprocess::{
    ENCODING_BYTES, ProcessError, Processor, Record, RgbImage, Role, Sample, SequentialAudio, Turn,
    Waveform, Work,
};
pub use runtime::{Gpus, Runtime, RuntimeError, RuntimeOptions};
