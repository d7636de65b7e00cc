//! The published config files as values, and what is wrong with them.
//!
//! Which of them a bundle has, and what an architecture makes of them, is the business of `bundle`.

mod audio;
mod classes;
mod defaults;
mod encoder;
mod error;
mod generation;
mod media;
mod model;
mod origin;
mod tasks;

pub use audio::{
    FeatureExtractorConfig, RepeatedMelConfig, SamplesConfig, SoundLength, StackedFramesConfig,
    UsmExtractorConfig,
};
pub(crate) use audio::{SAMPLES_SECONDS_MAX, SoundConfig};
pub(crate) use classes::{AudioFeatures, IMAGE_CLASSES, ImageClass, ImageLayoutKind, operations};
pub(crate) use encoder::EncoderConfig;
pub use error::BundleError;
pub(crate) use generation::{EarlyStoppingConfig, GenerationConfig};
pub(crate) use media::MediaConfig;
pub(crate) use model::{Adapters, ModelConfig, ProcessorConfig, TextConfig, TokenIds};
pub use model::{ImageProcessorConfig, ImageSize};
pub(crate) use origin::ConfigOrigin;
pub(crate) use tasks::{TaskAnswer, TaskConfig};
