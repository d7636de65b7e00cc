//! Answers of every family and dialect against those of Hugging Face transformers, token for token.
//!
//! The bundles are tiny and their weights random; `tests/references/make_bundles` makes them and the
//! answers. Rows of unequal length share the slots, and each number of slots must give the same.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use legenda_models::{
    Bundle, BundleSource, Generation, Model, ModelOptions, Record, Runtime, RuntimeOptions,
};
use legenda_schemas::job::Device;
use serde_json::Value;

fn references() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/references/bundles"))
}

fn reference(name: &str) -> Value {
    let text = fs::read_to_string(references().join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn load(bundle: PathBuf, slots: usize) -> Model {
    let runtime = Runtime::open(&RuntimeOptions::from_env(), &|line| println!("{line}")).unwrap();
    let bundle = Bundle::open(&BundleSource::Directory(bundle)).unwrap();
    let mut options =
        ModelOptions { device: Device::Cpu, slots: Some(slots), ..ModelOptions::default() };
    options.generation.max_new_tokens = Some(24);
    Model::load(&runtime, &bundle, &options).unwrap()
}

fn record(row: &Value) -> Record {
    let text = |key: &str| row[key].as_str().map(str::to_owned);
    Record { text: text("text"), system: text("system"), ..Record::default() }
}

fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

/// Answers all rows; they enter as slots fall free.
fn answers(model: &mut Model, rows: &[Value]) -> BTreeMap<usize, Generation> {
    let samples = rows.iter().map(|row| model.processor.prepare(&record(row)).unwrap()).collect();
    let mut waiting = model.encoder.encode(samples).into_iter().map(Result::unwrap).enumerate();
    let mut answers = BTreeMap::new();
    while answers.len() < rows.len() {
        while model.engine.free_slots() > 0 {
            let Some((row_idx, prompt)) = waiting.next() else { break };
            model.engine.admit(row_idx as u64, prompt, 0).unwrap();
        }
        for finished in model.engine.step() {
            answers.insert(usize::try_from(finished.ticket).unwrap(), finished.result.unwrap());
        }
    }
    answers
}

/// Holds a bundle to the rows of a reference.
fn assert_answers(name: &str, bundle: PathBuf, rows: &[Value]) {
    assert!(rows.len() >= 8, "{name}: too few rows to mean anything");
    for slots in [1, 3, 8] {
        let mut model = load(bundle.clone(), slots);
        for (row_idx, row) in rows.iter().enumerate() {
            let sample = model.processor.prepare(&record(row)).unwrap();
            assert_eq!(sample.token_ids, ids(&row["prompt_ids"]), "{name}: prompt {row_idx}");
        }
        for (row_idx, answer) in answers(&mut model, rows) {
            let (row, place) = (&rows[row_idx], format!("{name}, row {row_idx}, {slots} slots"));
            assert_eq!(answer.token_ids, ids(&row["token_ids"]), "{place}");
            assert_eq!(answer.finish_reason.as_str(), row["finish"].as_str().unwrap(), "{place}");
            if let Some(logprob) = row["logprob_mean"].as_f64() {
                assert!((f64::from(answer.logprob_mean) - logprob).abs() < 1e-3, "{place}");
            }
            if let Some(text) = row["answer"].as_str() {
                assert_eq!(answer.text, text, "{place}");
            }
        }
    }
}

fn assert_bundle(name: &str) {
    let reference = reference(name);
    assert_answers(name, references().join(name), reference["rows"].as_array().unwrap());
}

#[test]
fn llama_with_a_growing_cache() {
    assert_bundle("llama");
}

#[test]
fn qwen3_with_a_growing_cache() {
    assert_bundle("qwen3");
}

#[test]
fn mistral_with_a_growing_cache() {
    assert_bundle("mistral");
}

#[test]
fn gpt2_without_a_template() {
    assert_bundle("gpt2");
}

#[test]
fn gemma3_without_positions() {
    assert_bundle("gemma3_text");
}

#[test]
fn llama_with_grouped_query_attention_in_place() {
    assert_bundle("llama_gqa_hub");
}

#[test]
fn llama_as_onnxruntime_genai_lays_it_out() {
    assert_bundle("llama_gqa");
}

#[test]
fn llama_with_an_attention_bias() {
    assert_bundle("llama_bias");
}

#[test]
fn llama_as_transformers_exports_it() {
    assert_bundle("llama_native");
}

#[test]
fn llama_in_half_precision() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("onnx")).unwrap();
    let whole = references().join("llama");
    for file in fs::read_dir(&whole).unwrap().map(Result::unwrap) {
        if file.path().is_file() {
            fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
    }
    let graph = "onnx/model_fp16.onnx";
    fs::copy(whole.join(graph), folder.path().join(graph)).unwrap();
    let reference = reference("llama");
    // The prompts are the same; the answers are those of the same graph in f16.
    let mut rows = reference["rows"].as_array().unwrap().clone();
    for (row, half) in rows.iter_mut().zip(reference["rows_fp16"].as_array().unwrap()) {
        for key in ["token_ids", "finish", "logprob_mean", "answer"] {
            row[key] = half[key].clone();
        }
    }
    assert_answers("llama in f16", folder.path().to_owned(), &rows);
}
