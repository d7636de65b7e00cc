//! Encoded media bytes, decoded under limits: what a row's image and sound cells become.

pub mod audio;
pub mod image;
pub mod locate;
pub mod web;

use crate::guard::GuardError;

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
    /// Returns the reject code: few, stable, never built from data.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "media_empty",
            Self::TooManyBytes { .. } => "media_too_large",
            Self::UnknownFormat { .. } => "media_unknown_format",
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
