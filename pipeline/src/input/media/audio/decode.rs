//! Decodes encoded audio to samples.
//!
//! The reference is ffmpeg: the same samples are decoded from a file. Encoder padding before and after the
//! audio is removed if the file declares it: edit lists of MP4, to the sample (like ffmpeg 9), `iTunSMPB` if
//! there is none, the LAME tag of MP3, `OpusHead`, and the last granule of Ogg. AAC without a container
//! (ADTS) or in Matroska does not declare it, and begins with the encoder's delay. Samples beyond full scale,
//! which float and lossy codecs may contain, are not clipped, like in soundfile and librosa.

use std::{
    io::{self, Cursor, Read},
    ops::Range,
    sync::Arc,
};

use legenda_models::Waveform;
use legenda_schemas::flag::Flag;
use symphonia::core::{
    codecs::audio::{
        AudioCodecParameters, AudioDecoder, AudioDecoderOptions,
        well_known::{CODEC_ID_AAC, CODEC_ID_FLAC, CODEC_ID_OPUS, CODEC_ID_VORBIS},
    },
    errors::Error as SymphoniaError,
    formats::{FormatOptions, FormatReader, TrackType, probe::Hint},
    io::{MediaSource, MediaSourceStream, ReadOnlySource},
    meta::MetadataOptions,
};

use super::{
    aac::{HE_AAC, SbrSearch},
    codec::codecs,
    kind::{KNOWN, aiff_codec, boxed_codec, codec_name, read_format, unread_format},
    mixdown::{Bounds, CHANNELS_MAX, Mixdown, SAMPLE_RATES_HZ},
    mp4::{self, EditList},
    opus::OpusHead,
    wave::{Wave, WaveError},
};
use crate::input::media::{Decoded, MediaError, error::shown_start};

/// A problem of audio, before its format is named.
#[derive(Debug)]
pub(super) enum Problem {
    Damaged(String),
    Unsupported(String),
    TooLong,
    TooMuchMemory { bytes: u64 },
}

impl From<SymphoniaError> for Problem {
    fn from(error: SymphoniaError) -> Self {
        match error {
            SymphoniaError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Damaged("unexpected end of data".to_owned())
            }
            error => Self::Damaged(error.to_string()),
        }
    }
}

