//! Console output: closed pipes, full disks, typos, and messages.

use std::process::Stdio;

use legenda_tests::{TEXT_JOB, Workplace, texts, write_table};

fn workplace() -> Workplace {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["What is dog in German?"; 12]), 10);
    place.write("job.toml", TEXT_JOB);
    place
}

/// All commands that print results.
const PRINTING: [&[&str]; 12] = [
    &["run", "job.toml", "--show", "20"],
    &["check", "job.toml"],
    &["inspect", "table.parquet"],
    &["inspect", "table.parquet", "--json"],
    &["estimate", "job.toml", "--rows", "4"],
    &["retry", "out"],
    &["verify", "out"],
    &["report", "out"],
    &["models", "list"],
    &["models", "show", "legenda-tiny"],
    &["schema", "job"],
    &["doctor", "--offline"],
];

#[test]
fn a_closed_pipe_is_not_an_error() {
    let place = workplace();
    for args in PRINTING {
        let whole = place.run(args);
        // A closed stdout, as after `| head -1` has exited.
        let mut command = place.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), whole.code, "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("roken pipe"), "{stderr}");
        // Closed stdout and stderr, as with `2>&1 | head -1`.
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait().unwrap().code(), whole.code, "{args:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn results_that_cannot_be_written_are_an_error() {
    let place = workplace();
    let full = std::fs::File::create("/dev/full").unwrap();
    let output = place.command(&["schema", "job"]).stdout(full).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("standard output") && stderr.contains("No space left"), "{stderr}");
}

#[test]
fn typos_are_reported_with_a_suggestion() {
    let place = workplace();
    std::fs::create_dir_all(place.path("models/smollm2")).unwrap();
    for (args, texts) in [
        (["runn", "job.toml"].as_slice(), ["runn", "'run'"]),
        (&["models", "lsit"], ["lsit", "'list'"]),
        (&["run", "job.toml", "--limt", "3"], ["--limt", "'--limit'"]),
        (&["run", "job.toml", "--stale", "kep"], ["kep", "'keep'"]),
        (&["check", "job.toml", "--set", "task.knid=x"], ["knid", "did you mean `kind`?"]),
        (&["check", "job.toml", "--set", "task.kind=generat"], ["generat", "`generate`?"]),
        (
            &["check", "job.toml", "--set", "model.bundle=legenda-tinny"],
            ["legenda-tinny", "did you mean `legenda-tiny`?"],
        ),
        (
            &["check", "job.toml", "--set", "model.bundle=models/smolm2"],
            ["smolm2", "did you mean `models/smollm2`?"],
        ),
        (
            &["check", "job.toml", "--set", "model.bundle=onnx-community/Qwen3-0.6B"],
            ["onnx-community/Qwen3-0.6B", "use `hf://onnx-community/Qwen3-0.6B`"],
        ),
        (
            &["models", "pull", "onnx-community/Qwen3-0.6B"],
            ["onnx-community/Qwen3-0.6B", "use `hf://onnx-community/Qwen3-0.6B`"],
        ),
        (
            &["models", "show", "https://huggingface.co/onnx-community/whisper-base"],
            ["whisper-base", "use `hf://onnx-community/whisper-base`"],
        ),
    ] {
        place.run(args).expect(2).stderr_contains(&texts);
    }
}

#[test]
fn a_job_needs_no_version_and_no_brackets() {
    let place = workplace();
    let job =
        TEXT_JOB.replace("version = 1", "").replace("[\"table.parquet\"]", "\"table.parquet\"");
    place.write("short.toml", &job);
    let ended = place.run(&["run", "short.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 12 "), "{}", ended.stdout);
}

#[test]
fn an_unfinished_output_is_reported_in_one_line() {
    let place = workplace();
    assert!(place.run(&["run", "job.toml"]).expect(0).stdout.contains("rows_in 12 "));
    let ledger = place.path("out.legenda/ledger");
    let entries = std::fs::read_dir(ledger).unwrap().map(|entry| entry.unwrap().path());
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    assert!(entries.len() > 2);
    // Parts without ledger entries, as left by a killed run.
    std::fs::remove_file(&entries[0]).unwrap();
    std::fs::remove_file(&entries[1]).unwrap();
    let told = place.run(&["verify", "out"]).expect(5);
    assert_eq!(told.stdout, "");
    assert_eq!(told.stderr.lines().count(), 1, "{}", told.stderr);
    told.stderr_contains(&["8 of 12 rows are not committed", "run the job again"]);
}
