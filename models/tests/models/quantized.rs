//! Quantized graphs in the transformers.js layout, compared with ONNX Runtime running one row at a
//! time: with 1, 3 and 8 slots, for graphs that can be batched and graphs that cannot.
//!
//! 8-bit graphs scale activations over the whole batch, so that rows change each other's answers:
//! such graphs run rows alone. (Those of T5, Whisper and MiniLM are in `encoder_decoders.rs` and
//! `embeddings.rs`.)

use crate::references::{assert_rows, changed, load, read_image, reference};
use legenda_models::{ModelOptions, Record};
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
    assert_rows(&format!("{name} {run}"), folder.path(), &rows, record);
    let model = load(folder.path().to_owned(), 8, ModelOptions::default());
    assert_eq!(model.engine.slots(), rows_together, "{name} {run}");
    assert_eq!(model.info.slots, rows_together, "{name} {run}");
}

#[test]
fn llama_in_8_bits_runs_rows_alone() {
    assert_run("llama_quantized", "q8", &["model_quantized"], 1);
}

#[test]
fn llama_in_8_bits_in_place_runs_rows_alone() {
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
fn smolvlm_in_8_bits_runs_rows_alone() {
    let graphs =
        ["vision_encoder_quantized", "embed_tokens_quantized", "decoder_model_merged_quantized"];
    assert_run("smolvlm_quantized", "q8", &graphs, 1);
}

#[test]
fn an_8_bit_image_encoder_does_not_prevent_decoder_batches() {
    let graphs = ["vision_encoder_quantized", "embed_tokens_quantized", "decoder_model_merged_q4"];
    assert_run("smolvlm_quantized", "q8_q4", &graphs, 8);
}
