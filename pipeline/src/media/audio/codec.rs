//! The decoders.

use std::sync::LazyLock;

use symphonia::{core::codecs::registry::CodecRegistry, default::register_enabled_codecs};

use super::{mpeg::MpegDecoder, opus::OpusDecoder};

/// Returns Symphonia's decoders, and those that are better or that it has not.
pub(super) fn codecs() -> &'static CodecRegistry {
    static CODECS: LazyLock<CodecRegistry> = LazyLock::new(|| {
        let mut codecs = CodecRegistry::new();
        register_enabled_codecs(&mut codecs);
        codecs.register_audio_decoder::<MpegDecoder>();
        codecs.register_audio_decoder::<OpusDecoder>();
        codecs
    });
    &CODECS
}
