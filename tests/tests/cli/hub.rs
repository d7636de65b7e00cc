//! Hub models, downloaded by the real binary from a Hub in this process.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use legenda_tests::{
    TEXT_JOB, Workplace,
    hub::{COMMIT, Fault, HubServer, TOKEN},
    python::run_script,
    references::{REFERENCE_LENGTH, bundle, questions},
    run_command, text_column, texts, write_table,
};
use serde_json::Value;

const MODEL: &str = "hf://owner/model";

#[test]
fn a_model_is_downloaded_over_https_if_the_certificate_is_trusted() {
    println!("{}", run_script("servers/hub_https.py", &[]));
}

/// Writes a table of questions and a job that uses the Hub's model.
fn job(place: &Workplace, questions: &[String]) {
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    write_table(&place.path("table.parquet"), &texts(&questions), 4);
    let model = format!("[model]\nbundle = \"{MODEL}\"\n{REFERENCE_LENGTH}");
    place.write("job.toml", &format!("{TEXT_JOB}{model}"));
}

/// Appends the content of all files under `folder`, except the model's own.
fn written(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            written(&path, all);
        } else {
            all.push_str(&String::from_utf8_lossy(&fs::read(path).unwrap()));
        }
    }
}

#[test]
fn a_hub_model_is_downloaded_once_and_then_used_without_network() {
    let (questions, answers) = questions("llama");
    let (hub, place) = (HubServer::start(&bundle("llama")), Workplace::new());
    hub.require_token();
    job(&place, &questions);
    let told = run_command(hub.command(&place, &["-vv", "run", "job.toml"]).env("HF_TOKEN", TOKEN))
        .expect(0);
    assert_eq!(text_column(&place.answers("out"), "answer"), answers);
    told.stderr_contains(&["fetched onnx/model.onnx (196.1KiB)", "owner/model"]);

    let asked = hub.requests();
    let (second, first): (Vec<_>, Vec<_>) =
        asked.into_iter().partition(|asked| asked.at_second_host);
    assert_eq!(second.len(), 1, "expected only the graph at the second host: {second:?}");
    assert_eq!(second[0].authorization, None, "the second host received the token");
    let bearer = format!("Bearer {TOKEN}");
    assert!(first.iter().all(|asked| asked.authorization.as_ref() == Some(&bearer)));
    let paths: Vec<&str> = first.iter().map(|asked| asked.path.as_str()).collect();
    assert_eq!(paths[0], "/api/models/owner/model/revision/main?blobs=true");
    let files: Vec<&str> =
        paths[1..].iter().map(|path| path.rsplit_once(COMMIT).unwrap().1).collect();
    let needed = [
        "/config.json",
        "/generation_config.json",
        "/special_tokens_map.json",
        "/tokenizer.json",
        "/tokenizer_config.json",
        "/onnx/model.onnx",
    ];
    assert_eq!(files, needed, "the f16 graph must not be downloaded");

    let mut everything = format!("{}{}", told.stdout, told.stderr);
    written(&place.path("out"), &mut everything);
    written(&place.path("hf"), &mut everything);
    assert!(!everything.contains("hf_ThisIs"), "the token is shown");
    assert!(!everything.contains("signature=hidden"), "a signed URL is shown");

    // Offline runs, by option or environment variable, send no requests.
    let offline = ["run", "job.toml", "--offline", "--set", "output.path=again"];
    run_command(&mut hub.command(&place, &offline)).expect(0).stderr_contains(&["owner/model"]);
    assert_eq!(text_column(&place.answers("again"), "answer"), answers);
    drop(
        run_command(hub.command(&place, &["check", "job.toml"]).env("HF_HUB_OFFLINE", "1"))
            .expect(0),
    );
    // If the Hub is unreachable, a cached model is used as with `--offline`.
    let down = run_command(
        hub.command(&place, &["check", "job.toml"]).env("HF_ENDPOINT", "http://127.0.0.1:9"),
    );
    down.expect(0).stderr_contains(&["Hub unreachable; using the cache"]);
    assert_eq!(hub.requests(), []);
}

