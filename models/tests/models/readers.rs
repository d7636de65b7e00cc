//! Multimodal decoders with image input in the transformers.js layout, compared with Hugging Face
//! transformers: first the prompt's token IDs, then the answers, with 1, 3 and 8 slots.

use std::{
    fs::{self, File},
    io::Write,
};

use crate::references::{
    assert_rows, bundle, changed, load, read_image, reference, references, rows_with_answers_of,
    with_json,
};
use legenda_models::{
    Bundle, BundleSource, ModelOptions, Processor, Record, RgbImage, preprocess::ImageLayout,
};
use legenda_schemas::cause::chain;
use serde_json::Value;
use tempfile::TempDir;

fn record(text: &str, images: &[&str]) -> Record {
    let images = images.iter().map(|name| read_image(name)).collect();
    Record { text: Some(text.to_owned()), images, ..Record::default() }
}

fn record_of(row: &Value) -> Record {
    let images = row["images"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    record(row["text"].as_str().unwrap(), &images.collect::<Vec<_>>())
}

fn assert_bundle(name: &str) {
    let reference = reference(name);
    assert_rows(name, &bundle(name), reference["rows"].as_array().unwrap(), record_of);
}

fn open(folder: &TempDir) -> Bundle {
    Bundle::open(&BundleSource::Directory(folder.path().to_owned())).unwrap()
}

#[test]
fn llava_with_one_patch_per_placeholder() {
    assert_bundle("llava");
}

#[test]
fn smolvlm_with_tiles() {
    assert_bundle("smolvlm");
}

#[test]
fn paligemma_without_a_template_with_bidirectional_prompt_attention() {
    assert_bundle("paligemma");
}

#[test]
fn gemma3_with_tokens_around_images() {
    assert_bundle("gemma3");
}

#[test]
fn gemma3_in_the_onnxruntime_genai_layout() {
    assert_bundle("gemma3_genai");
}

#[test]
fn qwen2_5_vl_in_the_onnxruntime_genai_layout() {
    assert_bundle("qwen2_5_vl_genai");
}

#[test]
fn qwen2_vl_with_positions_on_three_axes() {
    assert_bundle("qwen2_vl");
}

#[test]
fn qwen2_5_vl_with_window_attention() {
    assert_bundle("qwen2_5_vl");
}

#[test]
fn pixel_values_match_the_reference() {
    let geometry = fs::read_to_string(references().join("geometry.json")).unwrap();
    let geometry: Value = serde_json::from_str(&geometry).unwrap();
    let cases = geometry["pixels"].as_array().unwrap();
    assert_eq!(cases.len(), 21);
    for case in cases {
        let name = case["bundle"].as_str().unwrap();
        let file = case["image"].as_str().unwrap();
        let source = BundleSource::Directory(bundle(name));
        let processor = Processor::open(&Bundle::open(&source).unwrap()).unwrap();
        let values = processor.prepare(&record("Hello", &[file])).unwrap().pixel_values.unwrap();
        let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).unwrap();
        assert_eq!(values.shape(), shape, "{name}, {file}");
        let expected: Vec<f32> = serde_json::from_value(case["values"].clone()).unwrap();
        let step = usize::try_from(case["step"].as_u64().unwrap()).unwrap();
        let actual: Vec<f32> = values.data().iter().copied().step_by(step).collect();
        assert_eq!(actual.len(), expected.len());
        let differences = actual.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let worst = differences.fold(0.0, f32::max);
        // A few units in the last place; one gray level is at least 0.0078.
        assert!(worst < 5e-7, "{name}, {file}: off by {worst}");
    }
}

#[test]
fn sessions_of_different_precision_work_together() {
    let reference = reference("llava");
    let front = ["onnx/vision_encoder", "onnx/embed_tokens"];
    for (key, front_is_half) in [("rows_fp16_front", true), ("rows_fp16_decoder", false)] {
        let folder = changed("llava", |file, content| {
            let of_front = front.iter().any(|name| file.starts_with(name));
            let is_wanted = file.contains("_fp16") == (of_front == front_is_half);
            (!file.starts_with("onnx/") || is_wanted).then_some(content)
        });
        assert_eq!(fs::read_dir(folder.path().join("onnx")).unwrap().count(), 3, "{key}");
        let rows = rows_with_answers_of(&reference, key);
        assert_rows(&format!("llava {key}"), folder.path(), &rows, record_of);
    }
}

