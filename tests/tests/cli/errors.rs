//! Errors are reported before a row is read: the key, the location, the remedy, and exit code 2.

use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, image_table, png, run_command, texts, write_table,
};

fn workplace() -> Workplace {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["What is dog in German?"]), 10);
    place
}

/// Asserts that `legenda check` and `legenda run` both reject a job, and nothing is written.
fn refused(place: &Workplace, job: &str, args: &[&str], texts: &[&str]) {
    place.write("job.toml", job);
    for command in ["check", "run"] {
        let all: Vec<&str> = [command, "job.toml"].iter().chain(args).copied().collect();
        place.run(&all).expect(2).stderr_contains(texts);
        assert!(!place.path("out").is_dir(), "`{command}` wrote to the output");
    }
}

#[test]
fn a_missing_job_file_is_named() {
    workplace().run(&["run", "none.toml"]).expect(2).stderr_contains(&["none.toml"]);
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
fn invalid_overrides_are_named() {
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
    refused(
        &place,
        &TEXT_JOB.replace("table.", "broken."),
        &[],
        &["broken.parquet", "hint: replace the file"],
    );
}

#[test]
fn a_column_of_the_wrong_type_is_named() {
    let place = workplace();
    write_table(&place.path("table.parquet"), &image_table(&[Some(png(1))]), 10);
    let job = TEXT_JOB.replace("\"question\"", "\"image\"");
    refused(&place, &job, &[], &["source.columns.text", "`image`", "Binary", "expected text"]);
}

#[test]
fn invalid_templates_are_named() {
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
fn unusable_models_are_named() {
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
fn the_output_may_not_contain_the_input() {
    let place = workplace();
    place.write("job.toml", TEXT_JOB);
    let args = ["run", "job.toml", "--set", "output.path=."];
    place.run(&args).expect(2).stderr_contains(&["output.path", "table.parquet"]);
}

#[test]
fn a_missing_device_is_an_error_without_fallback() {
    let place = workplace();
    place.write("job.toml", TEXT_JOB);
    let args = ["run", "job.toml", "--set", "model.device=cuda"];
    // On a machine with CUDA the run succeeds.
    let ended = place.run(&args);
    if ended.code != Some(0) {
        ended.expect(2).stderr_contains(&["CUDA is not available", "no CUDA device was found"]);
        place
            .run(&["check", args[1], args[2], args[3]])
            .expect(2)
            .stderr_contains(&["CUDA is not available"]);
    }
}

#[test]
fn a_memory_limit_below_the_model_size_is_refused_with_the_minimum() {
    let place = workplace();
    place.write("job.toml", TEXT_JOB);
    let args = ["run", "job.toml", "--set", "limits.memory=8MiB"];
    place.run(&args).expect(2).stderr_contains(&["limits.memory", "set it to at least"]);
}

#[test]
fn a_missing_onnx_runtime_lists_all_search_locations_and_the_remedy() {
    let place = workplace();
    place.write("job.toml", TEXT_JOB);
    let mut command = place.command(&["run", "job.toml", "--offline"]);
    command.env("LEGENDA_CACHE", place.path("cache")).env("PATH", place.path("bin"));
    command.env("ORT_DYLIB_PATH", place.path("gone.so"));
    let ended = run_command(&mut command).expect(2);
    ended.stderr_contains(&[
        "ORT_DYLIB_PATH",
        "gone.so",
        "beside the program",
        "cache",
        "Python",
        "pip",
    ]);
}

#[test]
fn check_describes_what_a_valid_job_would_do() {
    let place = workplace();
    place.write("job.toml", TEXT_JOB);
    let told = place.run(&["check", "job.toml"]).expect(0).stdout;
    for text in ["valid", "generate", "legenda-tiny", "1 row in 1 file", "question", "out"] {
        assert!(told.contains(text), "no `{text}` in:\n{told}");
    }
    assert!(!place.path("out").is_dir());
    write_table(&place.path("table.parquet"), &image_table(&[Some(png(1))]), 10);
    place.write("job.toml", IMAGE_JOB);
    let told = place.run(&["check", "job.toml"]).expect(0).stdout;
    assert!(told.contains("Describe the picture."), "{told}");
}

#[test]
fn doctor_reports_what_it_found() {
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
    let lost = run_command(&mut lost).expect(2);
    assert!(lost.stdout.contains("memory"), "doctor must report the rest");
}

#[test]
fn the_job_file_schema_is_a_json_schema() {
    let schema = workplace().run(&["schema", "job"]).expect(0).stdout;
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert!(schema["$schema"].as_str().unwrap().contains("json-schema.org"));
    assert_eq!(schema["additionalProperties"], false);
    for key in ["task", "source", "output", "limits"] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
}
