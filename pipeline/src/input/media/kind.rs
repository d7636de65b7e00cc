//! Images and audio.

use legenda_schemas::job::SourceFormat;

use super::{audio, image};
use crate::{
    base::store::key_of,
    input::source::names::{format_of, is_image},
};

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
