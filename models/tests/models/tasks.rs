//! Florence-2 tasks on images, compared with Hugging Face transformers: the tokens and the parsed
//! answers, with 1, 3 and 8 slots.

use std::time::Instant;

use crate::references::{
    self, Tally, answers, assert_answer, bundle, changed, encode, ids, load, read_image, reference,
    with_json,
};
use legenda_models::{Bundle, BundleSource, Model, ModelOptions, Record};
use legenda_schemas::job::{GenerationOptions, TaskKind};
use serde_json::Value;

const NAME: &str = "florence2";

/// The number of image features in the tiny bundle.
const IMAGE_TOKENS: usize = 37;

fn record(row: &Value) -> Record {
    Record {
        text: row["prompt"].as_str().map(str::to_owned),
        images: vec![read_image(row["image"].as_str().unwrap())],
        ..Record::default()
    }
}

fn rows() -> Vec<Value> {
    let rows = reference(NAME)["rows"].as_array().unwrap().clone();
    assert!(rows.len() >= 8, "too few rows to mean anything");
    rows
}

fn assert_answers(model: &mut Model, rows: &[Value], tally: &mut Tally) {
    let records: Vec<Record> = rows.iter().map(record).collect();
    for (row_idx, (record, row)) in records.iter().zip(rows).enumerate() {
        let sample = model.processor.prepare(record).unwrap();
        assert_eq!(sample.token_ids, ids(&row["prompt_ids"]), "row {row_idx}");
    }
    let prompts = encode(model, &records);
    let slots = model.engine.slots();
    let start = Instant::now();
    let found = answers(model, prompts);
    let n_tokens = found.iter().map(|answer| answer.token_ids.len()).sum();
    tally.add(found.len(), n_tokens, start.elapsed());
    for (row_idx, (answer, row)) in found.iter().zip(rows).enumerate() {
        let context = format!("row {row_idx}, {slots} slots");
        assert_answer(answer, row, &context);
        let n_prompt_tokens = ids(&row["prompt_ids"]).len() + IMAGE_TOKENS + 1;
        assert_eq!(answer.n_prompt_tokens, n_prompt_tokens, "{context}");
        assert_eq!(answer.text, row["answer"].as_str().unwrap(), "{context}");
    }
}

#[test]
fn tasks_become_prompts_and_answers_become_locations() {
    let rows = rows();
    for slots in [1, 3, 8] {
        let mut tally = Tally::default();
        let mut model = load(bundle(NAME), slots, ModelOptions::default());
        assert_answers(&mut model, &rows, &mut tally);
        if slots == 8 {
            tally.note(NAME, &bundle(NAME), "tokens");
        }
    }
    let located = rows.iter().filter(|row| row["answer"].as_str().unwrap().contains("[["));
    assert!(located.count() >= 4, "too few answers have locations");
}

#[test]
fn three_beams_as_in_the_published_config() {
    let rows = rows();
    let generation = GenerationOptions { num_beams: Some(3), ..GenerationOptions::default() };
    let options = ModelOptions { generation, ..ModelOptions::default() };
    let mut model = load(bundle(NAME), 3, options);
    let records: Vec<Record> = rows.iter().map(record).collect();
    let prompts = encode(&mut model, &records);
    for (row_idx, (answer, row)) in answers(&mut model, prompts).iter().zip(&rows).enumerate() {
        assert_eq!(answer.token_ids, ids(&row["beams"]), "row {row_idx}");
    }
}

/// The tasks may be in the transformers.js file, as in the bundle, or only in the code of
/// transformers.
#[test]
fn a_bundle_without_tasks_uses_those_of_transformers() {
    let folder = with_json(NAME, "preprocessor_config.json", |config| {
        let keys = config.as_object_mut().unwrap();
        keys.retain(|key, _| !key.starts_with("task"));
    });
    let mut model = load(folder.path().to_owned(), 3, ModelOptions::default());
    assert_answers(&mut model, &rows(), &mut Tally::default());
}

#[test]
fn a_decoder_with_two_graphs_is_found() {
    let folder = changed(NAME, |file, content| {
        (file != "onnx/decoder_model_merged.onnx").then_some(content)
    });
    let error = Bundle::open(&BundleSource::Directory(folder.path().to_owned())).unwrap_err();
    assert_eq!(error.code(), "bundle_file_missing");
}

#[test]
fn unsupported_tasks_are_rejected() {
    let bundle = Bundle::open(&BundleSource::Directory(bundle(NAME))).unwrap();
    assert_eq!(bundle.default_prompt(TaskKind::Caption), Some("<CAPTION>"));
    let model = load(references::bundle(NAME), 1, ModelOptions::default());
    let asked = |text: &str, images: &[&str]| {
        let images = images.iter().map(|name| read_image(name)).collect();
        let record = Record { text: Some(text.to_owned()), images, ..Record::default() };
        model.processor.prepare(&record).unwrap_err()
    };
    let error = asked("<OD> of the left half", &["disc-120x90.png"]);
    assert_eq!(error.code(), "task_not_alone");
    assert!(error.to_string().contains("`<OD>`"), "{error}");
    assert_eq!(asked("<OD>", &[]).code(), "media_count");
}
