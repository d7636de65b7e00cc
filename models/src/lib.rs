//! Loads a model bundle from disk and runs it on samples.
//!
//! ```text
//! Bundle ──► Processor ──► Encoder ──► Engine
//!  files      Record        Sample      Prompt
//!             → Sample      → Prompt    → Generation
//! ```
//!
//! - `arch`: the supported architectures, one file each.
//! - [`bundle`]: opens a directory or the embedded bundle and finds its architecture.
//! - [`hub`]: downloads bundles from the Hugging Face Hub to the user's Hub cache.
//! - [`processor`]: preprocesses text, images and audio as the bundle's processor configs specify.
//! - [`template`]: chat templates with bounded time and memory.
//! - [`onnx`]: the only module that uses ONNX Runtime: loading it, sessions, in-place KV caches.
//! - [`family`]: the wiring of a bundle's graphs.
//! - [`engine`]: slots, sampling, stop rules; independent of the architecture.
//! - [`model`]: combines processor, encoder and engine; the latter two run on one thread each.
//! - [`embedder`]: the same for embedding models, which have no engine.
//! - [`tensors`]: shape-checked host tensors.
//!
//! This crate does not read Parquet, does not know jobs, does not print and, except for
//! [`RuntimeOptions::from_env`](onnx::RuntimeOptions::from_env) and
//! [`HubOptions::from_env`](hub::HubOptions::from_env), does not read the environment.

mod arch;
pub mod bundle;
pub mod embedder;
pub mod engine;
#[cfg(any(test, feature = "test-support"))]
pub mod fake;
pub mod family;
pub mod hub;
pub mod model;
pub mod onnx;
pub mod processor;
pub mod template;
pub mod tensors;

pub use bundle::{Bundle, BundleError, BundleSource, GraphFile, Modalities, SpeechOptions};
pub use embedder::{Embedder, EmbedderInfo, Embedding, EmbeddingInput, Loaded};
pub use engine::{
    DecodeError, Engine, EngineOptions, FinishReason, Finished, GenerateError, Generation, Prompt,
    Sampling, Trial,
};
pub use family::{EncodeError, Encoder};
pub use hub::{Hub, HubDataset, HubError, HubOptions, HubRepo};
pub use model::{Model, ModelError, ModelInfo, ModelOptions};
pub use onnx::{Gpus, Runtime, RuntimeError, RuntimeOptions};
pub use processor::{
    ENCODING_BYTES, Hearing, ProcessError, Processor, Record, RgbImage, Role, Sample, Turn,
    Waveform,
};