#[test]
fn placeholder_names_in_text_stay_text() {
    let marks = [
        ("llava", "<image>"),
        ("smolvlm", "<image>"),
        ("smolvlm", "<row_1_col_1>"),
        ("paligemma", "<image>"),
        ("gemma3", "<start_of_image>"),
        ("gemma3", "<image_soft_token>"),
        ("qwen2_vl", "<|image_pad|>"),
    ];
    for (name, mark) in marks {
        let mut model = load(bundle(name), 1, ModelOptions::default());
        let ids = |text: &str| {
            let record = record(text, &["disc-120x90.png"]);
            model.processor.prepare(&record).unwrap().token_ids
        };
        let (plain, marked) = (ids("Is this a mark?"), ids(&format!("Is this {mark} a mark?")));
        assert!(marked.len() > plain.len(), "{name}: {mark}");
        let config: Value =
            serde_json::from_slice(&fs::read(bundle(name).join("tokenizer.json")).unwrap())
                .unwrap();
        let special: Vec<i64> = config["added_tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["id"].as_i64().unwrap())
            .collect();
        let only = |ids: &[i64]| -> Vec<i64> {
            ids.iter().copied().filter(|id| special.contains(id)).collect()
        };
        assert_eq!(only(&marked), only(&plain), "{name}: {mark}");
        let sample = model.processor.prepare(&record(mark, &["disc-120x90.png"])).unwrap();
        assert!(model.encoder.encode(vec![sample]).remove(0).is_ok(), "{name}: {mark}");
    }
}

#[test]
fn mismatched_features_fail_only_their_row() {
    // One placeholder token less than the encoder has features, in rows with images.
    let folder = with_json("smolvlm", "processor_config.json", |config| {
        config["image_seq_len"] = 3.into();
    });
    let mut model = load(folder.path().to_owned(), 1, ModelOptions::default());
    let samples = [&["disc-120x90.png"][..], &[], &["tiny-7x5.png"]]
        .map(|images| model.processor.prepare(&record("Hello", images)).unwrap());
    let encoded = model.encoder.encode(samples.to_vec());
    let errors: Vec<Option<String>> =
        encoded.iter().map(|result| result.as_ref().err().map(ToString::to_string)).collect();
    let message = "the prompt has 30 image placeholders for 40 features".to_owned();
    assert_eq!(errors[..2], [Some(message), None]);
    assert!(errors[2].is_some());
}

#[test]
fn prompts_do_not_depend_on_the_encoder_batch() {
    for name in ["llava", "smolvlm", "qwen2_vl", "qwen2_5_vl"] {
        let mut model = load(bundle(name), 1, ModelOptions::default());
        let rows = [
            &["disc-120x90.png"][..],
            &["tiny-7x5.png"],
            &[],
            &["waves-300x200.png", "grey-48x80.png"],
            &["checks-200x40.png"],
        ];
        let samples = rows.map(|images| model.processor.prepare(&record("Hello", images)).unwrap());
        let together = model.encoder.encode(samples.to_vec());
        for (sample, together) in samples.into_iter().zip(together) {
            let alone = model.encoder.encode(vec![sample]).remove(0).unwrap();
            let (alone, together) =
                (alone.embeds().unwrap(), together.as_ref().unwrap().embeds().unwrap());
            assert_eq!(alone.shape(), together.shape(), "{name}");
            let differences = alone.data().iter().zip(together.data()).map(|(a, b)| (a - b).abs());
            // Sums over more rows may have another order.
            assert!(differences.fold(0.0, f32::max) < 1e-5, "{name}");
        }
    }
}

#[test]
fn unsupported_processor_options_are_errors() {
    let cases: [(&str, &str, Value, &str); 6] = [
        (
            "gemma3",
            "do_pan_and_scan",
            true.into(),
            "`do_pan_and_scan` = `true` in `preprocessor_config.json`",
        ),
        ("llava", "do_pad", true.into(), "`do_pad` = `true`"),
        ("qwen2_vl", "do_resize", false.into(), "`do_resize` = `false`"),
        ("qwen2_vl", "merge_size", 1.into(), "`merge_size` is not 2"),
        ("smolvlm", "do_center_crop", true.into(), "`do_center_crop` = `true`"),
        (
            "smolvlm",
            "image_processor_type",
            "CLIPImageProcessor".into(),
            "`image_processor_type` = `CLIPImageProcessor` in `preprocessor_config.json`",
        ),
    ];
    for (name, key, value, expected) in cases {
        let folder = with_json(name, "preprocessor_config.json", |config| {
            config[key] = value.clone();
            if key == "image_processor_type" {
                // The keys for tiles are unknown to it as well; this case is about the class.
                for key in ["do_image_splitting", "max_image_size", "do_pad"] {
                    config[key] = Value::Null;
                }
                config["size"] = serde_json::json!({"height": 32, "width": 32});
            }
        });
        let error = Processor::open(&open(&folder)).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn a_one_pixel_wide_image_is_rejected() {
    let bundle = bundle("qwen2_vl");
    let processor =
        Processor::open(&Bundle::open(&BundleSource::Directory(bundle)).unwrap()).unwrap();
    let mut line = record("Hello", &["tiny-7x5.png"]);
    line.images[0] = RgbImage { width: 201, height: 1, pixels: vec![0; 603] };
    let error = processor.prepare(&line).unwrap_err();
    assert_eq!(error.code(), "image_too_narrow");
    line.images[0] = RgbImage { width: 200, height: 1, pixels: vec![0; 600] };
    assert!(processor.prepare(&line).is_ok());
}

#[test]
fn paligemma_requires_an_image_and_rejects_system_text() {
    let bundle = bundle("paligemma");
    let processor =
        Processor::open(&Bundle::open(&BundleSource::Directory(bundle)).unwrap()).unwrap();
    let error = processor.prepare(&record("Hello", &[])).unwrap_err();
    assert!(chain(&error).contains("requires an image in each row"), "{error:?}");
    let mut with_system = record("Hello", &["tiny-7x5.png"]);
    with_system.system = Some("Be brief.".to_owned());
    let error = processor.prepare(&with_system).unwrap_err();
    assert!(chain(&error).contains("does not support a system message"), "{error:?}");
}

#[test]
fn the_size_estimate_of_an_image_covers_its_pixel_values() {
    for name in ["llava", "smolvlm", "gemma3", "qwen2_vl"] {
        let bundle = Bundle::open(&BundleSource::Directory(bundle(name))).unwrap();
        let processor = Processor::open(&bundle).unwrap();
        for file in ["tiny-7x5.png", "waves-300x200.png", "disc-40x160.png"] {
            let record = record("Hello", &[file]);
            let (width, height) = (record.images[0].width, record.images[0].height);
            let values = processor.prepare(&record).unwrap().pixel_values.unwrap();
            let bytes = processor.image_bytes(width, height);
            assert!(bytes > values.size_bytes(), "{name}, {file}: {bytes}");
            // Not far above either, or a memory budget would reject samples that fit.
            let own = width * height * 3;
            assert!(bytes < 4 * values.size_bytes() + own, "{name}, {file}: {bytes}");
        }
    }
}

#[test]
fn the_newest_processor_config_layout_is_equivalent() {
    for name in ["llava", "smolvlm", "paligemma", "gemma3", "qwen2_vl"] {
        let json = |file: &str| -> Option<Value> {
            let content = fs::read(bundle(name).join(file)).ok()?;
            Some(serde_json::from_slice(&content).unwrap())
        };
        // Everything in one file, including the image processor.
        let mut whole = json("processor_config.json").unwrap_or_else(|| serde_json::json!({}));
        whole["image_processor"] = json("preprocessor_config.json").unwrap();
        let folder = changed(name, |file, content| {
            let gone = ["preprocessor_config.json", "processor_config.json"].contains(&file);
            (!gone).then_some(content)
        });
        let path = folder.path().join("processor_config.json");
        let write = |whole: &Value| {
            let content = serde_json::to_vec(whole).unwrap();
            File::create(&path).unwrap().write_all(&content).unwrap();
        };
        write(&whole);

        let record = record("Hello", &["disc-120x90.png"]);
        let sample = Processor::open(&open(&folder)).unwrap().prepare(&record).unwrap();
        let source = BundleSource::Directory(bundle(name));
        let expected = Processor::open(&Bundle::open(&source).unwrap()).unwrap();
        assert_eq!(sample, expected.prepare(&record).unwrap(), "{name}");

        whole["image_processor"]["do_magic"] = true.into();
        write(&whole);
        let error = Processor::open(&open(&folder)).unwrap_err().to_string();
        let expected = "`image_processor.do_magic` = `true` in `processor_config.json`";
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn missing_config_keys_have_the_defaults_of_the_reference() {
    // Gemma's text config without the default values, which transformers does not write.
    let folder = with_json("paligemma", "config.json", |config| {
        let text = config["text_config"].as_object_mut().unwrap();
        text.remove("head_dim");
        text.remove("max_position_embeddings");
    });
    let bundle = open(&folder);
    assert_eq!(bundle.context_tokens(), 8192);
    // 2 kinds, 2 layers, 1 head of size 256 at each of 64 positions, 4 bytes.
    assert_eq!(bundle.kv_bytes_per_slot(64), 2 * 2 * 256 * 64 * 4);

    // Pixel limits under `size`, in both published forms.
    for keys in [["min_pixels", "max_pixels"], ["shortest_edge", "longest_edge"]] {
        let folder = with_json("qwen2_vl", "preprocessor_config.json", |config| {
            let images = config.as_object_mut().unwrap();
            let limits = ["min_pixels", "max_pixels"].map(|key| images.remove(key).unwrap());
            images.insert("size".to_owned(), keys.into_iter().zip(limits).collect());
        });
        let record = record("Hello", &["waves-300x200.png"]);
        let sample = Processor::open(&open(&folder)).unwrap().prepare(&record).unwrap();
        assert_eq!(sample.image_layouts, [ImageLayout::Patches([1, 8, 14])], "{keys:?}");
    }
}
