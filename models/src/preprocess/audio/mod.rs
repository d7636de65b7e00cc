//! Audio to features, and audio longer than a clip.

pub(crate) mod chunked;
mod frames;
mod log_mel;
mod mel;
mod repeated_mel;
mod resample;
mod samples;
mod sequential;

pub use frames::{FrameFeatures, FrameMel};
pub use log_mel::LogMel;
pub use repeated_mel::RepeatedMel;
pub(super) use resample::samples_at;
pub use samples::RawSamples;
pub use sequential::SequentialAudio;
pub(crate) use sequential::SequentialRules;
