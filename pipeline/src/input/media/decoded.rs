//! What decoding returns.

use legenda_schemas::flag::Flags;

/// The version of the decoders. Increase it when decoded pixels or samples change, so that earlier answers
/// are not reused.
pub(crate) const DECODERS_VERSION: u32 = 2;

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
