//! Audio of every format and codec is decoded without shifts, missing samples or changes.
//!
//! The files are made by `tests/audio/make_audio.py`, all from one formula.

use std::{f64::consts::TAU, fs};

use legenda_models::Waveform;
use legenda_pipeline::media::{Decoded, MediaError, audio::decode_audio};
use legenda_tests::repository;

const SECONDS_MAX: f64 = 60.0;
const BYTES_MAX: u64 = 1 << 26;

fn file(name: &str) -> Vec<u8> {
    fs::read(repository().join("tests/audio/files").join(name)).unwrap()
}

fn decode(bytes: Vec<u8>) -> Result<Decoded<Waveform>, MediaError> {
    decode_audio(bytes.into(), SECONDS_MAX, BYTES_MAX)
}

/// Returns the average of the channels of `make_audio.py`.
#[expect(clippy::cast_possible_truncation, reason = "samples are f32")]
fn source(rate_hz: u32, n_channels: usize, n_samples: usize) -> Vec<f32> {
    let sample = |i: usize| {
        let t = i as f64 / f64::from(rate_hz);
        let rising = (0..n_channels)
            .map(|channel| (TAU * ((300.0 + 40.0 * channel as f64) * t + 1500.0 * t * t)).sin())
            .sum::<f64>()
            / n_channels as f64;
        (0.4 * rising + 0.2 * (TAU * 110.0 * t).sin()) as f32
    };
    (0..n_samples).map(sample).collect()
}

/// Returns the power of the difference of two signals, relative to the power of the expected one.
fn difference(actual: &[f32], wanted: &[f32]) -> f64 {
    let power = |sample: f32| f64::from(sample * sample);
    let off: f64 = actual.iter().zip(wanted).map(|(a, b)| power(a - b)).sum();
    off / wanted.iter().map(|sample| power(*sample)).sum::<f64>()
}

/// Asserts that a file decodes to the first `n_samples` of the source, without a shift. The formula
/// starts and ends with a step, which lossy codecs smear, so the edges are not compared.
#[track_caller]
fn check(name: &str, rate_hz: u32, n_channels: usize, n_samples: usize, most: f64) {
    let audio = decode(file(name)).unwrap_or_else(|error| panic!("{name}: {error}")).media;
    assert_eq!(audio.sample_rate_hz, rate_hz, "{name}");
    assert_eq!(audio.samples.len(), n_samples, "{name}");
    let wanted = source(rate_hz, n_channels, n_samples);
    let edge = n_samples / 10;
    let inner = edge..n_samples - edge;
    let off = difference(&audio.samples[inner.clone()], &wanted[inner.clone()]);
    assert!(off < most, "{name} is off by {off}");
    // A shift of one sample in either direction must be worse.
    for shifted in [inner.start - 1..inner.end - 1, inner.start + 1..inner.end + 1] {
        let worse = difference(&audio.samples[shifted], &wanted[inner.clone()]);
        assert!(worse > off, "{name} is shifted: off by {off}, but {worse} when shifted");
    }
}

#[test]
fn lossless_codecs_are_exact() {
    for name in ["alac.m4a", "flac.ogg", "flac.mp4"] {
        check(name, 22_050, 2, 6615, 1e-8);
    }
    check("bits-24.wav", 16_000, 1, 4800, 1e-8);
}

#[test]
fn encoder_delay_and_padding_are_removed() {
    check("aac.m4a", 22_050, 2, 6615, 0.05);
    check("aac-mono.mp4", 16_000, 1, 4800, 0.05);
    check("mp3.mp3", 22_050, 2, 6615, 0.05);
    check("mp3-mono.mp3", 16_000, 1, 4800, 0.05);
    check("vorbis.ogg", 22_050, 2, 6615, 0.05);
    check("vorbis-mono.ogg", 16_000, 1, 4800, 0.05);
    check("opus.ogg", 48_000, 2, 14_400, 0.05);
    check("opus.mp4", 48_000, 2, 14_400, 0.05);
    // The speech mode and the low-frequency channel do not preserve phase.
    for name in ["opus-voice.ogg", "opus-surround.ogg"] {
        assert_eq!(decode(file(name)).unwrap().media.samples.len(), 14_400, "{name}");
    }
}

#[test]
fn edit_lists_are_sample_exact() {
    let audio = decode(file("aac-cut.m4a")).unwrap().media;
    let whole = decode(file("aac.m4a")).unwrap().media.samples;
    assert_eq!(audio.samples.len(), 3939, "the edit list selects 178.6 ms");
    let at = |first: usize| difference(&audio.samples[500..3000], &whole[first + 500..]);
    let best = (0..3000).min_by(|a, b| at(*a).total_cmp(&at(*b))).unwrap();
    assert_eq!(best, 2205, "the edit list starts at 0.1 s");
    assert!(at(best) < 0.01, "{}", at(best));
}

