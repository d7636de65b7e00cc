//! The errors of media bytes.

use super::encoded::EncodedError;
use crate::base::guard::GuardError;

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
pub(in crate::input::media) fn shown_start(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(8)];
    if start.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
        format!("\"{}\"", String::from_utf8_lossy(start))
    } else {
        start.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
    }
}
