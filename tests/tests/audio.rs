//! Audio of every format and codec begins and ends where its source does, and is not changed.
//!
//! The files are made by `tests/audio/make_audio.py`, all of one formula.

use std::{f64::consts::TAU, fs};

use legenda_pipeline::media::{
    MediaError,
    audio::{DecodedAudio, decode_audio},
};
use legenda_tests::repository;

const SECONDS_MAX: f64 = 60.0;
const BYTES_MAX: u64 = 1 << 26;

fn file(name: &str) -> Vec<u8> {
    fs::read(repository().join("tests/audio/files").join(name)).unwrap()
}

fn decode(bytes: Vec<u8>) -> Result<DecodedAudio, MediaError> {
    decode_audio(bytes.into(), SECONDS_MAX, BYTES_MAX)
}

/// The average of the channels of `make_audio.py`, from `first` on.
fn source(rate_hz: u32, n_channels: usize, first: usize, n_samples: usize) -> Vec<f32> {
    let sample = |i: usize| {
        let t = (first + i) as f64 / f64::from(rate_hz);
        let rising = (0..n_channels)
            .map(|channel| (TAU * ((300.0 + 40.0 * channel as f64) * t + 1500.0 * t * t)).sin())
            .sum::<f64>()
            / n_channels as f64;
        (0.4 * rising + 0.2 * (TAU * 110.0 * t).sin()) as f32
    };
    (0..n_samples).map(sample).collect()
}

/// The share of power in the difference of two signals.
fn difference(actual: &[f32], wanted: &[f32]) -> f64 {
    let power = |sample: f32| f64::from(sample * sample);
    let off: f64 = actual.iter().zip(wanted).map(|(a, b)| power(a - b)).sum();
    off / wanted.iter().map(|sample| power(*sample)).sum::<f64>()
}

/// Checks that a file is `n_samples` of the source from `first` on. The formula's first and last
/// samples are a step, which lossy codecs smear, so `edge` samples at both ends are not compared.
#[track_caller]
fn check(name: &str, rate_hz: u32, n_channels: usize, n_samples: usize, most: f64) {
    let sound = decode(file(name)).unwrap_or_else(|error| panic!("{name}: {error}")).waveform;
    assert_eq!(sound.sample_rate_hz, rate_hz, "{name}");
    assert_eq!(sound.samples.len(), n_samples, "{name}");
    let wanted = source(rate_hz, n_channels, 0, n_samples);
    let edge = n_samples / 10;
    let inner = edge..n_samples - edge;
    let off = difference(&sound.samples[inner.clone()], &wanted[inner.clone()]);
    assert!(off < most, "{name} is off by {off}");
    // A sample too early or too late is worse.
    for shifted in [inner.start - 1..inner.end - 1, inner.start + 1..inner.end + 1] {
        let worse = difference(&sound.samples[shifted], &wanted[inner.clone()]);
        assert!(worse > off, "{name} is shifted: off by {off} as it is, {worse} beside");
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
fn encoder_delay_and_padding_are_left_out() {
    check("aac.m4a", 22_050, 2, 6615, 1e-3);
    check("aac-mono.mp4", 16_000, 1, 4800, 1e-3);
    check("mp3.mp3", 22_050, 2, 6615, 1e-3);
    check("mp3-mono.mp3", 16_000, 1, 4800, 1e-3);
    check("vorbis.ogg", 22_050, 2, 6615, 1e-2);
    check("vorbis.webm", 22_050, 2, 6615, 1e-2);
    check("vorbis-mono.ogg", 16_000, 1, 4800, 1e-2);
    check("opus.ogg", 48_000, 2, 14_400, 1e-2);
    check("opus.webm", 48_000, 2, 14_400, 1e-2);
    check("opus.mp4", 48_000, 2, 14_400, 1e-2);
}

#[test]
fn logarithmic_and_adaptive_pcm_is_read() {
    check("a-law.wav", 16_000, 1, 4800, 1e-3);
    check("mu-law.wav", 16_000, 1, 4800, 1e-3);
}
