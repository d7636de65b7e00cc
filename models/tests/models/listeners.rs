//! Multimodal decoders with audio input in the transformers.js layout, compared with Hugging Face
//! transformers: first the prompt's token IDs, then the answers, with 1, 3 and 8 slots.

use std::fs;

use crate::references::{
    assert_rows, bundle, changed, device, encode, load, read_audio, read_image, read_joined_audio,
    reference,
};
use legenda_models::{
    Bundle, BundleSource, Model, ModelOptions, Processor, Record, Runtime, RuntimeOptions, Waveform,
};
use serde_json::Value;

fn record(text: &str, audios: Vec<Waveform>) -> Record {
    Record { text: Some(text.to_owned()), audios, ..Record::default() }
}

fn record_of(row: &Value) -> Record {
    let audios = row["audios"].as_array().unwrap().iter();
    let joined = |names: &Value| {
        read_joined_audio(
            &names.as_array().unwrap().iter().flat_map(Value::as_str).collect::<Vec<_>>(),
        )
    };
    let images = row["images"].as_array().into_iter().flatten().flat_map(Value::as_str);
    Record {
        images: images.map(read_image).collect(),
        ..record(row["text"].as_str().unwrap(), audios.map(joined).collect())
    }
}

fn assert_bundle(name: &str) {
    let reference = reference(name);
    assert_rows(name, &bundle(name), reference["rows"].as_array().unwrap(), record_of);
}

fn processor(name: &str) -> Processor {
    Processor::open(&Bundle::open(&BundleSource::Directory(bundle(name))).unwrap()).unwrap()
}

#[test]
fn ultravox_with_unpadded_audio() {
    assert_bundle("ultravox");
}

#[test]
fn voxtral_with_thirty_second_clips() {
    assert_bundle("voxtral");
}

#[test]
fn gemma3n_with_images_audio_and_per_layer_inputs() {
    assert_bundle("gemma3n");
}

#[test]
fn phi4_with_image_crops_and_audio() {
    assert_bundle("phi4");
}

/// Compares log-mel frames with those of the reference.
fn assert_features(name: &str) {
    let processor = processor(name);
    for case in reference(name)["features"].as_array().unwrap() {
        let audio = case["audio"].as_str().unwrap();
        let sample = processor.prepare(&record("Hello", vec![read_audio(audio)])).unwrap();
        let features = sample.input_features.unwrap();
        let n_mels = features.shape()[2];
        assert_eq!(features.shape()[1], case["n_frames"], "{name}: {audio}");
        let frames =
            case["frames"].as_array().unwrap().iter().zip(case["values"].as_array().unwrap());
        let (mut worst, mut worst_faint) = (0.0_f64, 0.0_f64);
        for (frame, values) in frames {
            let start = usize::try_from(frame.as_u64().unwrap()).unwrap() * n_mels;
            let values = values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap());
            let loudest = values.clone().fold(f64::NEG_INFINITY, f64::max);
            for (own, value) in features.data()[start..].iter().zip(values) {
                // Values 60 dB below the loudest of a frame are dominated by rounding in the window
                // function, which differs between machines in the reference, too.
                let is_faint = value < loudest - 7.0;
                let worst = if is_faint { &mut worst_faint } else { &mut worst };
                *worst = worst.max((f64::from(*own) - value).abs());
            }
        }
        println!("{name}: features of {audio} off by {worst:.1e}, {worst_faint:.1e} where faint");
        assert!(worst < 1e-4 && worst_faint < 1e-2, "{name}: {audio}: {worst}, {worst_faint}");
    }
}

#[test]
fn features_match_the_reference() {
    assert_features("gemma3n");
    assert_features("phi4");
}

#[test]
fn placeholder_names_in_text_stay_text() {
    for (name, mark) in [("ultravox", "<|audio|>"), ("voxtral", "[AUDIO]")] {
        let processor = processor(name);
        let prepare =
            |text: &str| processor.prepare(&record(text, vec![read_audio("fall-1s.wav")]));
        let count =
            |ids: &[i64], placeholder: i64| ids.iter().filter(|id| **id == placeholder).count();
        let [plain, marked] = ["Is this a mark?", &format!("Is this {mark} a mark?")]
            .map(|text| prepare(text).unwrap().token_ids);
        // The placeholder token is by far the most frequent.
        let placeholder = *plain.iter().max_by_key(|id| count(&plain, **id)).unwrap();
        assert!(marked.len() > plain.len(), "{name}");
        assert_eq!(count(&marked, placeholder), count(&plain, placeholder), "{name}");
    }
}