#[test]
fn logarithmic_and_adaptive_pcm_is_decoded() {
    check("a-law.wav", 16_000, 1, 4800, 1e-3);
    check("mu-law.wav", 16_000, 1, 4800, 1e-3);
    // The last block is padded.
    for (name, n_samples) in [("adpcm-ima.wav", 6123), ("adpcm-ms.wav", 6108)] {
        let audio = decode(file(name)).unwrap().media;
        assert_eq!(audio.samples.len(), n_samples, "{name}: expected the length from ffmpeg");
        let off = difference(&audio.samples[..4800], &source(16_000, 1, 4800));
        assert!(off < 1e-2, "{name} is off by {off}");
    }
}

#[test]
fn mpeg_audio_without_a_tag_keeps_its_encoder_delay() {
    for (name, n_samples) in [("mp3.wav", 8064), ("mp2.mp2", 14_976)] {
        let audio = decode(file(name)).unwrap().media;
        assert_eq!(audio.samples.len(), n_samples, "{name}: expected the length from ffmpeg");
    }
}

#[test]
fn chained_streams_are_read_to_the_end() {
    let audio = decode(file("chained.ogg")).unwrap().media;
    let first = decode(file("vorbis.ogg")).unwrap().media;
    let second = decode(file("vorbis-mono.ogg")).unwrap().media.at_rate(22_050).unwrap();
    assert_eq!(audio.sample_rate_hz, first.sample_rate_hz);
    assert_eq!(audio.samples, [first.samples, second.samples].concat());
    // Concatenated copies of the stream, without end-of-stream pages.
    let once = file("vorbis-mono.ogg");
    let audio = decode([&once[..], &once, &once].concat()).unwrap().media;
    assert_eq!(audio.samples.len(), 3 * 4800);
}

#[track_caller]
fn unsupported(bytes: Vec<u8>, name: &str) {
    let error = decode(bytes).unwrap_err();
    assert_eq!(error.code(), "media_unsupported", "{error}");
    assert!(error.to_string().starts_with(&format!("{name} is not supported")), "{error}");
}

#[test]
fn unsupported_codecs_are_named() {
    unsupported(file("ac3.mp4"), "MP4 with AC-3");
    unsupported(file("aac-surround.m4a"), "MP4 with AAC with 6 channels");
    unsupported(file("vorbis-surround.ogg"), "Vorbis with 6 channels");
    unsupported(file("flac-32.flac"), "32-bit FLAC in stereo");
}

/// Inserts an SBR fill element before the end of each AAC frame in ADTS.
fn with_sbr(adts: &[u8]) -> Vec<u8> {
    let (mut rest, mut out) = (adts, Vec::new());
    while let [_, _, _, third, fourth, fifth, ..] = *rest {
        let len = usize::from(third & 3) << 11 | usize::from(fourth) << 3 | usize::from(fifth >> 5);
        let (whole, after) = rest.split_at(len);
        let (head, frame) = whole.split_at(7);
        let mut bits: Vec<bool> =
            frame.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1 == 1)).collect();
        while bits.pop() == Some(false) {}
        // The last set bit and the two bits before it are the end element.
        bits.truncate(bits.len() - 2);
        let filler = [(6, 3), (9, 4), (13, 4), (0, 68), (7, 3)];
        let more = filler
            .iter()
            .flat_map(|(n, len): &(u128, usize)| (0..*len).rev().map(move |at| n >> at & 1 == 1));
        bits.extend(more);
        let byte = |bits: &[bool]| {
            bits.iter().enumerate().fold(0_u8, |all, (i, bit)| all | u8::from(*bit) << (7 - i))
        };
        let frame: Vec<u8> = bits.chunks(8).map(byte).collect();
        let len = head.len() + frame.len();
        let mut head = head.to_vec();
        head[3] = head[3] & !3 | u8::try_from(len >> 11).unwrap();
        head[4] = u8::try_from(len >> 3 & 255).unwrap();
        head[5] = head[5] & 31 | u8::try_from((len & 7) << 5).unwrap();
        out.extend([head, frame].concat());
        rest = after;
    }
    out
}

#[test]
fn implicitly_signaled_he_aac_is_refused() {
    let plain = fs::read(repository().join("tests/torture/seeds/aac.aac")).unwrap();
    assert!(decode(plain.clone()).is_ok());
    unsupported(with_sbr(&plain), "HE-AAC (AAC with spectral band replication)");
}
