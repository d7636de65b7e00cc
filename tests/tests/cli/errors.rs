//! What is wrong is told before a row is read: the key, the place, the mend, and exit code 2.

use legenda_tests::{PICTURE_JOB, TEXT_JOB, Workplace, ended, pictures, png, texts, write_table};

fn workplace() -> Workplace {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["What is dog in German?"]), 10);
    place
}

/// Checks that a job is refused by `legenda check` and `legenda run` alike, and nothing is written.
fn refused(place: &Workplace, job: &str, args: &[&str], texts: &[&str]) {
    place.write("job.toml", job);
    for command in ["check", "run"] {
        let all: Vec<&str> = [command, "job.toml"].iter().chain(args).copied().collect();
        place.run(&all).expect(2).complains_of(texts);
        assert!(!place.path("out").is_dir(), "`{command}` wrote to the output");
    }
}

#[test]
fn a_missing_job_file_is_named() {
    workplace().run(&["run", "none.toml"]).expect(2).complains_of(&["none.toml"]);
}

#[test]
fn unknown_keys_and_wrong_types_are_shown() {
    let place = workplace();
    refused(&place, &TEXT_JOB.replace("kind", "knid"), &[], &["knid", "line 4", "schema job"]);
    refused(&place, &TEXT_JOB.replace("\"generate\"", "7"), &[], &["line 4", "kind"]);
    refused(&place, &TEXT_JOB.replace("\"generate\"", "\"sing\""), &[], &["sing", "caption"]);
    refused(&place, "version = 1\n[task", &[], &["line 2"]);
    refused(&place, &TEXT_JOB.replace("version = 1", "version = 9"), &[], &["`version`", "1"]);
}

#[test]
fn wrong_overrides_are_named() {
    let place = workplace();
    refused(&place, TEXT_JOB, &["--set", "model.slots=many"], &["`model.slots`"]);
    refused(&place, TEXT_JOB, &["--set", "model.slots"], &["key=value"]);
    refused(&place, TEXT_JOB, &["--set", "limits.memory=much"], &["limits.memory", "GiB"]);
}

#[test]
fn missing_files_and_columns_are_named() {
    let place = workplace();
    refused(&place, &TEXT_JOB.replace("table.", "other."), &[], &["source.paths", "other.parquet"]);
    refused(
        &place,
        &TEXT_JOB.replace("\"question\"", "\"ask\""),
        &[],
        &["source.columns.text", "`ask`", "`question`"],
    );
    refused(
        &place,
        TEXT_JOB,
        &["--set", "output.columns=[\"size\"]"],
        &["output.columns", "`size`"],
    );
    place.write("broken.parquet", "no parquet at all");
    refused(&place, &TEXT_JOB.replace("table.", "broken."), &[], &["broken.parquet", "replace it"]);
}

#[test]
fn a_column_of_the_wrong_type_is_named() {
    let place = workplace();
    write_table(&place.path("table.parquet"), &pictures(&[Some(png(1))]), 10);
    let job = TEXT_JOB.replace("\"question\"", "\"image\"");
    refused(&place, &job, &[], &["source.columns.text", "`image`", "Binary", "expected text"]);
}

#[test]
fn bad_templates_are_named() {
    let place = workplace();
    let with = |prompt: &str| format!("task.prompt={prompt}");
    refused(&place, TEXT_JOB, &["--set", &with("Say {{ question")], &["task.prompt"]);
    refused(
        &place,
        TEXT_JOB,
        &["--set", &with("Say {{ mood }}")],
        &["task.prompt", "`mood`", "`id`"],
    );
}

#[test]
fn models_that_cannot_be_used_are_named() {
    let place = workplace();
    refused(&place, TEXT_JOB, &["--set", "model.bundle=nowhere"], &["model.bundle", "nowhere"]);
    std::fs::create_dir(place.path("llama")).unwrap();
    let config = r#"{"model_type": "mamba", "architectures": ["MambaForCausalLM"]}"#;
    place.write("llama/config.json", config);
    refused(&place, TEXT_JOB, &["--set", "model.bundle=llama"], &["MambaForCausalLM"]);
}

