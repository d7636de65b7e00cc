//! Bundles in published layouts, run by the real binary.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs;

use legenda_tests::{
    PICTURE_JOB, TEXT_JOB, Workplace, pictures, png, repository, text_column, texts, write_table,
};
use serde_json::Value;

fn with_bundle(job: &str, name: &str) -> String {
    let bundle = repository().join("tests/references/bundles").join(name);
    let bundle = toml::Value::from(bundle.to_str().unwrap());
    format!("{job}[model]\nbundle = {bundle}\n[generation]\nmax_new_tokens = 24\n")
}

/// The questions of a reference that have no system message, and their answers.
fn reference(name: &str) -> Vec<(String, String)> {
    let path = repository().join(format!("tests/references/bundles/{name}.json"));
    let reference: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let rows = reference["rows"].as_array().unwrap().iter();
    rows.filter(|row| row["system"].is_null())
        .map(|row| (text(row, "text"), text(row, "answer")))
        .collect()
}

#[test]
fn a_directory_answers_as_its_reference() {
    for name in ["llama", "llama_gqa", "gemma3_text", "gpt2"] {
        let rows = reference(name);
        let place = Workplace::new();
        let questions: Vec<&str> = rows.iter().map(|(question, _)| question.as_str()).collect();
        write_table(&place.path("table.parquet"), &texts(&questions), 4);
        place.write("job.toml", &with_bundle(TEXT_JOB, name));
        let ended = place.run(&["run", "job.toml", "--set", "model.slots=3"]).expect(0);
        assert!(ended.stderr.contains(name), "the model is named: {}", ended.stderr);
        let answers = text_column(&place.answers("out"), "answer");
        let expected: Vec<_> = rows.into_iter().map(|(_, answer)| Some(answer)).collect();
        assert_eq!(answers, expected, "{name}");
    }
}

#[test]
fn a_text_model_does_not_caption() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &pictures(&[Some(png(9))]), 4);
    place.write("job.toml", &with_bundle(PICTURE_JOB, "llama"));
    let ended = place.run(&["check", "job.toml"]).expect(2);
    ended.complains_of(&["`llama` cannot do `caption`: it has no image input"]);
}

#[test]
fn an_architecture_that_cannot_be_run_is_named() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["x"]), 4);
    fs::create_dir(place.path("strange")).unwrap();
    place.write("strange/config.json", r#"{"architectures": ["StrangeModel"]}"#);
    place.write("job.toml", &format!("{TEXT_JOB}[model]\nbundle = \"strange\"\n"));
    let ended = place.run(&["check", "job.toml"]).expect(2);
    ended.complains_of(&["architecture `StrangeModel` is not supported"]);
}
