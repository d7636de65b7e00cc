//! Answers that are not computed again: duplicate rows of a run, and answers of earlier runs.

use std::{fs::File, io::Write};

use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, image_table, png,
    references::{self, with_bundle},
    text_column, texts, write_table,
};
use serde_json::Value;

const STORE: &str = "\n[reuse]\nstore = \"kept/results.sqlite\"\n";

/// Returns twenty rows of five questions.
fn repeated() -> Vec<String> {
    let words = ["dog", "house", "tree", "bread", "water"];
    (0..20).map(|row| format!("What is {} in German?", words[row % 5])).collect()
}

fn place(questions: &[String], job: &str) -> Workplace {
    let place = Workplace::new();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    write_table(&place.path("table.parquet"), &texts(&questions), 10);
    place.write("job.toml", job);
    place
}

/// Runs the job with `overrides` into `output`; returns its report.
fn run(place: &Workplace, output: &str, overrides: &[&str]) -> Value {
    let path = format!("output.path={output}");
    let mut arguments = vec!["run", "job.toml", "--progress", "json", "--set", &path];
    arguments.extend(overrides.iter().flat_map(|text| ["--set", text]));
    let ended = place.run(&arguments).expect(0);
    let lines = ended.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let report = lines.filter_map(|mut line| line.get_mut("report").map(Value::take)).next();
    report.unwrap()
}

fn columns(place: &Workplace, output: &str) -> [Vec<Option<String>>; 2] {
    let answers = place.answers(output);
    ["answer", "legenda_status"].map(|name| text_column(&answers, name))
}

fn all(status: &str, n_rows: usize) -> Vec<Option<String>> {
    vec![Some(status.to_owned()); n_rows]
}

#[test]
fn duplicate_rows_of_a_run_are_computed_once() {
    let place = place(&repeated(), TEXT_JOB);
    let each = run(&place, "each", &["reuse.within_run=false"]);
    assert_eq!((&each["rows_repeated"], &each["rows_reused"]), (&0.into(), &0.into()));
    let once = run(&place, "once", &[]);
    assert_eq!((&once["rows_repeated"], &once["rows_reused"]), (&15.into(), &0.into()));
    let tokens = |report: &Value| report["tokens_generated"].as_u64().unwrap();
    assert_eq!(tokens(&each), 4 * tokens(&once));
    let [answers, status] = columns(&place, "once");
    assert_eq!(answers, columns(&place, "each")[0]);
    assert_eq!(status, all("ok", 20));
    let _proof = place.run(&["verify", "once"]).expect(0);
}

/// A duplicate may belong to a span that starts long before or after that of its first occurrence.
#[test]
fn duplicate_rows_across_spans_are_answered_in_any_order() {
    let questions: Vec<String> = (0..900).map(|row| format!("What is {}?", row % 7)).collect();
    let place = place(&questions, TEXT_JOB);
    for (output, spans) in [("twos", "output.span_rows=2"), ("many", "output.span_rows=100")] {
        let report = run(&place, output, &[spans, "generation.max_new_tokens=2"]);
        assert_eq!((&report["answers"], &report["rows_repeated"]), (&900.into(), &893.into()));
        let _proof = place.run(&["verify", output]).expect(0);
        let [answers, _] = columns(&place, output);
        assert!(answers.iter().enumerate().all(|(row, answer)| *answer == answers[row % 7]));
    }
}

#[test]
fn duplicate_rows_share_the_answer_or_reject() {
    let place = Workplace::new();
    let cell = |row: u8| match row % 3 {
        // Not an image, a truncated image, a valid image.
        0 => b"no picture".to_vec(),
        1 => png(1)[..60].to_vec(),
        _ => png(row % 2),
    };
    let cells: Vec<Option<Vec<u8>>> = (0..18).map(cell).map(Some).collect();
    write_table(&place.path("table.parquet"), &image_table(&cells), 100);
    place.write("job.toml", IMAGE_JOB);
    let report = run(&place, "once", &[]);
    assert_eq!((&report["answers"], &report["rows_repeated"]), (&6.into(), &4.into()));
    let each = run(&place, "each", &["reuse.within_run=false"]);
    assert_eq!(report["rejects"], each["rejects"]);
    let messages = |output| text_column(&place.rejects(output), "legenda_message");
    assert_eq!(messages("once"), messages("each"));
    assert_eq!(columns(&place, "once")[0], columns(&place, "each")[0]);
}