#[test]
fn a_task_without_its_column_is_named() {
    let place = workplace();
    let job = TEXT_JOB.replace("generate", "caption");
    refused(&place, &job, &[], &["source.columns.image", "caption"]);
}

#[test]
fn the_output_may_not_hold_the_input() {
    let place = workplace();
    place.write("job.toml", TEXT_JOB);
    let args = ["run", "job.toml", "--set", "output.path=."];
    place.run(&args).expect(2).complains_of(&["output.path", "table.parquet"]);
}

#[test]
fn a_device_that_is_not_there_is_an_error_not_a_fallback() {
    let place = workplace();
    place.write("job.toml", TEXT_JOB);
    let args = ["run", "job.toml", "--set", "model.device=cuda"];
    // On a machine with CUDA the run simply works.
    let ended = place.run(&args);
    if ended.code != Some(0) {
        ended.expect(2).complains_of(&["CUDA is not available", "no CUDA device was found"]);
        place
            .run(&["check", args[1], args[2], args[3]])
            .expect(2)
            .complains_of(&["CUDA is not available"]);
    }
}

#[test]
fn a_memory_limit_below_the_model_is_refused_with_what_would_do() {
    let place = workplace();
    place.write("job.toml", TEXT_JOB);
    let args = ["run", "job.toml", "--set", "limits.memory=8MiB"];
    place.run(&args).expect(2).complains_of(&["limits.memory", "set it to at least"]);
}

#[test]
fn onnx_runtime_that_cannot_be_had_names_every_place_and_the_mend() {
    let place = workplace();
    place.write("job.toml", TEXT_JOB);
    let mut command = place.command(&["run", "job.toml", "--offline"]);
    command.env("LEGENDA_CACHE", place.path("cache")).env("PATH", place.path("bin"));
    command.env("ORT_DYLIB_PATH", place.path("gone.so"));
    let ended = ended(&mut command).expect(2);
    ended.complains_of(&[
        "ORT_DYLIB_PATH",
        "gone.so",
        "beside the program",
        "cache",
        "Python",
        "pip",
    ]);
}

#[test]
fn check_tells_what_a_good_job_would_do() {
    let place = workplace();
    place.write("job.toml", TEXT_JOB);
    let told = place.run(&["check", "job.toml"]).expect(0).stdout;
    for text in ["valid", "generate", "legenda-tiny", "1 row in 1 file", "question", "out"] {
        assert!(told.contains(text), "no `{text}` in:\n{told}");
    }
    assert!(!place.path("out").is_dir());
    write_table(&place.path("table.parquet"), &pictures(&[Some(png(1))]), 10);
    place.write("job.toml", PICTURE_JOB);
    let told = place.run(&["check", "job.toml"]).expect(0).stdout;
    assert!(told.contains("Describe the picture."), "{told}");
}

#[test]
fn doctor_tells_what_it_found() {
    let place = workplace();
    let told = place.run(&["doctor"]).expect(0).stdout;
    for text in ["onnxruntime", "providers", "CPUExecutionProvider", "device", "cache", "memory"] {
        assert!(told.contains(text), "no `{text}` in:\n{told}");
    }
    let json = place.run(&["doctor", "--json"]).expect(0).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["library"].is_string(), "{json}");
    let mut lost = place.command(&["doctor", "--offline"]);
    lost.env("LEGENDA_CACHE", place.path("cache")).env("PATH", "").env_remove("ORT_DYLIB_PATH");
    let lost = ended(&mut lost).expect(2);
    assert!(lost.stdout.contains("memory"), "what is known is told all the same");
}

#[test]
fn the_schema_of_job_files_is_json_schema() {
    let schema = workplace().run(&["schema", "job"]).expect(0).stdout;
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert!(schema["$schema"].as_str().unwrap().contains("json-schema.org"));
    assert_eq!(schema["additionalProperties"], false);
    for key in ["task", "source", "output", "limits"] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
}
