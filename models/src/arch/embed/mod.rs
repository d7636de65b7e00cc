//! Embedding models.

mod clap;
mod clip;
mod sentence;
mod siglip;

pub(super) use clap::CLAP;
pub(super) use clip::{CLIP, OTHER_DUAL};
pub(super) use sentence::SENTENCE;
pub(super) use siglip::SIGLIP;
