//! A record turned into what the model reads, exactly as the bundle's processor configs say.

mod audio;
mod center_crop;
mod crops;
mod error;
mod frames;
#[cfg(test)]
mod geometry;
mod hearing;
mod image;
pub(crate) mod long_form;
mod mel;
mod page;
mod patches;
mod placeholder;
mod processor;
mod record;
mod repeated_mel;
mod resample;
mod resize;
mod samples;
mod sentence;
mod tasks;
mod text;
mod tiles;
mod tokenizer;

pub use audio::LogMel;
pub use error::ProcessError;
pub use frames::{FrameFeatures, FrameMel};
pub use hearing::Hearing;
pub(crate) use hearing::HearingRules;
pub use image::ImageProcessor;
pub use processor::Processor;
pub use record::{CropGrid, ImageLayout, Record, RgbImage, Role, Sample, Turn, Waveform};
pub use repeated_mel::RepeatedMel;
pub use resize::{Backend, Filter, resize};
pub use samples::RawSamples;
pub(crate) use sentence::{SentenceProcessor, is_python_space, stripped};
pub(crate) use tasks::Tasks;
pub(crate) use text::TextProcessor;
pub use tokenizer::ENCODING_BYTES;
