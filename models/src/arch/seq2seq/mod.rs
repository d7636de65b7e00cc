//! Encoder-decoders.

mod blip;
mod donut;
mod florence2;
mod image_captioner;
mod moonshine;
mod text;
mod whisper;

pub(super) use blip::BLIP;
pub(super) use donut::DONUT;
pub(super) use florence2::FLORENCE2;
pub(super) use image_captioner::IMAGE_CAPTIONER;
pub(super) use moonshine::MOONSHINE;
pub(super) use text::TEXT;
pub(super) use whisper::WHISPER;
