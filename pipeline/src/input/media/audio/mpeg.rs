//! MPEG audio layers 1 to 3, decoded by `nanomp3-core`, a Rust port of minimp3.
//!
//! Symphonia's own decoder rejects stereo whose channels have different block types (its issue #556), and
//! decodes the conformance stream `l3-si_block` at 240 times full scale.

use nanomp3_core::{DecodeError, Decoder, MAX_SAMPLES_PER_FRAME};
use symphonia::core::{
    audio::{
        AsGenericAudioBufferRef, AudioBuffer, AudioMut, AudioSpec, Channels, GenericAudioBufferRef,
        Position,
    },
    codecs::{
        CodecInfo,
        audio::{
            AudioCodecParameters, AudioDecoder, AudioDecoderOptions, FinalizeResult,
            well_known::{CODEC_ID_MP1, CODEC_ID_MP2, CODEC_ID_MP3},
        },
        registry::{RegisterableAudioDecoder, SupportedAudioCodec},
    },
    errors::{Error, Result},
    packet::PacketRef,
};

use super::codec::trim;

const CODECS: [SupportedAudioCodec; 3] = [
    SupportedAudioCodec {
        id: CODEC_ID_MP1,
        info: CodecInfo { short_name: "mp1", long_name: "MPEG Audio Layer 1", profiles: &[] },
    },
    SupportedAudioCodec {
        id: CODEC_ID_MP2,
        info: CodecInfo { short_name: "mp2", long_name: "MPEG Audio Layer 2", profiles: &[] },
    },
    SupportedAudioCodec {
        id: CODEC_ID_MP3,
        info: CodecInfo { short_name: "mp3", long_name: "MPEG Audio Layer 3", profiles: &[] },
    },
];

/// Decodes frames.
pub(super) struct MpegDecoder {
    decoder: Box<Decoder>,
    samples: Vec<f32>,
    parameters: AudioCodecParameters,
    is_gapless: bool,
    buffer: AudioBuffer<f32>,
}

impl MpegDecoder {
    fn decode_frame(&mut self, packet: &PacketRef<'_>) -> Result<()> {
        let (_, decoded) = self.decoder.decode(packet.data, &mut self.samples);
        let (info, is_silent) = match decoded {
            Ok(info) => (info, false),
            // A stream cut from another begins with a frame that needs the previous one.
            Err(DecodeError::ReservoirUnavailable(info)) => (info, true),
            Err(DecodeError::NoFrame) => return Err(Error::DecodeError("mpeg: incomplete frame")),
            Err(_) => return Err(Error::DecodeError("mpeg: corrupt frame")),
        };
        let n_channels = usize::from(info.channels.num());
        let n_frames = match is_silent {
            // A skipped frame does not report its length.
            true => usize::try_from(packet.block_dur().get()).unwrap_or(0),
            false => info.samples_produced,
        };
        let position = match n_channels {
            1 => Position::FRONT_LEFT,
            _ => Position::FRONT_LEFT | Position::FRONT_RIGHT,
        };
        let n_samples = (n_frames * n_channels).min(MAX_SAMPLES_PER_FRAME);
        if is_silent {
            self.samples[..n_samples].fill(0.0);
        }
        let spec = AudioSpec::new(info.sample_rate, Channels::Positioned(position));
        self.buffer = AudioBuffer::new(spec, n_samples / n_channels);
        self.buffer.render_uninit(None);
        self.buffer.copy_from_slice_interleaved::<f32, _>(&&self.samples[..n_samples]);
        if self.is_gapless {
            trim(&mut self.buffer, packet);
        }
        Ok(())
    }
}

impl AudioDecoder for MpegDecoder {
    fn reset(&mut self) {
        *self.decoder = Decoder::new();
    }

    fn codec_info(&self) -> &CodecInfo {
        let own = CODECS.iter().find(|codec| codec.id == self.parameters.codec);
        &own.unwrap_or(&CODECS[2]).info
    }

    fn codec_params(&self) -> &AudioCodecParameters {
        &self.parameters
    }

    fn decode_ref(&mut self, packet: &PacketRef<'_>) -> Result<GenericAudioBufferRef<'_>> {
        self.buffer.clear();
        self.decode_frame(packet)?;
        Ok(self.buffer.as_generic_audio_buffer_ref())
    }

    fn finalize(&mut self) -> FinalizeResult {
        FinalizeResult::default()
    }

    fn last_decoded(&self) -> GenericAudioBufferRef<'_> {
        self.buffer.as_generic_audio_buffer_ref()
    }
}

impl RegisterableAudioDecoder for MpegDecoder {
    fn try_registry_new(
        parameters: &AudioCodecParameters,
        options: &AudioDecoderOptions,
    ) -> Result<Box<dyn AudioDecoder>> {
        Ok(Box::new(Self {
            decoder: Box::new(Decoder::new()),
            samples: vec![0.0; MAX_SAMPLES_PER_FRAME],
            parameters: parameters.clone(),
            is_gapless: options.gapless,
            buffer: AudioBuffer::default(),
        }))
    }

    fn supported_codecs() -> &'static [SupportedAudioCodec] {
        &CODECS
    }
}
