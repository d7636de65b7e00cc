//! Bundles in published layouts, run by the real binary.

use std::fs;

use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, image_table, png,
    references::{REFERENCE_LENGTH, bundle, questions, with_bundle},
    text_column, texts, write_table,
};

#[test]
fn bundle_folders_reproduce_their_reference_answers() {
    for name in ["llama", "llama_gqa", "gemma3_text", "gpt2"] {
        let (questions, expected) = questions(name);
        let place = Workplace::new();
        let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
        write_table(&place.path("table.parquet"), &texts(&questions), 4);
        place.write("job.toml", &format!("{}{REFERENCE_LENGTH}", with_bundle(TEXT_JOB, name)));
        let ended = place.run(&["run", "job.toml", "--set", "model.slots=3"]).expect(0);
        assert!(ended.stderr.contains(name), "the model is named: {}", ended.stderr);
        let answers = text_column(&place.answers("out"), "answer");
        assert_eq!(answers, expected, "{name}");
    }
}

/// onnxruntime-genai builders before 0.5 named graphs after the model.
#[test]
fn genai_graphs_may_have_any_name() {
    let (questions, expected) = questions("llama_gqa");
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&questions), 4);
    fs::create_dir(place.path("phi")).unwrap();
    for file in fs::read_dir(bundle("llama_gqa")).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().to_string_lossy().into_owned();
        let name = if name == "model.onnx" { "phi-cpu-int4.onnx" } else { &name };
        fs::copy(file.path(), place.path("phi").join(name)).unwrap();
    }
    let config = fs::read_to_string(bundle("llama_gqa").join("genai_config.json")).unwrap();
    let named = |file: &str| {
        assert!(config.contains("\"model.onnx\""));
        place.write("phi/genai_config.json", &config.replace("model.onnx", file));
    };
    named("phi-cpu-int4.onnx");
    place.write("job.toml", &format!("{TEXT_JOB}{REFERENCE_LENGTH}[model]\nbundle = \"phi\"\n"));
    let _whole = place.run(&["run", "job.toml"]).expect(0);
    assert_eq!(text_column(&place.answers("out"), "answer"), expected);
    for (file, problem) in
        [("none.onnx", "`none.onnx`"), ("../phi/phi-cpu-int4.onnx", "resolves outside the bundle")]
    {
        named(file);
        place.run(&["check", "job.toml"]).expect(2).stderr_contains(&[problem]);
    }
}

#[test]
fn a_text_model_cannot_caption() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &image_table(&[Some(png(9))]), 4);
    place.write("job.toml", &with_bundle(IMAGE_JOB, "llama"));
    let ended = place.run(&["check", "job.toml"]).expect(2);
    ended.stderr_contains(&["`llama` does not support `caption`: it has no image input"]);
}

#[test]
fn an_unsupported_architecture_is_named() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["x"]), 4);
    fs::create_dir(place.path("strange")).unwrap();
    place.write("strange/config.json", r#"{"architectures": ["StrangeModel"]}"#);
    place.write("job.toml", &format!("{TEXT_JOB}[model]\nbundle = \"strange\"\n"));
    let ended = place.run(&["check", "job.toml"]).expect(2);
    ended.stderr_contains(&["unsupported architecture `StrangeModel`"]);
}
