//! Processors, compared with stored reference results made by `golden/make_golden.py`.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "the same formulas as in the script, on small numbers"
)]

use legenda_models::{
    Bundle, BundleSource, Processor, Record, RgbImage, Waveform,
    config::SoundLength,
    preprocess::{Backend, Filter, LogMel, resize},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/golden.json")).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn noise_image(width: usize, height: usize, seed: u64) -> RgbImage {
    let mut state = seed;
    let pixels = (0..width * height * 3).map(|_| {
        state = (state * 1_103_515_245 + 12_345) % (1 << 31);
        (state >> 16) as u8
    });
    RgbImage { width, height, pixels: pixels.collect() }
}

fn smooth_image(width: usize, height: usize) -> RgbImage {
    let mut pixels = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            for c in 0..3 {
                pixels.push((((x * 3 + y * (c + 2)) % 510) as i32 - 255).unsigned_abs() as u8);
            }
        }
    }
    RgbImage { width, height, pixels }
}

fn chord(n_samples: i64) -> Waveform {
    let samples = (0..n_samples).map(|i| {
        let low = ((i % 73) * 2 - 73).abs();
        let high = ((i % 11) * 2 - 11).abs();
        ((low * 4 + high * 3 - 160) as f64 / 512.0) as f32
    });
    Waveform { sample_rate_hz: 16_000, samples: samples.collect() }
}

fn backend(name: &str) -> Backend {
    if name == "pil" { Backend::Pil } else { Backend::Torchvision }
}

fn pair(value: &Value) -> (usize, usize) {
    (value[0].as_u64().unwrap() as usize, value[1].as_u64().unwrap() as usize)
}

/// Returns the maximum difference between every `step`th value and the stored ones.
fn worst(actual: &[f32], step: usize, expected: &Value) -> f64 {
    let expected = expected.as_array().unwrap();
    let actual: Vec<f32> = actual.iter().copied().step_by(step).collect();
    assert_eq!(actual.len(), expected.len());
    let differences = actual
        .iter()
        .zip(expected)
        .map(|(actual, expected)| (f64::from(*actual) - expected.as_f64().unwrap()).abs());
    differences.fold(0.0, f64::max)
}

#[test]
fn resizing_is_bit_identical_to_torchvision_and_pillow() {
    for case in golden()["resize"].as_array().unwrap() {
        let (width, height) = pair(&case["from"]);
        let (new_width, new_height) = pair(&case["to"]);
        let name = case["backend"].as_str().unwrap();
        let number = case["resample"].as_u64().unwrap() as u8;
        let image = noise_image(width, height, case["seed"].as_u64().unwrap());
        let filter = Filter::from_pil(number).unwrap();
        let resized = resize(&image, new_width, new_height, filter, backend(name));
        let what = format!("{name} {filter:?} {width}x{height} to {new_width}x{new_height}");
        let head: Vec<u8> =
            case["head"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u8).collect();
        assert_eq!(resized.pixels[..24], head, "{what}");
        assert_eq!(sha256(&resized.pixels), case["sha256"].as_str().unwrap(), "{what}");
    }
}

#[test]
fn resizing_a_photo_sized_image_is_bit_identical() {
    let golden = golden();
    let image = smooth_image(640, 427);
    for name in ["torchvision", "pil"] {
        for number in 0..4 {
            let filter = Filter::from_pil(number).unwrap();
            let resized = resize(&image, 96, 96, filter, backend(name));
            let expected = golden["resize_large"][name][usize::from(number)].as_str().unwrap();
            assert_eq!(sha256(&resized.pixels), expected, "{name} {filter:?}");
        }
    }
}

#[test]
fn pixel_values_match_transformers() {
    let processor = Processor::open(&Bundle::open(&BundleSource::Embedded).unwrap()).unwrap();
    let record = Record {
        text: Some("x".to_owned()),
        images: vec![smooth_image(640, 427)],
        ..Record::default()
    };
    let pixel_values = processor.prepare(&record).unwrap().pixel_values.unwrap();
    assert_eq!(pixel_values.shape(), [1, 3, 96, 96]);
    let worst = worst(pixel_values.data(), 97, &golden()["pixel_values"]["every_97th"]);
    // One unit in the last place of an f32 near 1.
    assert!(worst < 1.2e-7, "off by {worst}");
}

#[test]
fn log_mel_matches_transformers() {
    let golden = golden();
    let processor = Processor::open(&Bundle::open(&BundleSource::Embedded).unwrap()).unwrap();
    let record =
        Record { text: Some("x".to_owned()), audios: vec![chord(40_000)], ..Record::default() };
    let features = processor.prepare(&record).unwrap().input_features.unwrap();
    let worst_own = worst(features.data(), 61, &golden["input_features"]["every_61st"]);
    assert!(worst_own < 1e-4, "off by {worst_own}");

    // Whisper's own settings: an FFT size that is not a power of two.
    let config = serde_json::json!({
        "feature_size": 80, "sampling_rate": 16_000, "hop_length": 160, "n_fft": 400,
        "chunk_length": 30, "n_samples": 480_000, "nb_max_frames": 3000,
    });
    let config = serde_json::from_value(config).unwrap();
    let mel = LogMel::open(&config, SoundLength::OneClip).unwrap();
    let features = mel.input_features(&chord(100_000)).unwrap();
    assert_eq!(features.shape(), [1, 80, 3000]);
    let worst_whisper = worst(features.data(), 997, &golden["whisper_features"]["every_997th"]);
    assert!(worst_whisper < 1e-4, "off by {worst_whisper}");
}

#[test]
fn token_ids_match_transformers() {
    let golden = golden();
    let tokenizer = include_bytes!("../../tiny/tokenizer.json");
    assert_eq!(
        sha256(tokenizer),
        golden["tokenizer_sha256"].as_str().unwrap(),
        "the tokenizer has changed: run models/tests/models/golden/make_golden.py"
    );
    let processor = Processor::open(&Bundle::open(&BundleSource::Embedded).unwrap()).unwrap();
    for case in golden["token_ids"].as_array().unwrap() {
        let record = Record {
            text: Some(case["text"].as_str().unwrap().to_owned()),
            system: Some("Be brief.".to_owned()),
            earlier: Vec::new(),
            images: vec![smooth_image(20, 20)],
            audios: Vec::new(),
        };
        let mut token_ids = processor.prepare(&record).unwrap().token_ids;
        // The template has one placeholder token, the prompt one per feature.
        token_ids.dedup_by(|a, b| *a == 5 && *b == 5);
        let expected: Vec<i64> =
            case["ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
        assert_eq!(token_ids, expected, "{}", case["text"]);
    }
}
