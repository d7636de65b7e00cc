//! The tiny bundles and their stored answers (`tests/references/make_bundles`), and helpers to run
//! them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use legenda_models::{
    Bundle, BundleSource, Generation, Model, ModelOptions, Prompt, Record, RgbImage, Runtime,
    RuntimeOptions, Waveform,
};
use legenda_schemas::job::GraphForm;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use crate::{device::device, parity::Tally};

pub(crate) fn references() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/references"))
}

/// Reads an image like the references (Pillow's `convert("RGB")`).
pub(crate) fn read_image(name: &str) -> RgbImage {
    let pixels = image::open(references().join("media").join(name)).unwrap().to_rgb8();
    let (width, height) = (pixels.width() as usize, pixels.height() as usize);
    RgbImage { width, height, pixels: pixels.into_raw() }
}

/// Reads a 16-bit wave file with a 44-byte header; channels are averaged.
pub(crate) fn read_audio(name: &str) -> Waveform {
    let bytes = fs::read(references().join("media").join(name)).unwrap();
    let n_channels = usize::from(u16::from_le_bytes([bytes[22], bytes[23]]));
    let sample_rate_hz = u32::from_le_bytes(bytes[24..28].try_into().unwrap());
    let values: Vec<f32> = bytes[44..]
        .chunks_exact(2)
        .map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32768.0)
        .collect();
    let mean =
        |frame: &[f32]| frame.iter().sum::<f32>() / f32::from(u8::try_from(frame.len()).unwrap());
    Waveform { sample_rate_hz, samples: values.chunks_exact(n_channels).map(mean).collect() }
}

/// Reads 16 kHz wave files and joins them into one audio input.
pub(crate) fn read_joined_audio(names: &[&str]) -> Waveform {
    let samples = names.iter().flat_map(|name| read_audio(name).samples).collect();
    Waveform { sample_rate_hz: 16_000, samples }
}

pub(crate) fn bundle(name: &str) -> PathBuf {
    references().join("bundles").join(name)
}

