//! Sound bytes to mono samples.

use std::{
    io::{self, Cursor},
    sync::Arc,
};

use legenda_models::Waveform;
use symphonia::core::{
    codecs::audio::AudioDecoderOptions,
    errors::Error as SymphoniaError,
    formats::{FormatOptions, TrackType, probe::Hint},
    io::MediaSourceStream,
    meta::MetadataOptions,
};

use super::{Decoded, MediaError, shown_start};

const KNOWN: &str = "WAV, AIFF, FLAC, MP3, Ogg Vorbis, MP4/M4A (AAC)";

/// How files of the formats begin, to tell a damaged file from one of another kind.
const MAGIC: [(&[u8], &str); 5] =
    [(b"RIFF", "wave"), (b"FORM", "aiff"), (b"fLaC", "flac"), (b"OggS", "ogg"), (b"ID3", "mp3")];

/// Samples per second that a sound may have: from below telephone to four times the most that
/// converters offer. A header may claim anything, and what resamples by it would take memory for it.
const SAMPLE_RATES_HZ: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// The most channels: third-order ambisonics in both halves of a studio's 32.
const CHANNELS_MAX: usize = 32;

/// The highest level of a sample: full scale is 1, and 2^31 where a file has integers as floats. The
/// sums of a transform over higher ones may not be finite, at which the resampler panics.
const LEVEL_MAX: f32 = 1e10;

/// Bytes of memory for a decoded sample: 32 bits, twice over, because a list that grows is copied.
const BYTES_PER_SAMPLE: u64 = 2 * size_of::<f32>() as u64;

/// Returns whether bytes begin like a sound: by their magic, as a box of MPEG-4 (ISO/IEC 14496-12), or with
/// the head of a frame of MP3 (ISO/IEC 11172-3: eleven bits set, layer III) or AAC (ISO/IEC 14496-3, ADTS).
pub(super) fn is_known(bytes: &[u8]) -> bool {
    let has_magic = MAGIC.iter().any(|(magic, _)| bytes.starts_with(magic));
    let is_frame = matches!(bytes, [0xff, second, ..]
        if second & 0xe6 == 0xe2 || second & 0xf6 == 0xf0);
    has_magic || is_frame || bytes.get(4..8) == Some(b"ftyp")
}

