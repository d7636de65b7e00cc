//! The published classes that configs name: what they compute, and what they leave out.

mod audio;
mod image;
pub(crate) mod operations;
mod text;

pub(crate) use audio::AudioFeatures;
pub(crate) use image::{IMAGE_CLASSES, ImageClass, ImageLayoutKind};
pub(crate) use text::with_text_defaults;
