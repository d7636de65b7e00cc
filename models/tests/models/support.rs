//! Shared test helpers: the runtime, and records computed from formulas.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "test helpers; pixels and samples are computed from small numbers"
)]

pub(crate) use crate::device::device;
use legenda_models::{Record, RgbImage, Runtime, RuntimeOptions, Waveform};

/// Opens ONNX Runtime like the program does, with a download if necessary.
pub(crate) fn runtime() -> Runtime {
    Runtime::open(&RuntimeOptions::from_env(), &|line| println!("{line}")).unwrap()
}

/// Returns a smooth image that depends on `seed`.
pub(crate) fn image(width: usize, height: usize, seed: usize) -> RgbImage {
    let mut pixels = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let wave = (x * (seed + 1) + y * (channel + 2)) as f32 / 17.0;
                pixels.push(((wave.sin() * 0.5 + 0.5) * 255.0) as u8);
            }
        }
    }
    RgbImage { width, height, pixels }
}

/// Returns a chord that depends on `seed`.
pub(crate) fn audio(seconds: f32, seed: usize) -> Waveform {
    let n = (seconds * 16_000.0) as usize;
    let tone = |i: usize, hz: f32| (std::f32::consts::TAU * hz * i as f32 / 16_000.0).sin();
    let low = 110.0 * (seed + 1) as f32;
    let samples = (0..n).map(|i| 0.3 * tone(i, low) + 0.2 * tone(i, low * 2.5)).collect();
    Waveform { sample_rate_hz: 16_000, samples }
}

/// Records of every kind that the default bundle supports.
pub(crate) fn records() -> Vec<Record> {
    let text = |text: &str| Some(text.to_owned());
    let mut records = vec![
        Record { text: text("What is the name of this emoji? 🐱"), ..Record::default() },
        Record { text: text("Translate to German: dog"), ..Record::default() },
        Record { text: text("x"), ..Record::default() },
    ];
    for seed in 0..4 {
        records.push(Record {
            text: text("Describe the picture."),
            images: vec![image(64 + 40 * seed, 100, seed)],
            ..Record::default()
        });
        records.push(Record {
            text: text("Write down what is said."),
            audios: vec![audio(0.7 + seed as f32, seed)],
            ..Record::default()
        });
        records.push(Record {
            text: text("How many are there, and what do you hear?"),
            system: text("Be brief."),
            earlier: Vec::new(),
            images: vec![image(90, 70 + 10 * seed, seed + 5)],
            audios: vec![audio(1.5, seed + 3)],
        });
    }
    records
}
