//! Decodes audio bytes to mono samples.

mod aac;
mod codec;
mod decode;
mod kind;
mod mixdown;
mod mp4;
mod mpeg;
mod opus;
mod wave;

pub use decode::decode_audio;

pub(super) use kind::is_known;
