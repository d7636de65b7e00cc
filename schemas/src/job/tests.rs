use super::{Job, JobError, TaskKind};

const CAPTIONS: &str = r#"
    version = 1
    [task]
    kind = "caption"
    [source]
    paths = ["pictures.parquet"]
    columns = { image = "image" }
    [output]
    path = "out"
"#;

fn error(text: &str, overrides: &[&str]) -> String {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    Job::parse(text, &overrides).unwrap_err().to_string()
}

#[test]
fn a_minimal_job_uses_defaults() {
    let job = Job::parse(CAPTIONS, &[]).unwrap();
    assert_eq!(job.task.kind, TaskKind::Caption);
    assert_eq!(job.model.bundle, "legenda-tiny");
    assert_eq!(job.prompt_template(), "Describe the picture.");
}

#[test]
fn unknown_keys_are_reported_with_their_line() {
    let text = CAPTIONS.replace("kind =", "knid =");
    let message = error(&text, &[]);
    assert!(message.contains("line 4") && message.contains("knid"), "{message}");
}

#[test]
fn misspelled_keys_and_values_get_a_suggestion() {
    for (from, to, suggestion) in [
        ("kind =", "knid =", "did you mean `kind`?"),
        ("\"caption\"", "\"captoin\"", "did you mean `caption`?"),
        ("[output]", "[ouput]", "did you mean `output`?"),
        ("{ image =", "{ imgae =", "did you mean `image`?"),
        ("paths =", "span_rows = 4\npaths =", "`span_rows` is a key of `[output]`"),
        ("paths =", "bundle = \"x\"\npaths =", "`bundle` is a key of `[model]`"),
        ("paths =", "cron = \"x\"\npaths =", "`cron` is a key of `[schedule]`"),
    ] {
        let message = error(&CAPTIONS.replacen(from, to, 1), &[]);
        assert!(message.ends_with(suggestion), "{message}");
    }
    for (set, suggestion) in [
        ("model.slot=3", "did you mean `slots`?"),
        ("modle.slots=3", "did you mean `model`?"),
        ("model.device=cudda", "did you mean `cuda`?"),
        ("output.format=parqet", "did you mean `parquet`?"),
        ("task.long_audio=seqential", "did you mean `sequential`?"),
        ("source.columns={ image = \"image\", txt = \"x\" }", "did you mean `text`?"),
        ("output.sidecars={ extension = \"text\", mode = \"skip\" }", "did you mean `txt`?"),
        ("source.slots=3", "`slots` is a key of `[model]`"),
    ] {
        let message = error(CAPTIONS, &[set]);
        assert!(message.ends_with(suggestion), "{set}: {message}");
    }
    let message = error(CAPTIONS, &["model.colour=3"]);
    assert!(message.contains("colour") && !message.contains("mean"), "{message}");
}

#[test]
fn a_single_value_needs_no_brackets() {
    let text = CAPTIONS.replace("[\"pictures.parquet\"]", "\"pictures.parquet\"");
    let text = text.replace("path =", "columns = \"id\"\npath =");
    let text = format!("{text}\n[generation]\nstop = \"END\"");
    let job = Job::parse(&text, &["source.media_dirs=x".to_owned()]).unwrap();
    assert_eq!(job.source.paths, ["pictures.parquet"]);
    assert_eq!(job.source.media_dirs, ["x"]);
    assert_eq!(job.output.columns.as_deref(), Some(["id".to_owned()].as_slice()));
    assert_eq!(job.generation.stop, ["END"]);
    // The stored job round-trips.
    let written = toml::to_string(&job).unwrap();
    assert_eq!(Job::parse(&written, &[]).unwrap(), job);
    for wrong in ["source.paths=7", "source.paths=[7]"] {
        assert!(error(CAPTIONS, &[wrong]).contains("string"), "{wrong}");
    }
}

#[test]
fn the_version_is_optional() {
    let job = Job::parse(&CAPTIONS.replace("version = 1", ""), &[]).unwrap();
    assert_eq!(job, Job::parse(CAPTIONS, &[]).unwrap());
}

#[test]
fn override_values_are_toml_or_plain_text() {
    let overrides =
        ["model.slots=3", "output.path=elsewhere/x", "limits.memory=1GiB"].map(str::to_owned);
    let job = Job::parse(CAPTIONS, &overrides).unwrap();
    assert_eq!(job.model.slots, Some(3));
    assert_eq!(job.output.path, "elsewhere/x");
    assert_eq!(job.limits.memory.0, 1 << 30);
}

#[test]
fn invalid_overrides_name_the_key() {
    assert!(error(CAPTIONS, &["model.slots=many"]).contains("`model.slots`"));
    assert!(error(CAPTIONS, &["model.slot=3"]).contains("slot"));
    assert!(error(CAPTIONS, &["version.x=3"]).contains("not a table"));
    assert!(matches!(Job::parse(CAPTIONS, &["slots".to_owned()]), Err(JobError::Override { .. })));
}

#[test]
fn invalid_values_are_rejected() {
    for (set, key) in [
        ("version=2", "`version`"),
        ("source.paths=[]", "`source.paths`"),
        ("model.slots=0", "`model.slots`"),
        ("generation.temperature=-1.0", "`generation.temperature`"),
        ("generation.top_p=1.5", "`generation.top_p`"),
        ("limits.audio_seconds=0.0", "`limits.audio_seconds`"),
        ("task.kind=\"transcribe\"", "`source.columns.audio`"),
        ("task.kind=\"answer\"", "`source.columns.text`"),
        ("task.language=\"de\"", "`task.language`"),
        ("task.timestamps=true", "`task.timestamps`"),
        ("task.long_audio=sequential", "`task.long_audio`"),
        ("generation.logprob_threshold=-1.0", "`generation.logprob_threshold`"),
    ] {
        let message = error(CAPTIONS, &[set]);
        assert!(message.contains(key), "{set}: {message}");
    }
}

