//! Generation configs of bundles, compared with Hugging Face transformers: penalties, forbidden and
//! forced tokens, length limits, beams (`tests/references/decoding_rules.json`).

use std::{fs, path::Path};

use crate::references::{self, answers, device, encode, ids, reference, with_json};
use legenda_models::{
    Bundle, BundleSource, Model, ModelError, ModelOptions, Record, Runtime, RuntimeOptions,
};
use legenda_schemas::job::GenerationOptions;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Copies a bundle and overrides keys of its generation config.
fn copy_bundle(name: &str, generation_config: &Value) -> TempDir {
    with_json(name, "generation_config.json", |config| {
        if generation_config.get("max_length").is_some() {
            config.as_object_mut().unwrap().remove("max_new_tokens");
        }
        for (key, value) in generation_config.as_object().unwrap() {
            config[key] = value.clone();
        }
    })
}

fn load(bundle: &Path, slots: usize, generation: GenerationOptions) -> Result<Model, ModelError> {
    let runtime = Runtime::open(&RuntimeOptions::from_env(), &|line| println!("{line}")).unwrap();
    let bundle = Bundle::open(&BundleSource::Directory(bundle.to_owned()))?;
    let options = ModelOptions {
        device: device(),
        slots: Some(slots),
        generation,
        ..ModelOptions::default()
    };
    Model::load(&runtime, &bundle, &options)
}

fn records(rows: &[Value]) -> Vec<Record> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let record = |row: &Value| Record {
        text: text(&row["text"]),
        system: text(&row["system"]),
        ..Record::default()
    };
    rows.iter().map(record).collect()
}

/// Compares a bundle with all reference cases for the same weights.
fn assert_cases(name: &str, weights: &str) {
    let path = references::references().join("decoding_rules.json");
    let cases: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let records = records(reference(weights)["rows"].as_array().unwrap());
    let cases = cases["rows"].as_array().unwrap().iter().filter(|case| case["bundle"] == weights);
    let mut n_cases = 0;
    for case in cases {
        n_cases += 1;
        let config = &case["generation_config"];
        let folder = copy_bundle(name, config);
        let expected = case["token_ids"].as_array().unwrap();
        let has_limit =
            ["max_new_tokens", "max_length"].iter().any(|key| config.get(key).is_some());
        let generation = GenerationOptions {
            // The limit of all references.
            max_new_tokens: (!has_limit).then_some(24),
            ..GenerationOptions::default()
        };
        for slots in [1, 8] {
            let mut model = load(folder.path(), slots, generation.clone()).unwrap();
            // A row without a reference is rejected by transformers, or depends on rounding.
            let rows: Vec<_> = records.iter().zip(expected).filter(|(_, e)| !e.is_null()).collect();
            let records: Vec<Record> = rows.iter().map(|(record, _)| (*record).clone()).collect();
            let prompts = encode(&mut model, &records);
            for (answer, (record, expected)) in answers(&mut model, prompts).iter().zip(rows) {
                let context = format!("{name}, {config}, {slots} slots, {:?}", record.text);
                assert_eq!(answer.token_ids, ids(expected), "{context}");
            }
        }
    }
    assert!(n_cases >= 3, "{weights} has no cases");
}

#[test]
fn all_rules_match_with_a_growing_cache() {
    assert_cases("llama", "llama");
}

#[test]
fn all_rules_match_with_an_in_place_cache() {
    assert_cases("llama_gqa_hub", "llama");
}

#[test]
fn all_rules_match_without_row_moves() {
    assert_cases("llama_bias", "llama");
}

#[test]
fn beams_match_with_cross_attention() {
    assert_cases("bart", "bart");
    assert_cases("marian", "marian");
}

#[test]
fn the_job_overrides_the_bundle() {
    let folder = copy_bundle("llama", &json!({"do_sample": true, "temperature": 5.0}));
    let llama = reference("llama");
    let rows = llama["rows"].as_array().unwrap();
    let answers_with = |generation: GenerationOptions| {
        let mut model = load(folder.path(), 4, generation).unwrap();
        let prompts = encode(&mut model, &records(rows));
        answers(&mut model, prompts)
    };
    let greedy = answers_with(GenerationOptions { temperature: Some(0.0), ..Default::default() });
    for (answer, row) in greedy.iter().zip(rows) {
        assert_eq!(answer.token_ids, ids(&row["token_ids"]));
    }
    let drawn = answers_with(GenerationOptions::default());
    assert!(drawn.iter().zip(&greedy).any(|(a, b)| a.token_ids != b.token_ids));
}

#[test]
fn a_too_long_prompt_fails_only_its_row() {
    let folder = copy_bundle("llama", &json!({"max_length": 70}));
    let mut model = load(folder.path(), 1, GenerationOptions::default()).unwrap();
    let llama = reference("llama");
    // Row 9 has 301 tokens.
    let prompt = encode(&mut model, &records(&llama["rows"].as_array().unwrap()[9..])).remove(0);
    model.engine.admit(0, prompt, 0).unwrap();
    let error = model.engine.step().remove(0).result.unwrap_err();
    assert_eq!(error.to_string(), "prompt too long: 301 tokens, at most 69 fit the context");
}

#[test]
fn unsupported_options_are_named() {
    let folder = copy_bundle("llama", &json!({"typical_p": 0.5}));
    let error = load(folder.path(), 1, GenerationOptions::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("unsupported `typical_p` = `0.5` in `generation_config.json`")
    );

    let folder = copy_bundle("llama", &json!({"num_beams": 3, "do_sample": true}));
    let error = load(folder.path(), 1, GenerationOptions::default()).unwrap_err();
    assert_eq!(error.code(), "beams_draw");
}