#[test]
fn only_the_chosen_precision_is_downloaded_and_it_is_a_different_run() {
    let (questions, answers) = questions("llama");
    let (hub, place) = (HubServer::start(&bundle("llama")), Workplace::new());
    job(&place, &questions);
    let half = ["run", "job.toml", "--set", "model.precision=fp16"];
    drop(run_command(&mut hub.command(&place, &half)).expect(0));
    assert_eq!(text_column(&place.answers("out"), "answer"), answers);
    let files = hub.requested_files();
    assert!(files.contains(&"onnx/model_fp16.onnx".to_owned()), "{files:?}");
    assert!(!files.contains(&"onnx/model.onnx".to_owned()), "{files:?}");

    // The tokens match those of full precision; the scores show that half precision ran.
    let whole = ["run", "job.toml", "--set", "output.path=whole"];
    drop(run_command(&mut hub.command(&place, &whole)).expect(0));
    let scores = |output: &str| format!("{:?}", place.answers(output)["legenda_logprob_mean"]);
    assert_ne!(scores("out"), scores("whole"));

    // The committed answers use another precision.
    let other = run_command(&mut hub.command(&place, &["run", "job.toml"])).expect(2);
    other.stderr_contains(&["model.precision"]);
    let none = run_command(
        &mut hub.command(&place, &["check", "job.toml", "--set", "model.precision=q4"]),
    );
    none.expect(2).stderr_contains(&["requests `model` in q4, available: fp32, fp16"]);
}

/// onnxruntime-genai repositories have one folder per device and precision.
#[test]
fn a_model_may_be_a_folder_of_a_repository() {
    let (questions, answers) = questions("llama");
    let (hub, place) = (HubServer::start(&bundle("llama")), Workplace::new());
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx"] {
        hub.put(&format!("cpu/int4/{name}"), &fs::read(bundle("llama").join(name)).unwrap());
        hub.put(name, b"another model");
    }
    job(&place, &questions);
    let model = format!("model.bundle={MODEL}/cpu/int4");
    let run = ["run", "job.toml", "--set", &model];
    let told = run_command(&mut hub.command(&place, &run)).expect(0);
    told.stderr_contains(&["owner/model/cpu/int4 on cpu"]);
    assert_eq!(text_column(&place.answers("out"), "answer"), answers);
    let files = hub.requested_files();
    assert!(files.iter().all(|file| file.starts_with("cpu/int4/")), "{files:?}");
    // The folder is part of the model's identity and is found in the cache without network access.
    let again = [&run[..], &["--offline", "--set", "output.path=again"]].concat();
    drop(run_command(&mut hub.command(&place, &again)).expect(0));
    let plan = fs::read_to_string(place.path("again.legenda/plan.json")).unwrap();
    assert!(plan.contains(&format!("{COMMIT}/cpu/int4:fp32")), "{plan}");
    let none = format!("model.bundle={MODEL}/gpu");
    let none =
        run_command(&mut hub.command(&place, &["check", "job.toml", "--set", &none])).expect(2);
    none.stderr_contains(&["folder `gpu` in `hf://owner/model` was not found"]);
}

#[test]
fn a_listed_commit_is_not_requested_again() {
    let (hub, place) = (HubServer::start(&bundle("llama")), Workplace::new());
    let model = format!("{MODEL}@{COMMIT}");
    drop(run_command(&mut hub.command(&place, &["models", "pull", &model])).expect(0));
    assert!(!hub.requests().is_empty());
    let told =
        run_command(&mut hub.command(&place, &["models", "pull", &model, "--json"])).expect(0);
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(told["files_fetched"], 0);
    assert_eq!(told["revision"], format!("{COMMIT}:fp32"));
    assert_eq!(hub.requests(), []);
}

#[test]
fn a_broken_download_resumes_where_it_broke() {
    let (hub, place) = (HubServer::start(&bundle("llama")), Workplace::new());
    hub.fault("onnx/model.onnx", Fault::Cut { times: 2, after_bytes: 60_000 });
    let told = run_command(&mut hub.command(&place, &["models", "pull", MODEL])).expect(0);
    told.stderr_contains(&["fetch failed; retrying"]);
    let starts: Vec<_> = hub
        .requests()
        .iter()
        .filter(|asked| asked.at_second_host)
        .map(|asked| asked.range_start)
        .collect();
    assert_eq!(starts, [None, Some(60_000), Some(120_000)]);
    drop(run_command(&mut hub.command(&place, &["models", "check", MODEL, "--offline"])).expect(0));
}

