//! Decodes the encoded image and audio bytes of rows under limits.

pub(crate) mod audio;
mod cmyk;
pub(crate) mod damaged;
pub(crate) mod encoded;
mod format;
mod gif;
mod heif;
mod ico;
pub(crate) mod image;
mod jpeg;
pub(crate) mod locate;
mod number;
mod orientation;
mod tiff;
pub(crate) mod web;

use legenda_schemas::{flag::Flags, job::SourceFormat};

use self::encoded::EncodedError;
use crate::{
    base::{guard::GuardError, store::key_of},
    input::source::names::{format_of, is_image},
};

/// The version of the decoders. Increase it when decoded pixels or samples change, so that earlier answers
/// are not reused.
pub(crate) const DECODERS_VERSION: u32 = 2;

/// The kind of media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MediaKind {
    /// An image.
    Image,
    /// Audio.
    Audio,
}

impl MediaKind {
    /// Detects the kind from the magic of `bytes`.
    #[must_use]
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if image::is_known(bytes) {
            return Some(Self::Image);
        }
        audio::is_known(bytes).then_some(Self::Audio)
    }

    /// Returns the kind of a file name's extension.
    #[must_use]
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let name = key_of(name);
        if format_of(&name) != Some(SourceFormat::Media) {
            return None;
        }
        Some(if is_image(&name) { Self::Image } else { Self::Audio })
    }

    /// Returns the name used in messages.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Audio => "audio",
        }
    }
}

/// A decoded image or audio with its flags.
#[derive(Clone, Debug)]
pub struct Decoded<T> {
    /// The pixels or samples.
    pub media: T,
    /// Flags for the row.
    pub flags: Flags,
}

impl<T> From<T> for Decoded<T> {
    /// Without flags.
    fn from(media: T) -> Self {
        Self { media, flags: Flags::new() }
    }
}

/// An error of media bytes; the row is rejected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// No bytes at all.
    #[error("the {kind} is empty (0 bytes)")]
    Empty {
        /// `image` or `audio`.
        kind: &'static str,
    },
    /// More encoded bytes than allowed.
    #[error("the {kind} has {bytes} bytes, but `limits.media_bytes` allows {bytes_max}")]
    TooManyBytes {
        /// `image` or `audio`.
        kind: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The format is unknown.
    #[error(
        "unknown {kind} format: the {bytes} bytes begin with {start}; supported formats: {known}"
    )]
    UnknownFormat {
        /// `image` or `audio`.
        kind: &'static str,
        /// The number of bytes.
        bytes: usize,
        /// The first bytes in readable form.
        start: String,
        /// The supported formats.
        known: &'static str,
    },
    /// The format or codec is known but not supported.
    #[error("{format} is not supported; supported formats of the {kind} column: {known}")]
    Unsupported {
        /// `image` or `audio`.
        kind: &'static str,
        /// The format, codec or variant, such as `AVIF` or `WAV with ADPCM`.
        format: String,
        /// The supported formats.
        known: &'static str,
    },
    /// The bytes are damaged.
    #[error("the {kind} ({format}) is damaged: {problem}")]
    Damaged {
        /// `image` or `audio`.
        kind: &'static str,
        /// The claimed format.
        format: String,
        /// The decoder's error.
        problem: String,
    },
    /// The image has more pixels than allowed.
    #[error(
        "the image has {width} x {height} pixels, but `limits.image_pixels` allows {pixels_max}"
    )]
    TooManyPixels {
        /// The width in pixels.
        width: u32,
        /// The height in pixels.
        height: u32,
        /// The limit.
        pixels_max: u64,
    },
    /// Decoding needs more memory than the run will ever have for it.
    #[error(
        "decoding the {kind} needs {bytes} bytes of memory, but `limits.memory` leaves {bytes_max}: raise it"
    )]
    TooMuchMemory {
        /// `image` or `audio`.
        kind: &'static str,
        /// The needed bytes.
        bytes: u64,
        /// The available bytes.
        bytes_max: u64,
    },
    /// The decoder panicked or timed out.
    #[error("failed to decode the {kind}")]
    Decoder {
        /// `image` or `audio`.
        kind: &'static str,
        /// The failure.
        source: GuardError,
    },
    /// The audio is too long.
    #[error("the audio is longer than {seconds_max} s, the limit of `limits.audio_seconds`")]
    TooLong {
        /// The limit.
        seconds_max: f64,
    },
}

impl MediaError {
    /// Returns the error for bytes of an unknown format.
    pub(crate) fn unknown(kind: &'static str, bytes: &[u8]) -> Self {
        let known = "images and audio";
        Self::UnknownFormat { kind, bytes: bytes.len(), start: shown_start(bytes), known }
    }

    /// Returns the error for text that cannot be decoded.
    pub(crate) fn undecoded(kind: &'static str, error: &EncodedError) -> Self {
        Self::Damaged { kind, format: "text".to_owned(), problem: error.to_string() }
    }

    /// Returns the reject code; codes are few and stable and never derived from data.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "media_empty",
            Self::TooManyBytes { .. } => "media_too_large",
            Self::UnknownFormat { .. } => "media_unknown_format",
            Self::Unsupported { .. } => "media_unsupported",
            Self::Damaged { .. } => "media_damaged",
            Self::TooManyPixels { .. } => "image_too_large",
            Self::TooMuchMemory { .. } => "media_exceeds_memory",
            Self::Decoder { source: GuardError::TooSlow { .. }, .. } => "decoder_too_slow",
            Self::Decoder { .. } => "decoder_panicked",
            Self::TooLong { .. } => "audio_too_long",
        }
    }
}

/// Formats the first bytes of a cell for a message: as text if they are text, else as hex.
fn shown_start(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(8)];
    if start.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        format!("\"{}\"", String::from_utf8_lossy(start))
    } else {
        start.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
    }
}