/// Decodes the encoded audio `bytes` and averages its channels.
///
/// The sample rate stays that of the file, or of its first part (Ogg and FLAC may change theirs); the model's
/// processor resamples.
///
/// Two flags are possible:
///
/// - `channels_cancel`: the average of the channels has less than a ten-thousandth (-40 dB) of their power,
///   and they are not silent. Then nothing but noise is left of the audible content.
/// - `media_damaged`: the file ends before the number of bytes that its header claims (WAV; other formats
///   are rejected then). Placeholder sizes of streaming writers do not count.
///
/// # Errors
///
/// [`MediaError`] if the format is unknown or not supported, if the audio is damaged anywhere, has no samples
/// or an impossible sample rate or number of channels, or if it is longer than `seconds_max` or needs more
/// than `bytes_max` of memory (decoding stops there).
pub fn decode_audio(
    bytes: Arc<[u8]>,
    seconds_max: f64,
    bytes_max: u64,
) -> Result<Decoded<Waveform>, MediaError> {
    if bytes.is_empty() {
        return Err(MediaError::Empty { kind: "audio" });
    }
    let named = |name: &str, problem: Problem| match problem {
        Problem::Damaged(problem) => {
            MediaError::Damaged { kind: "audio", format: name.to_owned(), problem }
        }
        Problem::Unsupported(format) => {
            MediaError::Unsupported { kind: "audio", format, known: KNOWN }
        }
        Problem::TooLong => MediaError::TooLong { seconds_max },
        Problem::TooMuchMemory { bytes } => {
            MediaError::TooMuchMemory { kind: "audio", bytes, bytes_max }
        }
    };
    if let Some(format) = unread_format(&bytes) {
        return Err(named(format, Problem::Unsupported(format.to_owned())));
    }
    let claimed = read_format(&bytes);
    let wave = match Wave::find(&bytes).transpose() {
        Ok(wave) => wave,
        Err(WaveError::Damaged(problem)) => {
            return Err(named("wave", Problem::Damaged(problem.to_owned())));
        }
        Err(WaveError::Unsupported(format)) => {
            return Err(named("wave", Problem::Unsupported(format)));
        }
    };
    let ends_early = wave.as_ref().is_some_and(|wave| wave.ends_early);
    let stream = MediaSourceStream::new(source(&bytes, wave), Default::default());
    let probed = symphonia::default::get_probe().probe(
        &Hint::new(),
        stream,
        FormatOptions::default(),
        MetadataOptions::default(),
    );
    let format = probed.map_err(|error| match (claimed, error) {
        (Some(format), error) => {
            let is_unsupported = matches!(error, SymphoniaError::Unsupported(_));
            let codec = aiff_codec(&bytes).filter(|_| is_unsupported && format == "aiff");
            named(format, codec.map_or_else(|| error.into(), Problem::Unsupported))
        }
        (None, SymphoniaError::Unsupported(_) | SymphoniaError::IoError(_)) => {
            let (bytes, start) = (bytes.len(), shown_start(&bytes));
            MediaError::UnknownFormat { kind: "audio", bytes, start, known: KNOWN }
        }
        (None, error) => named("unknown", error.into()),
    })?;
    let name = format.format_info().short_name.to_owned();
    let bounds = Bounds { seconds_max, bytes_max };
    let (media, channels_cancel) =
        decode_track(format, &bytes, bounds).map_err(|problem| named(&name, problem))?;
    let flags = [(Flag::ChannelsCancel, channels_cancel), (Flag::MediaDamaged, ends_early)];
    let flags = flags.into_iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| flag).collect();
    Ok(Decoded { media, flags })
}