#[test]
fn answers_of_earlier_runs_are_reused_by_any_job_with_the_same_input() {
    let place = place(&repeated(), &format!("{TEXT_JOB}{STORE}"));
    let first = run(&place, "first", &[]);
    assert_eq!((&first["rows_repeated"], &first["rows_reused"]), (&15.into(), &0.into()));
    assert_eq!(columns(&place, "first")[1], all("ok", 20));

    // Another output, other spans, other columns, the same questions and some new ones.
    let mut more = repeated();
    more.push("What is cat in German?".to_owned());
    more.insert(7, "What is fish in German?".to_owned());
    let questions: Vec<&str> = more.iter().map(String::as_str).collect();
    write_table(&place.path("table.parquet"), &texts(&questions), 9);
    let changes = ["output.span_rows=3", "task.prompt={{ text }}", "output.columns=[\"question\"]"];
    let second = run(&place, "second", &changes);
    assert_eq!((&second["rows_repeated"], &second["rows_reused"]), (&0.into(), &20.into()));
    let fresh =
        run(&place, "anew", &[changes[0], changes[1], changes[2], "reuse.store=other.sqlite"]);
    assert_eq!(fresh["rows_reused"], 0);
    let (second, fresh) = (place.answers("second"), place.answers("anew"));
    let status = text_column(&second, "legenda_status");
    for (row, question) in more.iter().enumerate() {
        let is_new = question.contains("cat") || question.contains("fish");
        assert_eq!(status[row].as_deref(), Some(if is_new { "ok" } else { "reused" }), "{row}");
    }
    // The other columns of the answers are unchanged.
    for name in fresh.schema().fields().iter().map(|field| field.name()) {
        if name != "legenda_status" {
            assert_eq!(second.column_by_name(name), fresh.column_by_name(name), "{name}");
        }
    }

    // A job with another prompt or setting finds nothing.
    for change in ["task.prompt=Say: {{ text }}", "generation.max_new_tokens=3"] {
        let report = run(&place, "third", &[change, "output.columns=[\"id\"]"]);
        assert_eq!(report["rows_reused"], 0, "{change}");
        place.remove_output("third");
    }
}

#[test]
fn reused_embeddings_are_bit_identical() {
    let rows = references::rows("minilm", |row| row["text"].is_string());
    let rows: Vec<String> = rows.iter().map(|row| row["text"].as_str().unwrap().into()).collect();
    let job = TEXT_JOB.replace("generate", "embed");
    let place = place(&rows, &with_bundle(&format!("{job}{STORE}"), "minilm"));
    let _first = run(&place, "first", &[]);
    let second = run(&place, "second", &[]);
    assert_eq!(second["rows_reused"], rows.len());
    let vectors = |output| place.answers(output).column_by_name("embedding").cloned();
    assert_eq!(vectors("first"), vectors("second"));
}

#[test]
fn sampled_answers_are_not_shared() {
    let place = place(&repeated(), &format!("{TEXT_JOB}{STORE}"));
    let draws = ["generation.temperature=1.5", "generation.max_new_tokens=12"];
    let first = run(&place, "first", &draws);
    assert_eq!((&first["rows_repeated"], &first["rows_reused"]), (&0.into(), &0.into()));
    let second = run(&place, "second", &draws);
    assert_eq!(second["rows_reused"], 20);
    let [answers, status] = columns(&place, "second");
    assert_eq!(answers, columns(&place, "first")[0]);
    assert_eq!(status, all("reused", 20));
    // Duplicate rows were sampled independently.
    let of_first: std::collections::BTreeSet<_> = answers.iter().step_by(5).collect();
    assert!(of_first.len() > 1, "{answers:?}");
}