pub(crate) fn reference(name: &str) -> Value {
    let path = references().join("bundles").join(format!("{name}.json"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Loads a bundle with this number of slots and the answer length of the references.
pub(crate) fn load(bundle: PathBuf, slots: usize, options: ModelOptions) -> Model {
    let runtime = Runtime::open(&RuntimeOptions::from_env(), &|line| println!("{line}")).unwrap();
    let bundle = Bundle::open(&BundleSource::Directory(bundle)).unwrap();
    let mut options = ModelOptions { device: device(), slots: Some(slots), ..options };
    options.generation.max_new_tokens.get_or_insert(24);
    Model::load(&runtime, &bundle, &options).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

/// Encodes records to prompts.
pub(crate) fn encode(model: &mut Model, records: &[Record]) -> Vec<Prompt> {
    let samples = records.iter().map(|record| model.processor.prepare(record).unwrap()).collect();
    model.encoder.encode(samples).into_iter().map(Result::unwrap).collect()
}

/// Answers all prompts; they enter as slots become free.
pub(crate) fn answers(model: &mut Model, prompts: Vec<Prompt>) -> Vec<Generation> {
    let n_prompts = prompts.len();
    let mut waiting = prompts.into_iter().enumerate();
    let mut answers = BTreeMap::new();
    while answers.len() < n_prompts {
        while model.engine.free_slots() > 0 {
            let Some((row_idx, prompt)) = waiting.next() else { break };
            model.engine.admit(row_idx as u64, prompt, 0).unwrap();
        }
        for finished in model.engine.step() {
            answers.insert(finished.ticket, finished.result.unwrap());
        }
    }
    answers.into_values().collect()
}

/// Compares an answer with a reference row.
pub(crate) fn assert_answer(answer: &Generation, row: &Value, context: &str) {
    assert_eq!(answer.token_ids, ids(&row["token_ids"]), "{context}");
    assert_eq!(answer.finish_reason.as_str(), row["finish"].as_str().unwrap(), "{context}");
    if let Some(logprob) = row["logprob_mean"].as_f64() {
        let own = f64::from(answer.logprob_mean);
        assert!((own - logprob).abs() < 1e-3, "{context}: {own}, expected {logprob}");
    }
}

/// Compares a bundle with the rows of a reference, for which `record` builds records, with 1, 3 and
/// 8 slots, with its published graphs and with rewritten ones.
pub(crate) fn assert_rows(
    name: &str,
    bundle: &Path,
    rows: &[Value],
    record: impl Fn(&Value) -> Record,
) {
    for graphs in [GraphForm::Published, GraphForm::Rewritten] {
        assert_form(graphs, name, bundle, rows, &record);
    }
}

/// Returns the numbers of slots to try.
pub(crate) fn slots_of(graphs: GraphForm) -> &'static [usize] {
    match graphs {
        GraphForm::Rewritten => &[1, 3, 8],
        GraphForm::Published => &[1, 8],
    }
}

/// Does the same with one form of the graphs.
pub(crate) fn assert_form(
    graphs: GraphForm,
    name: &str,
    bundle: &Path,
    rows: &[Value],
    record: impl Fn(&Value) -> Record,
) {
    assert!(rows.len() >= 8, "{name}: too few rows to mean anything");
    let records: Vec<Record> = rows.iter().map(record).collect();
    for slots in slots_of(graphs) {
        let options = ModelOptions { graphs, ..ModelOptions::default() };
        let mut model = load(bundle.to_owned(), *slots, options);
        let prompts = encode(&mut model, &records);
        for (row_idx, (prompt, row)) in prompts.iter().zip(rows).enumerate() {
            assert_eq!(prompt.token_ids(), ids(&row["prompt_ids"]), "{name}: prompt {row_idx}");
        }
        let start = Instant::now();
        let answers = answers(&mut model, prompts);
        let took = start.elapsed();
        for (row_idx, (answer, row)) in answers.iter().zip(rows).enumerate() {
            let context = format!("{name}, row {row_idx}, {slots} slots, {graphs:?}");
            assert_answer(answer, row, &context);
            if let Some(text) = row["answer"].as_str() {
                assert_eq!(answer.text, text, "{context}");
            }
        }
        // The rewritten form comes last.
        if *slots == 8 {
            let mut tally = Tally::default();
            let n_tokens = answers.iter().map(|answer| answer.token_ids.len()).sum();
            tally.add(answers.len(), n_tokens, took);
            tally.note(name, bundle, "tokens");
        }
    }
}

/// Returns rows with the answers under `key`, made with graphs of another precision.
pub(crate) fn rows_with_answers_of(reference: &Value, key: &str) -> Vec<Value> {
    let mut rows = reference["rows"].as_array().unwrap().clone();
    for (row, other) in rows.iter_mut().zip(reference[key].as_array().unwrap()) {
        for key in ["token_ids", "finish", "logprob_mean", "answer"] {
            row[key] = other[key].clone();
        }
    }
    rows
}

/// Copies a bundle and applies `change` to each file; files that become `None` are left out.
pub(crate) fn changed(name: &str, change: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>) -> TempDir {
    let (whole, folder) = (bundle(name), tempfile::tempdir().unwrap());
    let mut inners = vec![PathBuf::new()];
    while let Some(inner) = inners.pop() {
        for entry in fs::read_dir(whole.join(&inner)).unwrap().map(Result::unwrap) {
            let path = inner.join(entry.file_name());
            if entry.path().is_dir() {
                fs::create_dir(folder.path().join(&path)).unwrap();
                inners.push(path);
                continue;
            }
            let content = fs::read(entry.path()).unwrap();
            if let Some(content) = change(path.to_str().unwrap(), content) {
                File::create(folder.path().join(path)).unwrap().write_all(&content).unwrap();
            }
        }
    }
    folder
}

/// Copies a bundle and applies `change` to one of its JSON files.
pub(crate) fn with_json(name: &str, json: &str, change: impl Fn(&mut Value)) -> TempDir {
    changed(name, |file, content| {
        if file != json {
            return Some(content);
        }
        let mut value = serde_json::from_slice(&content).unwrap();
        change(&mut value);
        Some(serde_json::to_vec(&value).unwrap())
    })
}
