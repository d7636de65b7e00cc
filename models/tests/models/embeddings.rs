//! Embeddings, compared with Hugging Face transformers and sentence-transformers.
//!
//! The bundles are tiny with random weights; `tests/references/make_bundles` makes them and the
//! reference embeddings. Rows of different length share batches, and every batch size must give the
//! same result.

use std::{fs, path::Path, time::Instant};

use crate::references::{
    self, Tally, changed, device, read_audio, read_image, reference, with_json,
};
use legenda_models::{
    Bundle, BundleSource, Embedder, Embedding, EmbeddingInput, Model, ModelError, ModelOptions,
    Processor, Record, RgbImage, Runtime, RuntimeOptions,
};
use legenda_schemas::{
    cause::chain,
    job::{EmbeddingOptions, Pooling, TaskKind},
};
use serde_json::Value;
use tempfile::TempDir;

fn runtime() -> Runtime {
    Runtime::open(&RuntimeOptions::from_env(), &|line| println!("{line}")).unwrap()
}

fn rows(name: &str) -> Vec<Value> {
    reference(name)["rows"].as_array().unwrap().clone()
}

fn open(folder: &Path) -> Bundle {
    Bundle::open(&BundleSource::Directory(folder.to_owned())).unwrap()
}

fn bundle(name: &str) -> Bundle {
    open(&references::bundle(name))
}

fn load(
    bundle: &Bundle,
    input: EmbeddingInput,
    batch_rows: usize,
    embedding: EmbeddingOptions,
) -> Embedder {
    let options = ModelOptions {
        device: device(),
        slots: Some(batch_rows),
        embedding,
        ..ModelOptions::default()
    };
    Embedder::load(&runtime(), bundle, &options, input).unwrap()
}

fn record(bundle: &Bundle, row: &Value) -> Record {
    if let Some(image) = row["image"].as_str() {
        let images = vec![read_image(image)];
        return Record { images, ..Record::default() };
    }
    if let Some(audio) = row["audio"].as_str() {
        let audios = vec![read_audio(audio)];
        return Record { audios, ..Record::default() };
    }
    let prompt = bundle.embedding_prompt(row["prompt_name"].as_str()).unwrap().unwrap_or_default();
    let text = format!("{prompt}{}", row["text"].as_str().unwrap());
    Record { text: Some(text), ..Record::default() }
}

fn numbers(row: &Value) -> Vec<f32> {
    serde_json::from_value(row["embedding"].clone()).unwrap()
}

