//! Quantized graphs in the transformers.js layout, compared with ONNX Runtime running one row at a
//! time: with 1, 3 and 8 slots, for graphs that can be batched and graphs that cannot.
//!
//! 8-bit graphs scale activations over the whole batch, so that rows change each other's answers:
//! such graphs run rows alone, unless they are rewritten to scale each token. (Those of T5, Whisper and MiniLM are in `encoder_decoders.rs` and
//! `embeddings.rs`.)

use crate::references::{
    answers, assert_form, assert_rows, changed, encode, load, read_image, reference,
};
use legenda_models::{ModelOptions, Record};
use legenda_schemas::job::GraphForm;
use serde_json::Value;

fn record(row: &Value) -> Record {
    let text = |key: &str| row[key].as_str().map(str::to_owned);
    let images = row["images"].as_array().into_iter().flatten();
    Record {
        text: text("text"),
        system: text("system"),
        images: images.map(|name| read_image(name.as_str().unwrap())).collect(),
        ..Record::default()
    }
}

/// Compares some graphs of a bundle with a run of its reference. With 8 requested slots,
/// `rows_together` rows are batched.
fn assert_run(name: &str, run: &str, graphs: &[&str], rows_together: usize) {
    let is_wanted = |file: &str| {
        let graph = file.strip_prefix("onnx/").and_then(|file| file.strip_suffix(".onnx"));
        graph.is_none_or(|graph| graphs.contains(&graph))
    };
    let folder = changed(name, |file, content| is_wanted(file).then_some(content));
    let reference = reference(name);
    let rows = reference["rows"].as_array().unwrap().iter();
    let rows: Vec<Value> = rows.filter(|row| row["run"] == run).cloned().collect();
    let context = format!("{name} {run}");
    let open = |slots, graphs| {
        load(folder.path().to_owned(), slots, ModelOptions { graphs, ..ModelOptions::default() })
    };
    let published = open(8, GraphForm::Published);
    assert_eq!(published.engine.slots(), rows_together, "{context}");
    assert_eq!(published.info.slots, rows_together, "{context}");
    let rewritten = open(8, GraphForm::Rewritten);
    if !rewritten.info.rewritings.contains(&PER_TOKEN) {
        return assert_rows(&context, folder.path(), &rows, record);
    }
    // Other scales give other answers, but they do not depend on other rows.
    assert_form(GraphForm::Published, &context, folder.path(), &rows, record);
    assert_eq!(rewritten.engine.slots(), 8, "{context}");
    let records: Vec<Record> = rows.iter().map(record).collect();
    let run = |slots| {
        let mut model = open(slots, GraphForm::Rewritten);
        let prompts = encode(&mut model, &records);
        let answers = answers(&mut model, prompts).into_iter().map(|answer| answer.token_ids);
        answers.collect::<Vec<_>>()
    };
    let alone = run(1);
    assert_eq!(alone, run(3), "{context}");
    assert_eq!(alone, run(8), "{context}");
}

const PER_TOKEN: &str = "one int8 scale per token";

#[test]
fn llama_in_8_bits_runs_rows_alone_unless_rewritten() {
    assert_run("llama_quantized", "q8", &["model_quantized"], 1);
}

#[test]
fn llama_in_8_bits_in_place_runs_rows_alone_unless_rewritten() {
    assert_run("llama_gqa_quantized", "q8", &["model_quantized"], 1);
}

#[test]
fn llama_in_4_bits_batches_rows() {
    assert_run("llama_quantized", "q4", &["model_q4"], 8);
}

#[test]
fn llama_in_4_bits_and_fp16_batches_rows() {
    assert_run("llama_quantized", "q4f16", &["model_q4f16"], 8);
}

#[test]
fn smolvlm_in_8_bits_runs_rows_alone_unless_rewritten() {
    let graphs =
        ["vision_encoder_quantized", "embed_tokens_quantized", "decoder_model_merged_quantized"];
    assert_run("smolvlm_quantized", "q8", &graphs, 1);
}

#[test]
fn an_8_bit_image_encoder_does_not_prevent_decoder_batches() {
    let graphs = ["vision_encoder_quantized", "embed_tokens_quantized", "decoder_model_merged_q4"];
    assert_run("smolvlm_quantized", "q8_q4", &graphs, 8);
}