/// A range of shared bytes.
struct Part {
    bytes: Arc<[u8]>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

/// Returns the input of the demuxer.
fn source(bytes: &Arc<[u8]>, wave: Option<Wave>) -> Box<dyn MediaSource> {
    let bytes = Arc::clone(bytes);
    match wave {
        None => Box::new(Cursor::new(bytes)),
        Some(Wave { header, data, .. }) => {
            let data = Cursor::new(Part { bytes, range: data });
            if header.is_empty() {
                return Box::new(data);
            }
            Box::new(ReadOnlySource::new(Cursor::new(header).chain(data)))
        }
    }
}

/// A track being decoded.
struct Playing {
    id: u32,
    decoder: Box<dyn AudioDecoder>,
    /// Padding samples per channel before the audio that the demuxer does not remove.
    n_skipped: usize,
    sbr: Option<SbrSearch>,
}

impl Playing {
    /// Starts with the audio track of a file.
    fn begin(format: &dyn FormatReader, bytes: &[u8]) -> Result<Self, Problem> {
        let is_boxed = format.format_info().short_name == "isomp4";
        let damaged = |problem: &str| Problem::Damaged(problem.to_owned());
        let container = || container_name(format.format_info().short_name);
        let unknown_codec = || match boxed_codec(bytes).filter(|_| is_boxed) {
            Some(codec) => Problem::Unsupported(format!("{} with {codec}", container())),
            None => damaged("the file has no audio track"),
        };
        let track = format.default_track(TrackType::Audio).ok_or_else(unknown_codec)?;
        let parameters = track
            .codec_params
            .as_ref()
            .and_then(|parameters| parameters.audio())
            .ok_or_else(|| damaged("the audio track has no codec"))?;
        let n_channels = parameters.channels.as_ref().map_or(0, |channels| channels.count());
        if n_channels > CHANNELS_MAX {
            let problem = format!("{n_channels} channels exceed the maximum of {CHANNELS_MAX}");
            return Err(Problem::Damaged(problem));
        }
        let claimed_rate = parameters.sample_rate.unwrap_or(*SAMPLE_RATES_HZ.start());
        if !SAMPLE_RATES_HZ.contains(&claimed_rate) {
            return Err(Problem::Damaged(format!("invalid sample rate of {claimed_rate} Hz")));
        }
        if let Some(codec) = wrongly_decoded(parameters) {
            return Err(Problem::Unsupported(codec));
        }
        let mut parameters = parameters.clone();
        if is_boxed {
            parameters.codec = mp4::pcm_codec(bytes, parameters.codec);
        }
        let parameters = &parameters;
        let unsupported =
            || Problem::Unsupported(format!("{} with {}", container(), codec_name(parameters)));
        let options = AudioDecoderOptions::default();
        let decoder =
            codecs().make_audio_decoder(parameters, &options).map_err(|error| match error {
                SymphoniaError::Unsupported(_) => unsupported(),
                error => error.into(),
            })?;
        let opus_head = (parameters.codec == CODEC_ID_OPUS && !is_boxed)
            .then(|| OpusHead::read(parameters.extra_data.as_deref()?))
            .flatten();
        let n_skipped = opus_head.map_or(0, |head| usize::from(head.pre_skip));
        let sbr = (parameters.codec == CODEC_ID_AAC).then(SbrSearch::default);
        Ok(Self { id: track.id, decoder, n_skipped, sbr })
    }
}

/// Returns the name of a codec that Symphonia 0.6.1 decodes to other samples than the codec's own library:
/// the channel difference of 32-bit FLAC has 33 bits, of which it keeps 32; and Vorbis with more than two
/// channels is partly wrong.
fn wrongly_decoded(parameters: &AudioCodecParameters) -> Option<String> {
    let n_channels = parameters.channels.as_ref().map_or(0, |channels| channels.count());
    match parameters.codec {
        CODEC_ID_FLAC if parameters.bits_per_sample == Some(32) && n_channels == 2 => {
            Some("32-bit FLAC in stereo".to_owned())
        }
        CODEC_ID_VORBIS if n_channels > 2 => Some(format!("Vorbis with {n_channels} channels")),
        _ => None,
    }
}

/// Returns a container's name for a message.
fn container_name(short_name: &str) -> &str {
    match short_name {
        "isomp4" => "MP4",
        "ogg" => "Ogg",
        "matroska" | "webm" | "mkv" => "Matroska",
        "wave" => "WAV",
        "aiff" => "AIFF",
        "caf" => "CAF",
        "flac" => "a FLAC file",
        "aac" | "adts" => "ADTS",
        other => other,
    }
}

/// Decodes the audio track of a file; returns it, and whether its channels cancel.
fn decode_track(
    mut format: Box<dyn FormatReader>,
    bytes: &[u8],
    bounds: Bounds,
) -> Result<(Waveform, bool), Problem> {
    let mut playing = Playing::begin(format.as_ref(), bytes)?;
    let mut mixdown = Mixdown::new(bounds);
    let mut interleaved: Vec<f32> = Vec::new();
    // A packet has at least one byte: more packets come from a table that claims endless empty ones.
    for _ in 0..bytes.len() {
        let packet = match format.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            // Another Ogg stream begins.
            Err(SymphoniaError::ResetRequired) => {
                playing = Playing::begin(format.as_ref(), bytes)?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if packet.track_id != playing.id {
            continue;
        }
        if let Some(sbr) = &mut playing.sbr {
            sbr.look_at(&packet.data);
        }
        let decoded = playing.decoder.decode(&packet)?;
        let (n_channels, rate_hz) = (decoded.num_planes().max(1), decoded.spec().rate());
        decoded.copy_to_vec_interleaved(&mut interleaved);
        let n_skipped = playing.n_skipped.min(interleaved.len() / n_channels);
        playing.n_skipped -= n_skipped;
        mixdown.push(&interleaved[n_skipped * n_channels..], n_channels, rate_hz)?;
    }
    if playing.sbr.is_some_and(|sbr| sbr.has_found()) {
        return Err(Problem::Unsupported(HE_AAC.to_owned()));
    }
    if format.format_info().short_name == "isomp4"
        && let Some(rate_hz) = mixdown.sample_rate_hz()
        && let Some(edits) = EditList::read(bytes, playing.id, rate_hz)
    {
        mixdown.select(edits.ranges(mixdown.n_samples()))?;
    }
    let channels_cancel = mixdown.channels_cancel();
    Ok((mixdown.finish()?, channels_cancel))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A WAV file of 16-bit samples.
    fn wav(sample_rate_hz: u32, n_channels: u16, samples: &[i16]) -> Vec<u8> {
        let n_bytes = u32::try_from(samples.len() * 2).unwrap();
        let mut bytes = b"RIFF".to_vec();
        bytes.extend((36 + n_bytes).to_le_bytes());
        bytes.extend(b"WAVEfmt ");
        bytes.extend(16_u32.to_le_bytes());
        bytes.extend(1_u16.to_le_bytes());
        bytes.extend(n_channels.to_le_bytes());
        bytes.extend(sample_rate_hz.to_le_bytes());
        bytes.extend((sample_rate_hz * u32::from(n_channels) * 2).to_le_bytes());
        bytes.extend((n_channels * 2).to_le_bytes());
        bytes.extend(16_u16.to_le_bytes());
        bytes.extend(b"data");
        bytes.extend(n_bytes.to_le_bytes());
        bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
        bytes
    }

    fn decode(bytes: Vec<u8>) -> Result<Decoded<Waveform>, MediaError> {
        decode_audio(bytes.into(), 10.0, 1 << 20)
    }

    #[test]
    fn channels_are_averaged() {
        let audio = decode(wav(8000, 2, &[16384, 0, -16384, 16384])).unwrap();
        assert_eq!(audio.media.sample_rate_hz, 8000);
        assert_eq!(audio.media.samples, [0.25, 0.0]);
        assert!(audio.flags.is_empty());
    }

    #[test]
    fn cancelling_channels_are_detected() {
        let cancels = |frame: &dyn Fn(i16) -> Vec<i16>| {
            let n_channels = u16::try_from(frame(0).len()).unwrap();
            let samples: Vec<i16> = (0..4000).flat_map(frame).collect();
            decode(wav(8000, n_channels, &samples)).unwrap().flags.contains(&Flag::ChannelsCancel)
        };
        let tone = |i: i16| (i % 40 - 20) * 700;
        let other = |i: i16| (i % 31 - 15) * 700;
        assert!(cancels(&|i| vec![tone(i), -tone(i)]));
        assert!(cancels(&|i| vec![tone(i), -tone(i) + i % 3]), "except for the last bit");
        assert!(cancels(&|i| vec![tone(i), -tone(i), other(i), -other(i)]));
        assert!(!cancels(&|i| vec![tone(i), tone(i)]));
        assert!(!cancels(&|i| vec![tone(i), other(i)]));
        assert!(!cancels(&|i| vec![tone(i), 0]), "one channel alone");
        assert!(!cancels(&|i| vec![tone(i), -tone(i) / 2]), "half of it is left");
        assert!(!cancels(&|_| vec![0, 0]), "silence");
        assert!(!cancels(&|i| vec![i % 2, -(i % 2)]), "silence except for the last bit");
        assert!(!cancels(&|i| vec![tone(i)]));
    }

    #[test]
    fn invalid_bytes_have_specific_errors() {
        let code = |bytes: &[u8], seconds_max, bytes_max| {
            decode_audio(bytes.into(), seconds_max, bytes_max).unwrap_err().code()
        };
        let second = wav(8000, 1, &[1; 8000]);
        assert_eq!(code(b"", 10.0, 1 << 20), "media_empty");
        assert_eq!(code(b"this is no sound at all", 10.0, 1 << 20), "media_unknown_format");
        assert_eq!(code(&second[..30], 10.0, 1 << 20), "media_damaged");
        assert_eq!(code(&wav(8000, 1, &[]), 10.0, 1 << 20), "media_damaged");
        assert_eq!(code(&wav(900, 1, &[1; 900]), 10.0, 1 << 20), "media_damaged");
        assert_eq!(code(&wav(800_000, 1, &[1; 900]), 10.0, 1 << 20), "media_damaged");
        assert_eq!(code(&second, 0.5, 1 << 20), "audio_too_long");
        assert_eq!(code(&second, 10.0, 4000), "media_exceeds_memory");
    }

    #[test]
    fn formats_that_are_not_read_are_named() {
        let speex = [b"OggS".as_slice(), &[0; 22], &[1, 80], b"Speex   1.2", &[0; 60]].concat();
        let mut transport = vec![0_u8; 188 * 4];
        transport.iter_mut().step_by(188).for_each(|byte| *byte = 0x47);
        let cases: [(&[u8], &str); 14] = [
            (b"#!AMR\n\x3c\x91\x17\x16", "AMR"),
            (b"#!AMR-WB\n\x04\x10", "AMR-WB"),
            (b"MThd\0\0\0\x06\0\x01", "MIDI"),
            (b"RIFF\x10\0\0\0RMIDdata", "MIDI"),
            (b"RIFF\x10\0\0\0AVI LIST", "AVI"),
            (b"wvpk\x10\0\0\0\x10\x04", "WavPack"),
            (b"MAC \x96\x0f\0\0", "Monkey's Audio"),
            (b"\x0b\x77\x5d\x1a\x14\x40", "AC-3"),
            (b"DSD \x1c\0\0\0", "DSD (DSF)"),
            (b".snd\0\0\0\x18", "AU (Sun audio)"),
            (b"NIST_1A\n   1024\n", "NIST SPHERE"),
            (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c", "WMA (ASF)"),
            (&speex, "Speex in Ogg"),
            (&transport, "MPEG transport stream"),
        ];
        for (bytes, name) in cases {
            let error = decode(bytes.to_vec()).unwrap_err();
            assert_eq!(error.code(), "media_unsupported", "{name}");
            assert!(error.to_string().starts_with(&format!("{name} is not supported")), "{error}");
            assert!(super::super::is_known(bytes), "{name} is audio");
        }
    }

    #[test]
    fn a_chunk_that_is_not_decoded_is_named() {
        let mut gsm = wav(8000, 1, &[0; 400]);
        gsm[20] = 0x31;
        let error = decode(gsm).unwrap_err();
        assert_eq!(error.code(), "media_unsupported");
        assert!(error.to_string().contains("WAV with GSM 6.10"), "{error}");
    }

    /// A frame of MPEG-1 layer III in joint stereo without energy, whose channels have blocks of the types
    /// `blocks`.
    fn joint_stereo_frame(blocks: [u16; 2]) -> Vec<u8> {
        let mut bits: Vec<(u32, usize)> = vec![(0xfffb_9060, 32), (0, 9), (0, 3), (0, 8)];
        for block in [blocks, blocks].concat() {
            // Sizes and gain, then whether the block has another type than the long one.
            bits.extend([(0, 12), (0, 9), (210, 8), (0, 4), (u32::from(block > 0), 1)]);
            match block {
                0 => bits.extend([(0, 22)]),
                block => bits.extend([(u32::from(block), 2), (0, 1), (0, 10), (0, 9)]),
            }
            bits.extend([(0, 3)]);
        }
        let bits = bits.iter().flat_map(|(n, len)| (0..*len).rev().map(move |at| n >> at & 1 == 1));
        let bits: Vec<bool> = bits.collect();
        let byte = |bits: &[bool]| bits.iter().fold(0_u8, |all, bit| all << 1 | u8::from(*bit));
        let mut frame: Vec<u8> = bits.chunks(8).map(byte).collect();
        frame.resize(417, 0);
        frame
    }

    #[test]
    fn channels_of_mp3_may_have_blocks_of_different_types() {
        let bytes: Vec<u8> = (0..6).flat_map(|_| joint_stereo_frame([0, 2])).collect();
        let audio = decode(bytes).unwrap().media;
        assert_eq!((audio.sample_rate_hz, audio.samples.len()), (44_100, 6 * 1152));
    }
}
