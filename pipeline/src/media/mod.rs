//! Encoded media bytes, decoded under limits: what a row's image and sound cells become.

pub mod audio;
mod cmyk;
pub mod damaged;
pub mod encoded;
mod format;
mod gif;
mod heif;
mod ico;
pub mod image;
mod jpeg;
pub mod locate;
mod number;
mod orientation;
mod tiff;
pub mod web;

use legenda_schemas::{flag::Flags, job::SourceFormat};

use self::encoded::EncodedError;
use crate::{
    guard::GuardError,
    source::names::{format_of, is_image},
    store::key_of,
};

/// The version of the decoders. It is raised when pixels or samples of a file change, so that answers to
/// those of before are not reused.
pub(crate) const DECODERS_VERSION: u32 = 2;

/// What media are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// A picture.
    Image,
    /// A sound.
    Audio,
}

impl MediaKind {
    /// Returns what bytes begin like.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        if image::is_known(bytes) {
            return Some(Self::Image);
        }
        audio::is_known(bytes).then_some(Self::Audio)
    }

    /// Returns what the extension of a name says.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let name = key_of(name);
        if format_of(&name) != Some(SourceFormat::Media) {
            return None;
        }
        Some(if is_image(&name) { Self::Image } else { Self::Audio })
    }

    /// Returns the name used in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Audio => "audio",
        }
    }
}

/// A decoded image or audio, and what was noticed about it.
#[derive(Clone, Debug)]
pub struct Decoded<T> {
    /// The pixels or samples.
    pub media: T,
    /// Flags of the row that it belongs to.
    pub flags: Flags,
}

impl<T> From<T> for Decoded<T> {
    /// Nothing was noticed.
    fn from(media: T) -> Self {
        Self { media, flags: Flags::new() }
    }
}

/// Why media bytes cannot be used; the row is rejected.
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
    #[error("the {kind} has {bytes} bytes; `limits.media_bytes` allows {bytes_max}")]
    TooManyBytes {
        /// `image` or `audio`.
        kind: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The bytes begin like no format that is read.
    #[error(
        "the {kind} is of no known format (its {bytes} bytes begin with {start}); known are {known}"
    )]
    UnknownFormat {
        /// `image` or `audio`.
        kind: &'static str,
        /// How many bytes there are.
        bytes: usize,
        /// The first bytes, for a person.
        start: String,
        /// The formats that are read.
        known: &'static str,
    },
    /// The format or codec is known by name, but cannot be decoded.
    #[error("{format} is not supported; supported formats of the {kind} column: {known}")]
    Unsupported {
        /// `image` or `audio`.
        kind: &'static str,
        /// The format, codec or variant, such as `AVIF` or `WAV with ADPCM`.
        format: String,
        /// The formats that are read.
        known: &'static str,
    },
    /// The bytes are damaged.
    #[error("the {kind} ({format}) is damaged: {problem}")]
    Damaged {
        /// `image` or `audio`.
        kind: &'static str,
        /// The format the bytes claim.
        format: String,
        /// What the decoder says.
        problem: String,
    },
    /// The image has more pixels than allowed.
    #[error("the image has {width} x {height} pixels; `limits.image_pixels` allows {pixels_max}")]
    TooManyPixels {
        /// Pixels per row.
        width: u32,
        /// Rows of pixels.
        height: u32,
        /// The limit.
        pixels_max: u64,
    },
    /// Decoding would need more memory than the run may ever use for it.
    #[error(
        "the {kind} needs {bytes} bytes of memory when decoded; `limits.memory` leaves {bytes_max} for decoding: raise it"
    )]
    TooMuchMemory {
        /// `image` or `audio`.
        kind: &'static str,
        /// What it needs.
        bytes: u64,
        /// What there is.
        bytes_max: u64,
    },
    /// The decoder panicked, or did not end.
    #[error("the {kind} cannot be decoded: {source}")]
    Decoder {
        /// `image` or `audio`.
        kind: &'static str,
        /// What became of it.
        source: GuardError,
    },
    /// The sound lasts longer than allowed.
    #[error("the sound lasts more than {seconds_max} s, which `limits.audio_seconds` allows")]
    TooLong {
        /// The limit.
        seconds_max: f64,
    },
}

impl MediaError {
    /// Says of bytes that they begin like nothing that is read.
    pub(crate) fn unknown(kind: &'static str, bytes: &[u8]) -> Self {
        let known = "the formats of pictures and sounds";
        Self::UnknownFormat { kind, bytes: bytes.len(), start: shown_start(bytes), known }
    }

    /// Says of a text that it is not what it begins like.
    pub(crate) fn undecoded(kind: &'static str, error: &EncodedError) -> Self {
        Self::Damaged { kind, format: "text".to_owned(), problem: error.to_string() }
    }

    /// Returns the reject code: few, stable, never built from data.
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

/// Shows the first bytes of a cell for a message: as text where they are text, else as hex.
fn shown_start(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(8)];
    if start.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        format!("\"{}\"", String::from_utf8_lossy(start))
    } else {
        start.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
    }
}