#[test]
fn an_unusable_result_store_costs_time_and_no_row() {
    let place = place(&repeated(), &format!("{TEXT_JOB}{STORE}"));
    let _first = run(&place, "first", &[]);
    let bytes = std::fs::read(place.path("kept/results.sqlite")).unwrap();
    for (how, damaged) in [
        ("another file", b"this is no database".repeat(400)),
        ("cut off", bytes[..bytes.len() / 2].to_vec()),
        ("torn", [&bytes[..4096], &vec![0xa5; bytes.len() - 4096][..]].concat()),
        ("empty", Vec::new()),
    ] {
        for name in ["results.sqlite-wal", "results.sqlite-shm"] {
            std::fs::remove_file(place.path("kept").join(name)).ok();
        }
        let mut file = File::create(place.path("kept/results.sqlite")).unwrap();
        file.write_all(&damaged).unwrap();
        drop(file);
        let report = run(&place, "again", &["output.rejects=inline"]);
        assert_eq!((&report["answers"], &report["rows_reused"]), (&20.into(), &0.into()), "{how}");
        assert_eq!(columns(&place, "again")[0], columns(&place, "first")[0], "{how}");
        place.remove_output("again");
    }
    // A folder with the name of the store.
    std::fs::create_dir(place.path("folder.sqlite")).unwrap();
    let ended = place.run(&["run", "job.toml", "--set", "reuse.store=folder.sqlite"]);
    ended.expect(0).stderr_contains(&["folder.sqlite", "result store disabled"]);
}

#[cfg(unix)]
#[test]
fn a_full_result_store_costs_time_and_no_row() {
    let questions: Vec<String> = (0..500).map(|row| format!("What is {row} plus one?")).collect();
    let place = place(&questions, &format!("{TEXT_JOB}{STORE}"));
    // Limit files to 64 KiB; output files are smaller.
    let run = "ulimit -f 128; exec \"$0\" run job.toml --set output.span_rows=50";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", run]).arg(legenda_tests::binary()).current_dir(place.path(""));
    let full = legenda_tests::run_command(&mut command).expect(0);
    full.stderr_contains(&["results.sqlite", "result store disabled"]);
    assert!(full.stdout.contains("rows_in 500 == answers 500"), "{}", full.stdout);
    let _proof = place.run(&["verify", "out"]).expect(0);
    // Answers stored before the failure are intact.
    let later = self::run(&place, "later", &[]);
    assert_eq!(later["answers"], 500);
    assert_eq!(columns(&place, "later")[0], columns(&place, "out")[0]);
}

#[test]
fn a_killed_run_finds_its_stored_answers() {
    let questions: Vec<String> = (0..900).map(|row| format!("What is {}?", row % 450)).collect();
    let place = place(&questions, &format!("{TEXT_JOB}{STORE}"));
    let _calm = run(&place, "calm", &["reuse.store=calm.sqlite"]);
    let mut n_killed = 0;
    for wait in [300, 500, 700, 900, 1100] {
        let mut child = place.start(&["run", "job.toml", "--set", "output.path=killed"]);
        std::thread::sleep(std::time::Duration::from_millis(wait));
        n_killed += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(n_killed > 0);
    let _whole = run(&place, "killed", &[]);
    let _proof = place.run(&["verify", "killed"]).expect(0);
    assert_eq!(columns(&place, "killed")[0], columns(&place, "calm")[0]);
    let again = run(&place, "again", &[]);
    assert_eq!(again["rows_reused"], 900);
}

#[test]
fn two_runs_may_share_a_result_store() {
    let questions: Vec<String> = (0..60).map(|n| format!("What is {} plus 2?", n % 30)).collect();
    let place = place(&questions, &format!("{TEXT_JOB}{STORE}"));
    let outputs = ["one", "two", "three"];
    let runs = outputs.map(|output| {
        let path = format!("output.path={output}");
        place.start(&["run", "job.toml", "--set", &path])
    });
    for mut child in runs {
        assert!(child.wait().unwrap().success());
    }
    let [one, two, three] = outputs.map(|output| columns(&place, output)[0].clone());
    assert!(one == two && two == three);
    let later = run(&place, "later", &[]);
    assert_eq!(later["rows_reused"], 60);
}

#[test]
fn an_invalid_result_store_path_is_refused() {
    let place = place(&repeated(), TEXT_JOB);
    for (change, key) in [
        ("reuse.store=s3://bucket/results.sqlite", "`reuse.store`"),
        ("reuse.store=\"\"", "`reuse.store`"),
        ("reuse={ store = \"x\", max_size = \"1KiB\" }", "`reuse.max_size`"),
    ] {
        let refused = place.run(&["check", "job.toml", "--set", change]).expect(2);
        refused.stderr_contains(&[key]);
    }
}
