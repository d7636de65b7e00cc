//! A model bundle on disk, turned into an engine that answers samples.
//!
//! ```text
//! Bundle ──► Processor ──► Encoder ──► Engine
//!  files      Record        Sample      Prompt
//!             → Sample      → Prompt    → Generation
//! ```
//!
//! - `arch`: the supported architectures, one file each.
//! - [`bundle`]: opens a directory or the embedded bundle, recognises its architecture.
//! - [`hub`]: fetches bundles of the Hugging Face Hub into the user's cache of it.
//! - [`processor`]: text, images and audio as the bundle's processor configs say.
//! - [`template`]: templates whose rendering is bounded in time and memory.
//! - [`onnx`]: the only place that knows ONNX Runtime: finding it, sessions, in-place caches.
//! - [`family`]: how the graphs of a bundle are wired.
//! - [`engine`]: slots, sampling, stop rules; knows no architecture.
//! - [`model`]: puts them together, one thread each for the encoder and the engine.
//! - [`embedder`]: the same for models that make embeddings, which have no engine.
//! - [`tensors`]: shape-checked host tensors.
//!
//! Nothing here reads Parquet, knows of jobs, prints, or (but for
//! [`RuntimeOptions::from_env`](onnx::RuntimeOptions::from_env) and
//! [`HubOptions::from_env`](hub::HubOptions::from_env)) reads the environment.

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