/// Decodes the encoded sound `bytes` and averages its channels.
///
/// The sample rate stays that of the file; the model's processor resamples.
///
/// # Errors
///
/// [`MediaError`] if the format is unknown, the sound is damaged anywhere, has no samples or a rate or
/// number of channels that no sound has, or lasts longer than `seconds_max` or takes more than
/// `bytes_max` in memory (decoding stops there).
pub fn decode_audio(
    bytes: Arc<[u8]>,
    seconds_max: f64,
    bytes_max: u64,
) -> Result<Decoded<Waveform>, MediaError> {
    if bytes.is_empty() {
        return Err(MediaError::Empty { kind: "audio" });
    }
    let n_bytes = bytes.len();
    let start = shown_start(&bytes);
    let claimed = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, name)| *name);
    let stream = MediaSourceStream::new(Box::new(Cursor::new(bytes)), Default::default());
    let mut format = symphonia::default::get_probe()
        .probe(&Hint::new(), stream, FormatOptions::default(), MetadataOptions::default())
        .map_err(|error| match (claimed, error) {
            (Some(format), error) => damaged(format, &error),
            (None, SymphoniaError::Unsupported(_) | SymphoniaError::IoError(_)) => {
                MediaError::UnknownFormat { kind: "audio", bytes: n_bytes, start, known: KNOWN }
            }
            (None, error) => damaged("unknown", &error),
        })?;
    let name = format.format_info().short_name.to_owned();
    let no_track = |problem: &str| MediaError::Damaged {
        kind: "audio",
        format: name.clone(),
        problem: problem.to_owned(),
    };
    let track =
        format.default_track(TrackType::Audio).ok_or_else(|| no_track("it has no sound track"))?;
    let track_id = track.id;
    let parameters = track
        .codec_params
        .as_ref()
        .and_then(|parameters| parameters.audio())
        .ok_or_else(|| no_track("its sound track names no codec"))?;
    let n_channels = parameters.channels.as_ref().map_or(0, |channels| channels.count());
    if n_channels > CHANNELS_MAX {
        return Err(no_track(&format!("it has {n_channels} channels, more than {CHANNELS_MAX}")));
    }
    let claimed_rate = parameters.sample_rate.unwrap_or(*SAMPLE_RATES_HZ.start());
    if !SAMPLE_RATES_HZ.contains(&claimed_rate) {
        return Err(no_track(&format!("it has {claimed_rate} samples per second")));
    }
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map_err(|error| damaged(&name, &error))?;

    let mut mono: Vec<f32> = Vec::new();
    let mut interleaved: Vec<f32> = Vec::new();
    let mut sample_rate_hz = 0;
    // A packet takes a byte at least: more of them come of a table that claims empty ones for ever.
    for _ in 0..n_bytes {
        let packet = match format.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            Err(error) => return Err(damaged(&name, &error)),
        };
        if packet.track_id != track_id {
            continue;
        }
        let decoded = decoder.decode(&packet).map_err(|error| damaged(&name, &error))?;
        let n_channels = decoded.num_planes().max(1);
        let rate = decoded.spec().rate();
        if n_channels > CHANNELS_MAX || !SAMPLE_RATES_HZ.contains(&rate) {
            return Err(no_track(&format!("it has {n_channels} channels at {rate} Hz")));
        }
        if sample_rate_hz != 0 && rate != sample_rate_hz {
            return Err(no_track("its sample rate changes midway"));
        }
        sample_rate_hz = rate;
        decoded.copy_to_vec_interleaved(&mut interleaved);
        #[expect(clippy::cast_precision_loss, reason = "channel counts are small")]
        let share = 1.0 / n_channels as f32;
        if n_channels == 1 {
            mono.extend_from_slice(&interleaved);
        } else {
            mono.extend(
                interleaved.chunks_exact(n_channels).map(|frame| frame.iter().sum::<f32>() * share),
            );
        }
        #[expect(clippy::cast_precision_loss, reason = "a duration need not be exact")]
        let seconds = mono.len() as f64 / f64::from(sample_rate_hz.max(1));
        if seconds > seconds_max {
            return Err(MediaError::TooLong { seconds_max });
        }
        let held = mono.len() as u64 * BYTES_PER_SAMPLE;
        if held > bytes_max {
            return Err(MediaError::TooMuchMemory { kind: "audio", bytes: held, bytes_max });
        }
    }
    if mono.is_empty() || sample_rate_hz == 0 {
        return Err(no_track("it has no samples"));
    }
    if mono.iter().any(|sample| !sample.is_finite()) {
        return Err(no_track("it has samples that are not numbers"));
    }
    if mono.iter().any(|sample| sample.abs() > LEVEL_MAX) {
        return Err(no_track("it has samples louder than any scale"));
    }
    // A list that has grown has room for twice as many.
    mono.shrink_to_fit();
    Ok(Waveform { sample_rate_hz, samples: mono }.into())
}

fn damaged(format: &str, error: &SymphoniaError) -> MediaError {
    let problem = match error {
        SymphoniaError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it ends too early".to_owned()
        }
        error => error.to_string(),
    };
    MediaError::Damaged { kind: "audio", format: format.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::decode_audio;

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

    #[test]
    fn channels_are_averaged() {
        let bytes = wav(8000, 2, &[16384, 0, -16384, 16384]);
        let sound = decode_audio(bytes.into(), 10.0, 1 << 20).unwrap().media;
        assert_eq!(sound.sample_rate_hz, 8000);
        assert_eq!(sound.samples, [0.25, 0.0]);
    }

    #[test]
    fn bad_bytes_are_told_apart() {
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
}