#[test]
fn a_mismatched_adapter_is_rejected() {
    const ADAPTER: &str = "phi-4-mm-vision.onnx_adapter";
    let whole = Bundle::open(&BundleSource::Directory(bundle("phi4"))).unwrap();
    let adapter = fs::read(bundle("phi4").join(ADAPTER)).unwrap();
    let cut = adapter[..adapter.len() / 2].to_vec();
    // A weight of a layer that does not exist.
    let mut renamed = adapter.clone();
    let at = adapter.windows(14).position(|text| text == b"model.layers.0").unwrap();
    renamed[at + 13] = b'9';
    let cases = [
        (cut, "not an ONNX Runtime adapter"),
        (renamed, "the graph has no input `model.layers.9"),
        (adapter, ""),
    ];
    for (adapter, message) in cases {
        let folder = changed("phi4", |file, content| {
            Some(if file == ADAPTER { adapter.clone() } else { content })
        });
        let bundle = Bundle::open(&BundleSource::Directory(folder.path().to_owned())).unwrap();
        assert_eq!(bundle.revision() == whole.revision(), message.is_empty());
        let runtime = Runtime::open(&RuntimeOptions::from_env(), &|line| println!("{line}"));
        let options = ModelOptions { device: device(), ..ModelOptions::default() };
        let loaded = Model::load(&runtime.unwrap(), &bundle, &options);
        let error = loaded.err().map(|error| (error.code(), error.to_string()));
        match error {
            None => assert!(message.is_empty()),
            Some((code, text)) => {
                assert_eq!(code, "adapter_unfit");
                assert!(text.contains(ADAPTER) && text.contains(message), "{text}");
            }
        }
    }
}

#[test]
fn unsupported_audio_is_rejected() {
    let silence =
        |seconds: usize| Waveform { sample_rate_hz: 16_000, samples: vec![0.0; seconds * 16_000] };
    let code = |name: &str, seconds: &[usize]| {
        let audios = seconds.iter().map(|seconds| silence(*seconds)).collect();
        processor(name).prepare(&record("Hello", audios)).err().map(|error| error.code())
    };
    assert_eq!(code("ultravox", &[30]), None);
    assert_eq!(code("ultravox", &[31]), Some("audio_too_long"));
    assert_eq!(code("ultravox", &[2, 2]), None);
    assert_eq!(code("ultravox", &[2, 3]), Some("audio_lengths_differ"));
    // The context of 1024 tokens fits two clips.
    assert_eq!(code("voxtral", &[60]), None);
    assert_eq!(code("voxtral", &[61]), Some("audio_too_long"));
    assert_eq!(code("voxtral", &[2, 40]), None);
}

#[test]
fn clips_in_one_row_match_clips_alone() {
    let mut model = load(bundle("voxtral"), 1, ModelOptions::default());
    let names = ["fall-1s.wav", "hiss-1s.wav", "low-3s.wav"];
    let alone = names.map(|name| record("Hello", vec![read_audio(name)]));
    let together = record("Hello", (0..12).map(|i| read_audio(names[i % 3])).collect());
    let prompts = encode(&mut model, &[&alone[..], &[together]].concat());
    let features = |prompt: usize, audio_idx: usize| {
        let embeds = prompts[prompt].embeds().unwrap();
        // The prompt starts with two tokens, and each audio input has one marker token.
        let first = 2 + audio_idx * 376 + 1;
        embeds.data()[first * embeds.row_len()..(first + 375) * embeds.row_len()].to_vec()
    };
    for audio_idx in 0..12 {
        let pairs = features(3, audio_idx).into_iter().zip(features(audio_idx % 3, 0));
        // Sums over more rows may have another order.
        let worst = pairs.map(|(own, alone)| (own - alone).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "audio {audio_idx}: off by {worst}");
    }
}
