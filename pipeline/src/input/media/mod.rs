//! Decodes the encoded image and audio bytes of rows under limits.

pub(crate) mod audio;
mod cmyk;
pub(crate) mod damaged;
mod decoded;
pub(crate) mod encoded;
mod error;
mod format;
mod gif;
mod heif;
mod ico;
pub(crate) mod image;
mod jpeg;
mod kind;
pub(crate) mod locate;
mod number;
mod orientation;
mod tiff;
pub(crate) mod web;

pub(crate) use self::{decoded::DECODERS_VERSION, kind::MediaKind};
pub use self::{decoded::Decoded, error::MediaError};
