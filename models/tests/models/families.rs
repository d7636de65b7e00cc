//! Answers of every family and dialect, compared token for token with Hugging Face transformers.
//!
//! The bundles are tiny with random weights; `tests/references/make_bundles` makes them and the
//! reference answers. Rows of different length share the slots, and every number of slots must give
//! the same answers.

use crate::references::{
    answers, assert_rows, bundle, changed, encode, load, reference, rows_with_answers_of,
};
use legenda_models::{Bundle, BundleSource, Model, ModelOptions, Record, Runtime, RuntimeOptions};
use legenda_schemas::job::{GenerationOptions, GraphForm};
use serde_json::Value;

fn record(row: &Value) -> Record {
    let text = |key: &str| row[key].as_str().map(str::to_owned);
    Record { text: text("text"), system: text("system"), ..Record::default() }
}

fn assert_bundle(name: &str) {
    let reference = reference(name);
    assert_rows(name, &bundle(name), reference["rows"].as_array().unwrap(), record);
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
fn llama_in_the_onnxruntime_genai_layout() {
    assert_bundle("llama_gqa");
}

#[test]
fn llama_with_an_attention_bias() {
    assert_bundle("llama_bias");
}

#[test]
fn llama_exported_by_transformers() {
    assert_bundle("llama_native");
}

#[test]
fn llama_in_half_precision() {
    let half = |file: &str| !file.ends_with(".onnx") || file == "onnx/model_fp16.onnx";
    let folder = changed("llama", |file, content| half(file).then_some(content));
    // The prompts are the same; the answers are those of the same graph in fp16.
    let rows = rows_with_answers_of(&reference("llama"), "rows_fp16");
    assert_rows("llama in f16", folder.path(), &rows, record);
}

#[test]
fn decoders_are_rewritten_where_a_pattern_matches() {
    let (in_place, cross) = ("in-place cache", "cross-attention once per row");
    let (per_token, fused_cross) = ("one int8 scale per token", "fused cross-attention");
    let cases: [(&str, &[&str]); 22] = [
        ("llama", &[in_place]),
        ("qwen3", &[in_place]),
        ("mistral", &[in_place]),
        ("gpt2", &[in_place]),
        ("gemma3_text", &[in_place]),
        ("smolvlm", &[in_place]),
        ("qwen2_vl", &[in_place]),
        ("llava", &[in_place]),
        ("vit_gpt2", &[cross, fused_cross]),
        ("whisper", &["fused attention", fused_cross]),
        ("whisper_quantized", &[per_token, fused_cross]),
        ("t5_quantized", &[per_token, fused_cross]),
        ("t5", &[fused_cross]),
        ("bart", &[fused_cross]),
        ("marian", &[fused_cross]),
        ("donut", &[fused_cross]),
        ("moonshine", &[fused_cross]),
        ("llama_gqa_quantized", &[per_token]),
        // A prompt that attends to itself in both directions, a sliding window that the config does
        // not name, and graphs that are in place already.
        ("paligemma", &[]),
        ("gemma3_genai", &[]),
        ("llama_gqa", &[]),
        ("llama_native", &[]),
    ];
    for (name, expected) in cases {
        let rewritings = |graphs| {
            let options = ModelOptions { graphs, ..ModelOptions::default() };
            load(bundle(name), 2, options).info.rewritings
        };
        assert_eq!(rewritings(GraphForm::Rewritten), expected, "{name}");
        assert!(rewritings(GraphForm::Published).is_empty(), "{name}");
    }
}

#[test]
fn rows_that_share_a_cache_answer_as_with_slots_of_their_own() {
    let reference = reference("llama");
    let records: Vec<Record> = reference["rows"].as_array().unwrap().iter().map(record).collect();
    let generation = GenerationOptions { max_new_tokens: Some(90), ..Default::default() };
    // A position takes 512 bytes, so four rows of 128 positions fit, or two of 256.
    let run = |slots: Option<usize>, kv_bytes_max| {
        let runtime = Runtime::open(&RuntimeOptions::from_env(), &|_| {}).unwrap();
        let opened = Bundle::open(&BundleSource::Directory(bundle("llama"))).unwrap();
        let generation = generation.clone();
        let options = ModelOptions { slots, kv_bytes_max, generation, ..ModelOptions::default() };
        let mut model = Model::load(&runtime, &opened, &options).unwrap();
        let prompts = encode(&mut model, &records);
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.n_tokens() + 90).collect();
        let answers = answers(&mut model, prompts).into_iter().map(|answer| answer.token_ids);
        (model.info.slots, lengths, answers.collect::<Vec<_>>())
    };
    let (slots, lengths, expected) = run(Some(3), None);
    assert_eq!(slots, 3);
    let is_long = |length: &usize| *length > 128;
    assert!(lengths.iter().any(is_long) && !lengths.iter().all(is_long), "{lengths:?}");
    for kv_bytes_max in [1, 300_000, 600_000, 100_000_000] {
        let (slots, _, answers) = run(None, Some(kv_bytes_max));
        assert_eq!(slots, 32);
        assert_eq!(answers, expected, "{kv_bytes_max} bytes");
    }
}
