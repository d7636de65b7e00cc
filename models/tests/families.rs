//! Answers of every family and dialect against those of Hugging Face transformers, token for token.
//!
//! The bundles are tiny and their weights random; `tests/references/make_bundles` makes them and the
//! answers. Rows of unequal length share the slots, and each number of slots must give the same.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

#[path = "support/parity.rs"]
mod parity;
#[expect(dead_code, reason = "each test file uses some of what they share")]
#[path = "support/references.rs"]
mod references;

use std::{fs, path::PathBuf, time::Instant};

use legenda_models::{ModelOptions, Record};
use parity::Tally;
use references::{answers, assert_answer, bundle, encode, ids, load, reference};
use serde_json::Value;

fn record(row: &Value) -> Record {
    let text = |key: &str| row[key].as_str().map(str::to_owned);
    Record { text: text("text"), system: text("system"), ..Record::default() }
}

/// Holds a bundle to the rows of a reference.
fn assert_answers(name: &str, bundle: PathBuf, rows: &[Value]) {
    assert!(rows.len() >= 8, "{name}: too few rows to mean anything");
    let records: Vec<Record> = rows.iter().map(record).collect();
    for slots in [1, 3, 8] {
        let mut model = load(bundle.clone(), slots, ModelOptions::default());
        let prompts = encode(&mut model, &records);
        for (row_idx, (prompt, row)) in prompts.iter().zip(rows).enumerate() {
            assert_eq!(prompt.token_ids(), ids(&row["prompt_ids"]), "{name}: prompt {row_idx}");
        }
        let start = Instant::now();
        let answers = answers(&mut model, prompts);
        let took = start.elapsed();
        for (row_idx, (answer, row)) in answers.iter().zip(rows).enumerate() {
            let place = format!("{name}, row {row_idx}, {slots} slots");
            assert_answer(answer, row, &place);
            if let Some(text) = row["answer"].as_str() {
                assert_eq!(answer.text, text, "{place}");
            }
        }
        if slots == 8 {
            let mut tally = Tally::default();
            let n_tokens = answers.iter().map(|answer| answer.token_ids.len()).sum();
            tally.add(answers.len(), n_tokens, took);
            tally.note(name, &bundle, "tokens");
        }
    }
}

fn assert_bundle(name: &str) {
    let reference = reference(name);
    assert_answers(name, bundle(name), reference["rows"].as_array().unwrap());
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
    let whole = bundle("llama");
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
