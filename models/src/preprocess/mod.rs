//! Preprocessing: turns a record into model inputs, exactly as the bundle's processor configs
//! specify.

mod audio;
mod error;
mod image;
mod processor;
mod record;
mod text;

pub use audio::{FrameFeatures, FrameMel, LogMel, RawSamples, RepeatedMel, SequentialAudio};
pub(crate) use audio::{SequentialRules, chunked};
pub use error::ProcessError;
pub use image::{Backend, Filter, ImageProcessor, resize};
pub use processor::{Processor, Work};
pub use record::{CropGrid, ImageLayout, Record, RgbImage, Role, Sample, Turn, Waveform};
pub use text::ENCODING_BYTES;
pub(crate) use text::{SentenceProcessor, Tasks, TextProcessor, is_python_space, stripped};
