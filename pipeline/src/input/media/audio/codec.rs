//! The audio decoders.

use std::sync::LazyLock;

use symphonia::{
    core::{audio::AudioBuffer, codecs::registry::CodecRegistry, packet::PacketRef},
    default::register_enabled_codecs,
};

use super::{mpeg::MpegDecoder, opus::OpusDecoder};

/// Returns Symphonia's decoders, with replacements and additions.
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

/// Removes the samples at both ends of `buffer` that `packet` marks as padding.
pub(super) fn trim(buffer: &mut AudioBuffer<f32>, packet: &PacketRef<'_>) {
    let frames = |duration: u64| usize::try_from(duration).unwrap_or(usize::MAX);
    buffer.trim(frames(packet.trim_start.get()), frames(packet.trim_end.get()));
}