fn embed(embedder: &mut Embedder, bundle: &Bundle, rows: &[Value]) -> Vec<Embedding> {
    let processor = &embedder.processor;
    let samples: Vec<_> =
        rows.iter().map(|row| processor.prepare(&record(bundle, row)).unwrap()).collect();
    for (row, sample) in rows.iter().zip(&samples) {
        if let Some(ids) = row["token_ids"].as_array() {
            let ids: Vec<i64> = ids.iter().map(|id| id.as_i64().unwrap()).collect();
            assert_eq!(sample.token_ids, ids, "token ids of {:?}", row["text"]);
        }
    }
    embedder.embed(&samples).into_iter().map(Result::unwrap).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Returns the maximum difference between two embeddings.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Compares a bundle with the reference rows that have `key`, alone and in batches.
fn assert_embeddings(name: &str, key: &str, input: EmbeddingInput, difference_max: f32) {
    let bundle = bundle(name);
    let rows: Vec<Value> = rows(name).into_iter().filter(|row| row[key].is_string()).collect();
    assert!(rows.len() >= 8, "{name}: too few rows to mean anything");
    for batch_rows in [1, 8] {
        let mut embedder = load(&bundle, input, batch_rows, EmbeddingOptions::default());
        let start = Instant::now();
        let embeddings = embed(&mut embedder, &bundle, &rows);
        let took = start.elapsed();
        for (row, embedding) in rows.iter().zip(&embeddings) {
            let expected = numbers(row);
            let context = format!("{name}, {}, batches of {batch_rows}", row[key]);
            assert_eq!(embedder.info.dimension, expected.len(), "{context}");
            let cosine = cosine(&embedding.values, &expected);
            assert!(cosine > 0.99999, "{context}: cosine {cosine}");
            let difference = difference(&embedding.values, &expected);
            assert!(difference < difference_max, "{context}: difference {difference}");
            let n_tokens = row["token_ids"].as_array().map(Vec::len);
            assert_eq!(embedding.n_tokens, n_tokens, "{context}");
        }
        if batch_rows == 8 {
            let mut tally = Tally::default();
            tally.add(rows.len(), 0, took);
            let path = references::bundle(name);
            tally.note(&format!("{name} {key}s"), &path, "cosine ≥ 0.99999");
        }
    }
}

#[test]
fn minilm_pools_by_the_mean_and_normalizes() {
    assert_embeddings("minilm", "text", EmbeddingInput::Text, 2e-6);
}

#[test]
fn minilm_in_8_bits_runs_rows_alone() {
    assert_embeddings("minilm_quantized", "text", EmbeddingInput::Text, 2e-6);
}

#[test]
fn bge_pools_by_the_first_token() {
    assert_embeddings("bge", "text", EmbeddingInput::Text, 2e-6);
}

#[test]
fn clip_texts() {
    assert_embeddings("clip", "text", EmbeddingInput::Text, 5e-5);
}

#[test]
fn clip_images() {
    assert_embeddings("clip", "image", EmbeddingInput::Image, 5e-5);
}

#[test]
fn siglip_texts_are_padded_without_a_mask() {
    assert_embeddings("siglip", "text", EmbeddingInput::Text, 5e-5);
}

#[test]
fn siglip_images() {
    assert_embeddings("siglip", "image", EmbeddingInput::Image, 5e-5);
}

#[test]
fn clap_texts() {
    assert_embeddings("clap", "text", EmbeddingInput::Text, 5e-5);
}

#[test]
fn clap_audio_of_any_length() {
    assert_embeddings("clap", "audio", EmbeddingInput::Audio, 2e-4);
}

#[test]
fn clap_audio_whole_and_in_chunks() {
    assert_embeddings("clap_fused", "audio", EmbeddingInput::Audio, 2e-4);
}

#[test]
fn clap_is_two_towers() {
    let folder = copy("clap", &["audio_model.onnx"]);
    let texts = open(folder.path());
    assert!(texts.modalities().text && !texts.modalities().audio);
    let options = ModelOptions { device: device(), ..ModelOptions::default() };
    let error = Embedder::load(&runtime(), &texts, &options, EmbeddingInput::Audio).unwrap_err();
    assert!(error.to_string().contains("audio"), "{error}");
    let folder = with_json("clap", "preprocessor_config.json", |config| {
        config["truncation"] = "loudest".into();
    });
    let error = Processor::open(&open(folder.path())).unwrap_err();
    assert!(error.to_string().contains("fusion, rand_trunc"), "{error}");
}

#[test]
fn an_older_config_has_scalar_sizes() {
    let folder = with_json("clip", "preprocessor_config.json", |config| {
        (config["size"], config["crop_size"]) = (32.into(), 32.into());
    });
    let images: Vec<Value> = rows("clip").into_iter().filter(|r| r["image"].is_string()).collect();
    let bundle = open(folder.path());
    let mut embedder = load(&bundle, EmbeddingInput::Image, 8, EmbeddingOptions::default());
    for (row, embedding) in images.iter().zip(embed(&mut embedder, &bundle, &images)) {
        assert!(cosine(&embedding.values, &numbers(row)) > 0.99999, "{}", row["image"]);
    }
}

/// Copies a bundle without the files in `left_out`.
fn copy(name: &str, left_out: &[&str]) -> TempDir {
    changed(name, |file, content| {
        let file = file.rsplit('/').next().unwrap();
        (!left_out.contains(&file)).then_some(content)
    })
}

fn write(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn a_dual_encoder_in_one_graph_gives_the_same_directions() {
    for name in ["clip", "siglip"] {
        let folder = copy(name, &["text_model.onnx", "vision_model.onnx"]);
        let bundle = open(folder.path());
        for (key, input) in [("text", EmbeddingInput::Text), ("image", EmbeddingInput::Image)] {
            let rows: Vec<Value> = rows(name).into_iter().filter(|r| r[key].is_string()).collect();
            let mut embedder = load(&bundle, input, 4, EmbeddingOptions::default());
            for (row, embedding) in rows.iter().zip(embed(&mut embedder, &bundle, &rows)) {
                let cosine = cosine(&embedding.values, &numbers(row));
                assert!(cosine > 0.99999, "{name}, {}: {cosine}", row[key]);
            }
        }
    }
}

#[test]
fn the_job_can_override_pooling_and_length() {
    let bundle = bundle("minilm");
    let rows = &rows("minilm")[..6];
    let plain = EmbeddingOptions { normalize: Some(false), ..EmbeddingOptions::default() };
    let mut whole = load(&bundle, EmbeddingInput::Text, 8, plain.clone());
    for (row, embedding) in rows.iter().zip(embed(&mut whole, &bundle, rows)) {
        let (length, expected) = (cosine_length(&embedding.values), numbers(row));
        assert!((length - 1.0).abs() > 0.01, "not of length 1: {length}");
        assert!(cosine(&embedding.values, &expected) > 0.99999);
    }
    let first = EmbeddingOptions { pooling: Some(Pooling::Cls), ..EmbeddingOptions::default() };
    let mut first = load(&bundle, EmbeddingInput::Text, 8, first);
    let of_first = embed(&mut first, &bundle, rows);
    assert!(cosine(&of_first[0].values, &numbers(&rows[0])) < 0.999, "the pooling differs");
}

fn cosine_length(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn without_modules_texts_are_mean_pooled() {
    let left_out =
        ["modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"];
    let folder = copy("minilm", &left_out);
    let bundle = open(folder.path());
    // Shorter than the limit, which is now the model's own.
    let rows = &rows("minilm")[..8];
    let mut embedder = load(&bundle, EmbeddingInput::Text, 8, EmbeddingOptions::default());
    for (row, embedding) in rows.iter().zip(embed(&mut embedder, &bundle, rows)) {
        assert!(cosine(&embedding.values, &numbers(row)) > 0.99999);
        assert!((cosine_length(&embedding.values) - 1.0).abs() > 0.01, "no module normalizes");
    }
}

#[test]
fn a_dense_module_follows_the_pooling() {
    let folder = copy("minilm", &[]);
    let dense = folder.path().join("2_Dense");
    fs::create_dir(&dense).unwrap();
    // Two of the 32 numbers: the first one doubled, and the last one plus 0.5.
    let mut weight = [0.0_f32; 64];
    (weight[0], weight[63]) = (2.0, 1.0);
    let bytes = |numbers: &[f32]| -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    };
    let header = r#"{"linear.weight":{"dtype":"F32","shape":[2,32],"data_offsets":[0,256]},"linear.bias":{"dtype":"F32","shape":[2],"data_offsets":[256,264]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend([header.as_bytes(), &bytes(&weight), &bytes(&[0.0, 0.5])].concat());
    write(&dense.join("model.safetensors"), &file);
    let config = r#"{"in_features": 32, "out_features": 2, "bias": true,
        "activation_function": "torch.nn.modules.activation.Tanh"}"#;
    write(&dense.join("config.json"), config.as_bytes());
    let module = |idx: usize, path: &str, kind: &str| {
        format!(
            r#"{{"idx": {idx}, "name": "{idx}", "path": "{path}", "type": "sentence_transformers.models.{kind}"}}"#
        )
    };
    let modules = [
        module(0, "", "Transformer"),
        module(1, "1_Pooling", "Pooling"),
        module(2, "2_Dense", "Dense"),
    ];
    write(&folder.path().join("modules.json"), format!("[{}]", modules.join(",")).as_bytes());

    let whole = bundle("minilm");
    let rows = &rows("minilm")[..4];
    let plain = EmbeddingOptions { normalize: Some(false), ..EmbeddingOptions::default() };
    let pooled = embed(&mut load(&whole, EmbeddingInput::Text, 4, plain), &whole, rows);
    let bundle = open(folder.path());
    assert_ne!(bundle.revision(), whole.revision(), "modules are part of the revision");
    let mut embedder = load(&bundle, EmbeddingInput::Text, 4, EmbeddingOptions::default());
    for (embedding, pooled) in embed(&mut embedder, &bundle, rows).iter().zip(pooled) {
        let expected = [(2.0 * pooled.values[0]).tanh(), (pooled.values[31] + 0.5).tanh()];
        assert!(difference(&embedding.values, &expected) < 1e-6, "{embedding:?}");
    }
    let config = config.replace("Tanh", "Mish");
    write(&dense.join("config.json"), config.as_bytes());
    let error = Bundle::open(&BundleSource::Directory(folder.path().to_owned())).unwrap_err();
    assert!(error.to_string().contains("Mish"), "{error}");
}

#[test]
fn all_module_formats_are_read_or_rejected_by_name() {
    let error_with = |file: &str, content: &str| {
        let folder = copy("minilm", &[]);
        write(&folder.path().join(file), content.as_bytes());
        let source = BundleSource::Directory(folder.path().to_owned());
        chain(&Bundle::open(&source).unwrap_err())
    };
    let modules = r#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_LSTM", "type": "sentence_transformers.models.LSTM"}]"#;
    assert!(error_with("modules.json", modules).contains("`LSTM`"));
    let pooling = "1_Pooling/config.json";
    let without_prompt = r#"{"pooling_mode": "mean", "include_prompt": false}"#;
    assert!(error_with(pooling, without_prompt).contains("include_prompt"));
    assert!(error_with(pooling, r#"{"pooling_mode": "middle"}"#).contains("middle"));

    // The newer form of the file, with two joined modes that a job may select individually.
    let folder = copy("minilm", &[]);
    write(&folder.path().join(pooling), br#"{"pooling_mode": ["max", "lasttoken"]}"#);
    let (whole, joined) = (bundle("minilm"), open(folder.path()));
    let rows = &rows("minilm")[..4];
    let plain = EmbeddingOptions { normalize: Some(false), ..EmbeddingOptions::default() };
    let asked = [Pooling::Max, Pooling::LastToken].map(|pooling| {
        let options = EmbeddingOptions { pooling: Some(pooling), ..plain.clone() };
        embed(&mut load(&whole, EmbeddingInput::Text, 4, options), &whole, rows)
    });
    let found = embed(&mut load(&joined, EmbeddingInput::Text, 4, plain), &joined, rows);
    for (row_idx, found) in found.iter().enumerate() {
        let expected = asked.each_ref().map(|of| of[row_idx].values.as_slice()).concat();
        assert!(difference(&found.values, &expected) < 1e-6, "{row_idx}");
    }
}

#[test]
fn a_failing_sample_does_not_affect_others() {
    let bundle = bundle("minilm");
    let rows = &rows("minilm")[..6];
    let mut embedder = load(&bundle, EmbeddingInput::Text, 8, EmbeddingOptions::default());
    let mut samples: Vec<_> =
        rows.iter().map(|row| embedder.processor.prepare(&record(&bundle, row)).unwrap()).collect();
    // A token outside the vocabulary: the graph rejects the whole batch.
    samples[2].token_ids[1] = 100_000;
    for (row_idx, result) in embedder.embed(&samples).into_iter().enumerate() {
        match result {
            Ok(embedding) => {
                assert!(cosine(&embedding.values, &numbers(&rows[row_idx])) > 0.99999);
                assert_ne!(row_idx, 2);
            }
            Err(error) => assert_eq!((row_idx, error.code()), (2, "runtime")),
        }
    }
}

#[test]
fn an_embedding_has_exactly_one_input() {
    let bundle = bundle("clip");
    let embedder = load(&bundle, EmbeddingInput::Image, 4, EmbeddingOptions::default());
    let image = RgbImage { width: 2, height: 1, pixels: vec![9; 6] };
    let several = Record { images: vec![image.clone(), image.clone()], ..Record::default() };
    assert_eq!(embedder.processor.prepare(&several).unwrap_err().code(), "not_one_thing");
    let both = Record { text: Some("x".to_owned()), images: vec![image], ..Record::default() };
    assert_eq!(embedder.processor.prepare(&both).unwrap_err().code(), "not_one_thing");
}

#[test]
fn unsupported_tasks_are_rejected() {
    let sentences = bundle("minilm");
    let error = sentences.supports(TaskKind::Caption).unwrap_err().to_string();
    assert!(
        error.contains("`minilm` does not support `caption`: it generates embeddings"),
        "{error}"
    );
    let runtime = runtime();
    let options = ModelOptions { device: device(), ..ModelOptions::default() };
    let error = Model::load(&runtime, &sentences, &options).unwrap_err();
    assert_eq!(error.code(), "task_unsupported");

    let writer = bundle("llama");
    let error = writer.supports(TaskKind::Embed).unwrap_err().to_string();
    assert!(error.contains("`llama` does not support `embed`: it generates texts"), "{error}");
    let error = Embedder::load(&runtime, &writer, &options, EmbeddingInput::Text).unwrap_err();
    assert_eq!(error.code(), "task_unsupported");
    let error = sentences.embedding_prompt(Some("poem")).unwrap_err().to_string();
    assert!(error.contains("`poem`") && error.contains("document, query"), "{error}");

    let pooled = EmbeddingOptions { pooling: Some(Pooling::Mean), ..EmbeddingOptions::default() };
    let options = ModelOptions { embedding: pooled, ..options };
    let error = Embedder::load(&runtime, &bundle("clip"), &options, EmbeddingInput::Text);
    assert!(matches!(error.unwrap_err(), ModelError::PooledInside { graph: "text_model" }));
}
