//! Quantized graphs as transformers.js publishes them, against ONNX Runtime that runs one row at a time:
//! with 1, 3 and 8 slots, whether a graph lets rows stand together or not.
//!
//! What is 8 bits scales activations by all that is in a run, so that rows beside each other change
//! each other's answers: such graphs get their rows alone. (T5's, Whisper's and MiniLM's
//! are in `encoder_decoders.rs` and `embeddings.rs`.)

use crate::references::{assert_rows, changed, load, picture, reference};
use legenda_models::{ModelOptions, Record};
use serde_json::Value;

fn record(row: &Value) -> Record {
    let text = |key: &str| row[key].as_str().map(str::to_owned);
    let images = row["images"].as_array().into_iter().flatten();
    Record {
        text: text("text"),
        system: text("system"),
        images: images.map(|name| picture(name.as_str().unwrap())).collect(),
        ..Record::default()
    }
}

/// Holds some graphs of a bundle to a run of its reference. Where 8 slots are asked for, so many rows
/// stand together.
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
fn llama_in_8_bits_has_its_rows_alone() {
    assert_run("llama_quantized", "q8", &["model_quantized"], 1);
}

#[test]
fn llama_in_8_bits_in_place_has_its_rows_alone() {
    assert_run("llama_gqa_quantized", "q8", &["model_quantized"], 1);
}

#[test]
fn llama_in_4_bits_has_its_rows_together() {
    assert_run("llama_quantized", "q4", &["model_q4"], 8);
}

#[test]
fn llama_in_4_bits_and_halves_has_its_rows_together() {
    assert_run("llama_quantized", "q4f16", &["model_q4f16"], 8);
}

#[test]
fn smolvlm_in_8_bits_has_its_rows_alone() {
    let graphs =
        ["vision_encoder_quantized", "embed_tokens_quantized", "decoder_model_merged_quantized"];
    assert_run("smolvlm_quantized", "q8", &graphs, 1);
}

#[test]
fn pictures_alone_do_not_keep_rows_of_the_decoder_apart() {
    let graphs = ["vision_encoder_quantized", "embed_tokens_quantized", "decoder_model_merged_q4"];
    assert_run("smolvlm_quantized", "q8_q4", &graphs, 8);
}