#[test]
fn a_killed_download_resumes_in_the_next_run() {
    for fault in [None, Some(Fault::NoRanges)] {
        let (hub, place) = (HubServer::start(&bundle("llama")), Workplace::new());
        hub.fault("onnx/model.onnx", Fault::Hang { after_bytes: 100_000 });
        let mut command = hub.command(&place, &["models", "pull", MODEL]);
        let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        let blobs = place.path("hf/hub/models--owner--model/blobs");
        let begun = || {
            let entries = fs::read_dir(&blobs).into_iter().flatten().flatten();
            entries.into_iter().any(|entry| {
                entry.file_name().to_string_lossy().ends_with(".incomplete")
                    && entry.metadata().unwrap().len() == 100_000
            })
        };
        let start = Instant::now();
        while !begun() {
            assert!(start.elapsed() < Duration::from_secs(60), "the download did not start");
            thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        hub.clear_faults();
        if let Some(fault) = fault {
            hub.fault("onnx/model.onnx", fault);
        }
        drop(hub.requests());
        drop(run_command(&mut hub.command(&place, &["models", "pull", MODEL])).expect(0));
        let starts: Vec<_> = hub
            .requests()
            .iter()
            .filter(|asked| asked.at_second_host)
            .map(|asked| asked.range_start)
            .collect();
        assert_eq!(starts, [Some(100_000)]);
        let told = run_command(&mut hub.command(&place, &["models", "check", MODEL, "--offline"]))
            .expect(0);
        assert!(told.stdout.contains("tokens/s"), "{}", told.stdout);
    }
}

#[test]
fn a_damaged_file_is_not_kept() {
    let (hub, place) = (HubServer::start(&bundle("llama")), Workplace::new());
    hub.fault("onnx/model.onnx", Fault::Damage);
    let told = run_command(&mut hub.command(&place, &["models", "pull", MODEL])).expect(4);
    told.stderr_contains(&["failed to verify `onnx/model.onnx` of `hf://owner/model`", "SHA-256"]);
    hub.clear_faults();
    drop(run_command(&mut hub.command(&place, &["models", "pull", MODEL])).expect(0));
}

#[test]
fn access_errors_include_a_remedy() {
    let (hub, place) = (HubServer::start(&bundle("llama")), Workplace::new());
    let pull = |model: &str| run_command(&mut hub.command(&place, &["models", "pull", model]));
    pull("hf://owner/none")
        .expect(2)
        .stderr_contains(&["model `hf://owner/none` was not found on the Hub"]);
    pull("hf://owner/model@v9")
        .expect(2)
        .stderr_contains(&["model `hf://owner/model@v9` was not found"]);
    pull("hf://a/../c").expect(2).stderr_contains(&["expected `hf://owner/name`"]);
    pull("legenda-tiny").expect(2).stderr_contains(&["is a local model"]);
    hub.require_token();
    pull(MODEL)
        .expect(2)
        .stderr_contains(&["denied access to `hf://owner/model` (HTTP 401)", "set `HF_TOKEN`"]);
    let wrong =
        run_command(hub.command(&place, &["models", "pull", MODEL]).env("HF_TOKEN", "hf_wrong"));
    assert!(!wrong.stderr.contains("hf_wrong"), "{}", wrong.stderr);
    wrong.expect(2).stderr_contains(&["the account of the token in `HF_TOKEN` has access"]);
    let mut down = hub.command(&place, &["models", "pull", MODEL]);
    let down = run_command(down.env("HF_ENDPOINT", "http://127.0.0.1:9")).expect(4);
    down.stderr_contains(&["failed to fetch model `hf://owner/model`", "run the command again"]);
}

#[test]
fn offline_errors_name_the_file_and_the_download_command() {
    let (hub, place) = (HubServer::start(&bundle("llama")), Workplace::new());
    job(&place, &["x".to_owned()]);
    let run = |args: &[&str]| run_command(&mut hub.command(&place, args));
    run(&["check", "job.toml", "--offline"]).expect(2).stderr_contains(&[
        "`config.json` of `hf://owner/model` is not in the cache",
        "`--offline` is given",
        "run: legenda models pull hf://owner/model",
    ]);
    drop(run(&["models", "pull", MODEL]).expect(0));
    run(&["check", "job.toml", "--offline", "--set", "model.precision=fp16"])
        .expect(2)
        .stderr_contains(&[
            "`onnx/model_fp16.onnx` of",
            "legenda models pull hf://owner/model --precision fp16",
        ]);
}

#[test]
fn external_weights_are_downloaded_with_their_graph() {
    // A layout with its own config and weights in `model.onnx.data`.
    let (questions, answers) = questions("llama_gqa");
    let (hub, place) = (HubServer::start(&bundle("llama_gqa")), Workplace::new());
    hub.put("model.onnx.data_of_something_else", b"not needed");
    job(&place, &questions);
    drop(run_command(&mut hub.command(&place, &["run", "job.toml"])).expect(0));
    assert_eq!(text_column(&place.answers("out"), "answer"), answers);
    let files = hub.requested_files();
    assert!(files.contains(&"model.onnx.data".to_owned()), "{files:?}");
    assert!(!files.contains(&"model.onnx.data_of_something_else".to_owned()), "{files:?}");
}

#[test]
fn each_wiring_downloads_only_its_files() {
    for (name, graphs) in [
        ("t5", ["onnx/decoder_model_merged.onnx", "onnx/encoder_model.onnx"].as_slice()),
        ("whisper", &["onnx/decoder_model_merged.onnx", "onnx/encoder_model.onnx"]),
        ("vit_gpt2", &["onnx/decoder_model_merged.onnx", "onnx/encoder_model.onnx"]),
        ("llama_native", &["decode.onnx", "decode.onnx.data"]),
        ("minilm", &["onnx/model.onnx"]),
        (
            "llava",
            &[
                "onnx/decoder_model_merged.onnx",
                "onnx/embed_tokens.onnx",
                "onnx/vision_encoder.onnx",
            ],
        ),
        (
            "phi4",
            &[
                "phi-4-mm-embedding.onnx",
                "phi-4-mm-speech.onnx",
                "phi-4-mm-speech.onnx_adapter",
                "phi-4-mm-text.onnx",
                "phi-4-mm-vision.onnx",
                "phi-4-mm-vision.onnx_adapter",
            ],
        ),
    ] {
        let (hub, place) = (HubServer::start(&bundle(name)), Workplace::new());
        drop(run_command(&mut hub.command(&place, &["models", "show", MODEL])).expect(0));
        let files = hub.requested_files();
        assert!(
            !files.iter().any(|file| file.contains(".onnx")),
            "graphs must not be downloaded: {files:?}"
        );
        drop(run_command(&mut hub.command(&place, &["models", "pull", MODEL])).expect(0));
        let mut files = hub.requested_files();
        files.retain(|file| file.contains(".onnx"));
        assert_eq!(files, graphs, "{name}");
        let check = ["models", "check", MODEL, "--offline", "--device", "cpu"];
        let told = run_command(&mut hub.command(&place, &check)).expect(0);
        assert!(told.stdout.contains("s/s)"), "{name}: {}", told.stdout);
    }
}

#[test]
fn the_cache_is_shared_with_huggingface_hub() {
    let (hub, place) = (HubServer::start(&bundle("llama")), Workplace::new());
    drop(run_command(&mut hub.command(&place, &["models", "pull", MODEL])).expect(0));
    let repo = place.path("hf/hub/models--owner--model");
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let graph = repo.join("snapshots").join(COMMIT).join("onnx/model.onnx");
    assert!(fs::read_link(&graph).unwrap().starts_with("../../../blobs"));
    assert_eq!(fs::read(&graph).unwrap(), fs::read(bundle("llama/onnx/model.onnx")).unwrap());
    // Files downloaded by other programs are used, even without Legenda's listing of the
    // repository.
    fs::remove_dir_all(repo.join(".legenda")).unwrap();
    drop(hub.requests());
    drop(run_command(&mut hub.command(&place, &["models", "check", MODEL, "--offline"])).expect(0));
    assert_eq!(hub.requests(), []);
    // A snapshot folder is also a bundle; its links lead to blobs.
    let folder = graph.parent().unwrap().parent().unwrap().to_str().unwrap();
    drop(run_command(&mut hub.command(&place, &["models", "show", folder])).expect(0));
}

#[test]
fn models_are_listed_and_shown() {
    let (hub, place) = (HubServer::start(&bundle("llama")), Workplace::new());
    hub.put("README.md", b"---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n");
    let run = |args: &[&str]| run_command(&mut hub.command(&place, args)).expect(0).stdout;
    let shown: Value = serde_json::from_str(&run(&["models", "show", MODEL, "--json"])).unwrap();
    let files = hub.requested_files();
    assert!(
        !files.iter().any(|file| file.ends_with(".onnx")),
        "graphs must not be downloaded: {files:?}"
    );
    assert_eq!(shown["architecture"], "LlamaForCausalLM");
    assert_eq!(shown["licence"], "apache-2.0");
    assert_eq!(shown["context_tokens"], 512);
    assert_eq!(shown["tasks"], serde_json::json!(["answer", "generate"]));
    let precisions = &shown["graphs"][0]["precisions"];
    assert_eq!(precisions[0]["precision"], "fp32");
    assert_eq!(precisions[0]["taken"], true);
    assert_eq!(precisions[1]["bytes"], 113_875);
    assert_eq!(shown["dialect"], Value::Null, "the graph is not downloaded");

    let only_embedded = run(&["models", "list"]);
    assert!(only_embedded.contains("legenda-tiny") && !only_embedded.contains("hf://"));
    let all = run(&["models", "list", "--all"]);
    assert!(
        all.contains("hf://owner/model") && all.contains("cannot be run: the bundle has no file")
    );

    run(&["models", "pull", MODEL, "--precision", "fp16"]);
    let listed: Value = serde_json::from_str(&run(&["models", "list", "--json"])).unwrap();
    assert_eq!(listed[1]["name"], MODEL);
    assert_eq!(listed[1]["precision"], "fp16");
    let shown = run(&["models", "show", MODEL, "--offline", "--precision", "fp16"]);
    assert!(shown.contains("dialect        growing"), "{shown}");
    assert!(shown.contains("graph          model: fp32 196.1KiB, fp16* 111.2KiB"), "{shown}");
}

#[test]
fn models_check_runs_every_task_of_the_embedded_model() {
    let place = Workplace::new();
    let told =
        place.run(&["models", "check", "legenda-tiny", "--device", "cpu", "--json"]).expect(0);
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(told["device"], "cpu");
    let answers = told["answers"].as_array().unwrap();
    let tasks: Vec<&str> = answers.iter().map(|answer| answer["task"].as_str().unwrap()).collect();
    assert_eq!(tasks, ["caption", "answer", "transcribe", "generate"]);
    for answer in answers {
        assert!(answer["tokens_generated"].as_u64().unwrap() > 0, "{answer}");
        assert!(answer["tokens_per_second"].as_f64().unwrap() > 0.0, "{answer}");
    }
    let shown = place.run(&["models", "show", "legenda-tiny"]).expect(0).stdout;
    for line in ["reads          text, images, audio", "dialect        in-place"] {
        assert!(shown.contains(line), "{shown}");
    }
    assert!(!shown.contains("adapters"), "{shown}");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/references/bundles/phi4");
    let shown = place.run(&["models", "show", folder]).expect(0).stdout;
    let adapters = "adapters       phi-4-mm-vision.onnx_adapter, phi-4-mm-speech.onnx_adapter";
    assert!(shown.contains(adapters), "{shown}");
}

#[test]
fn a_model_that_cannot_be_opened_exits_with_2() {
    let place = Workplace::new();
    for command in ["show", "check"] {
        place
            .run(&["models", command, "no/such/folder"])
            .expect(2)
            .stderr_contains(&["no/such/folder"]);
    }
}