const EMBEDDINGS: &str = r#"
    version = 1
    [task]
    kind = "embed"
    [source]
    paths = ["texts.parquet"]
    columns = { text = "text" }
    [output]
    path = "out"
"#;

#[test]
fn an_embedding_has_one_input() {
    let job = Job::parse(EMBEDDINGS, &[]).unwrap();
    assert_eq!(job.prompt_template(), "{{ text }}");
    let image_job = EMBEDDINGS.replace("text = \"text\"", "image = \"image\"");
    assert_eq!(Job::parse(&image_job, &[]).unwrap().prompt_template(), "");
    for (set, key) in [
        ("source.columns.image=\"image\"", "`source.columns`"),
        ("source.columns={}", "`source.columns`"),
        ("task.system=\"Be brief.\"", "`task.system`"),
        ("generation.top_k=4", "`generation`"),
        ("model.context_tokens=64", "`model.context_tokens`"),
        ("task.kind=\"transcribe\"", "`source.columns.audio`"),
        ("embedding.pooling=\"middle\"", "`embedding.pooling`"),
    ] {
        let message = error(EMBEDDINGS, &[set]);
        assert!(message.contains(key), "{set}: {message}");
    }
    assert!(error(&image_job, &["task.prompt=\"a {{ x }}\""]).contains("one input to embed"));
    assert!(error(&image_job, &["embedding.prompt_name=\"query\""]).contains("prompt_name"));
    assert!(error(CAPTIONS, &["embedding.normalize=true"]).contains("`embedding`"));
}

#[test]
fn the_identity_ignores_options_that_do_not_change_answers() {
    let job = Job::parse(CAPTIONS, &[]).unwrap();
    let tuned = Job::parse(CAPTIONS, &["model.slots=9".into(), "limits.memory=1GiB".into()]);
    let prompted = Job::parse(CAPTIONS, &["task.prompt=What?".into()]).unwrap();
    assert_eq!(job.identity("r"), tuned.unwrap().identity("r"));
    assert_ne!(job.identity("r"), prompted.identity("r"));
    assert_ne!(job.identity("r"), job.identity("s"));
}

#[test]
fn the_schema_contains_every_table() {
    let schema = Job::json_schema().to_string();
    assert!(schema.contains("\"max_overlap\"") && schema.contains("\"on_failure\""));
    for key in
        ["task", "source", "model", "generation", "embedding", "limits", "output", "error_budget"]
    {
        assert!(schema.contains(&format!("\"{key}\"")), "{key}");
    }
}

#[test]
fn another_precision_is_another_job() {
    let identity = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        Job::parse(CAPTIONS, &overrides).unwrap().identity("x")
    };
    let (none, half) = (identity(&[]), identity(&["model.precision=fp16"]));
    assert_ne!(none["model.precision"], half["model.precision"]);
    let table = identity(&[r#"model.precision={ embed_tokens = "fp16" }"#]);
    assert_eq!(table["model.precision"]["embed_tokens"], "fp16");
    assert!(error(CAPTIONS, &["model.precision=half"]).contains("invalid precision `half`"));
}

const NIGHTLY: &str = r#"
    [schedule]
    cron = "30 3 * * *"
    time_zone = "Europe/Berlin"
    backoff = "10s"
    backoff_max = "1m"
    [[hooks.on_failure]]
    url = "https://example.com/hook"
    secret_env = "HOOK_SECRET"
"#;

#[test]
fn a_schedule_does_not_change_the_identity() {
    let job = Job::parse(CAPTIONS, &[]).unwrap();
    let nightly = Job::parse(&format!("{CAPTIONS}{NIGHTLY}"), &[]).unwrap();
    assert_eq!(job.identity("r"), nightly.identity("r"));
    let schedule = nightly.schedule.as_ref().unwrap();
    assert_eq!(schedule.catch_up, super::CatchUp::Last);
    let delays: Vec<u64> = (1..=5).map(|n| schedule.backoff_after(n).0).collect();
    assert_eq!(delays, [10, 20, 40, 60, 60]);
    assert_eq!(schedule.backoff_after(u32::MAX).0, 60);
    let text = toml::to_string(&nightly).unwrap();
    assert_eq!(Job::parse(&text, &[]).unwrap(), nightly);
}

#[test]
fn invalid_schedules_and_hooks_are_rejected() {
    let nightly = format!("{CAPTIONS}{NIGHTLY}");
    for (set, key) in [
        ("schedule.cron=0 0 30 2 *", "never due"),
        ("schedule.cron=\"often\"", "`schedule.cron`"),
        ("schedule.time_zone=\"Mars\"", "`schedule.time_zone`"),
        ("schedule.jitter=\"soon\"", "`schedule.jitter`"),
        ("schedule.timeout=\"0s\"", "`schedule.timeout`"),
        ("schedule.max_overlap=1", "`schedule.max_overlap`"),
        ("schedule.catch_up=\"some\"", "`schedule.catch_up`"),
        ("hooks.on_failure=[{}]", "`hooks.on_failure`"),
        ("hooks.on_success=[{ command = [] }]", "`hooks.on_success`"),
        ("hooks.on_success=[{ url = \"ftp://x\" }]", "`hooks.on_success`"),
        ("hooks.on_success=[{ command = [\"x\"], secret_env = \"S\" }]", "`secret_env`"),
    ] {
        let message = error(&nightly, &[set]);
        assert!(message.contains(key), "{set}: {message}");
    }
}
