//! Opus (RFC 6716), decoded by `opus-pure` at 48,000 samples per second.

use opus_pure::{MAX_PACKET_SAMPLES, OpusMSDecoder};
use symphonia::core::{
    audio::{
        AsGenericAudioBufferRef, AudioBuffer, AudioMut, AudioSpec, Channels, GenericAudioBufferRef,
        Position,
    },
    codecs::{
        CodecInfo,
        audio::{
            AudioCodecParameters, AudioDecoder, AudioDecoderOptions, FinalizeResult,
            well_known::CODEC_ID_OPUS,
        },
        registry::{RegisterableAudioDecoder, SupportedAudioCodec},
    },
    errors::{Error, Result},
    packet::PacketRef,
};

use super::codec::trim;

const RATE_HZ: u32 = 48_000;

const CODECS: [SupportedAudioCodec; 1] = [SupportedAudioCodec {
    id: CODEC_ID_OPUS,
    info: CodecInfo { short_name: "opus", long_name: "Opus", profiles: &[] },
}];

/// The header of a stream (RFC 7845, section 5.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct OpusHead {
    n_channels: u8,
    /// The number of samples before the audio.
    pub(super) pre_skip: u16,
    /// The gain in 256ths of a decibel.
    gain: i16,
    family: u8,
}

impl OpusHead {
    /// Parses the header. In MP4, its version is 0 and its numbers are big-endian ("Encapsulation of Opus in
    /// ISO Base Media File Format", section 4.3.2).
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let head = bytes.strip_prefix(b"OpusHead")?.get(..11)?;
        let pair = |at: usize| match head[0] {
            0 => u16::from_be_bytes([head[at], head[at + 1]]),
            _ => u16::from_le_bytes([head[at], head[at + 1]]),
        };
        let (n_channels, family) = (head[1], head[10]);
        Some(Self { n_channels, pre_skip: pair(2), gain: pair(8).cast_signed(), family })
    }
}

/// Decodes packets.
pub(super) struct OpusDecoder {
    decoder: OpusMSDecoder,
    samples: Vec<f32>,
    n_channels: usize,
    gain: f32,
    parameters: AudioCodecParameters,
    is_gapless: bool,
    buffer: AudioBuffer<f32>,
}

impl OpusDecoder {
    fn decode_packet(&mut self, packet: &PacketRef<'_>) -> Result<()> {
        let n_frames = self
            .decoder
            .decode(packet.data, MAX_PACKET_SAMPLES, &mut self.samples)
            .map_err(|_| Error::DecodeError("opus: corrupt packet"))?;
        let decoded: Vec<f32> =
            self.samples[..n_frames * self.n_channels].iter().map(|s| s * self.gain).collect();
        self.buffer.grow_capacity(n_frames);
        self.buffer.render_uninit(Some(n_frames));
        self.buffer.copy_from_slice_interleaved::<f32, _>(&decoded);
        if self.is_gapless {
            trim(&mut self.buffer, packet);
        }
        Ok(())
    }
}

impl AudioDecoder for OpusDecoder {
    fn reset(&mut self) {
        // Resetting an existing decoder cannot fail.
        self.decoder.reset_state().unwrap_or_default();
    }

    fn codec_info(&self) -> &CodecInfo {
        &CODECS[0].info
    }

    fn codec_params(&self) -> &AudioCodecParameters {
        &self.parameters
    }

    fn decode_ref(&mut self, packet: &PacketRef<'_>) -> Result<GenericAudioBufferRef<'_>> {
        self.buffer.clear();
        self.decode_packet(packet)?;
        Ok(self.buffer.as_generic_audio_buffer_ref())
    }

    fn finalize(&mut self) -> FinalizeResult {
        FinalizeResult::default()
    }

    fn last_decoded(&self) -> GenericAudioBufferRef<'_> {
        self.buffer.as_generic_audio_buffer_ref()
    }
}

impl RegisterableAudioDecoder for OpusDecoder {
    fn try_registry_new(
        parameters: &AudioCodecParameters,
        options: &AudioDecoderOptions,
    ) -> Result<Box<dyn AudioDecoder>> {
        let head = parameters.extra_data.as_deref().and_then(OpusHead::read);
        let head = head.ok_or(Error::DecodeError("opus: no header"))?;
        let n_channels = usize::from(head.n_channels);
        let unsupported = || Error::Unsupported("opus: channel layout");
        let decoder = OpusMSDecoder::new(RATE_HZ.cast_signed(), n_channels, head.family)
            .map_err(|_| unsupported())?;
        let position = Position::from_count(u32::from(head.n_channels)).ok_or_else(unsupported)?;
        let spec = AudioSpec::new(RATE_HZ, Channels::Positioned(position));
        Ok(Box::new(Self {
            decoder,
            samples: vec![0.0; MAX_PACKET_SAMPLES * n_channels],
            n_channels,
            gain: 10_f32.powf(f32::from(head.gain) / (20.0 * 256.0)),
            parameters: parameters.clone(),
            is_gapless: options.gapless,
            buffer: AudioBuffer::new(spec, MAX_PACKET_SAMPLES),
        }))
    }

    fn supported_codecs() -> &'static [SupportedAudioCodec] {
        &CODECS
    }
}
