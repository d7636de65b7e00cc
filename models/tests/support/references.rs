//! The tiny bundles and their stored answers (`tests/references/make_bundles`), and how they are run.

use std::{collections::BTreeMap, fs, path::PathBuf};

use legenda_models::{
    Bundle, BundleSource, Generation, Model, ModelOptions, Prompt, Record, RgbImage, Runtime,
    RuntimeOptions,
};
use legenda_schemas::job::Device;
use serde_json::Value;

pub(crate) fn references() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/references"))
}

/// Reads a picture as the references do (Pillow's `convert("RGB")`).
pub(crate) fn picture(name: &str) -> RgbImage {
    let pixels = image::open(references().join("media").join(name)).unwrap().to_rgb8();
    let (width, height) = (pixels.width() as usize, pixels.height() as usize);
    RgbImage { width, height, pixels: pixels.into_raw() }
}

pub(crate) fn bundle(name: &str) -> PathBuf {
    references().join("bundles").join(name)
}

pub(crate) fn reference(name: &str) -> Value {
    let path = references().join("bundles").join(format!("{name}.json"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Loads a bundle with so many slots; answers are as long as those of the references.
pub(crate) fn load(bundle: PathBuf, slots: usize, options: ModelOptions) -> Model {
    let runtime = Runtime::open(&RuntimeOptions::from_env(), &|line| println!("{line}")).unwrap();
    let bundle = Bundle::open(&BundleSource::Directory(bundle)).unwrap();
    let mut options = ModelOptions { device: Device::Cpu, slots: Some(slots), ..options };
    options.generation.max_new_tokens = Some(24);
    Model::load(&runtime, &bundle, &options).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

/// Turns records into prompts.
pub(crate) fn encode(model: &mut Model, records: &[Record]) -> Vec<Prompt> {
    let samples = records.iter().map(|record| model.processor.prepare(record).unwrap()).collect();
    model.encoder.encode(samples).into_iter().map(Result::unwrap).collect()
}

/// Answers all prompts; they enter as slots fall free.
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

/// Holds an answer to a row of a reference.
pub(crate) fn assert_answer(answer: &Generation, row: &Value, place: &str) {
    assert_eq!(answer.token_ids, ids(&row["token_ids"]), "{place}");
    assert_eq!(answer.finish_reason.as_str(), row["finish"].as_str().unwrap(), "{place}");
    if let Some(logprob) = row["logprob_mean"].as_f64() {
        let own = f64::from(answer.logprob_mean);
        assert!((own - logprob).abs() < 1e-3, "{place}: {own}, expected {logprob}");
    }
}
