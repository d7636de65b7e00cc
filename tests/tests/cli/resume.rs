//! An interrupted run resumes: no row is lost or duplicated.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use legenda_tests::{TEXT_JOB, Workplace, text_column, texts, write_table};

const N_ROWS: usize = 600;

fn workplace() -> Workplace {
    let place = Workplace::new();
    let questions: Vec<String> = (0..N_ROWS).map(|n| format!("What is {n} plus one?")).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    write_table(&place.path("table.parquet"), &texts(&questions), 50);
    place.write("job.toml", TEXT_JOB);
    place
}

fn entries(place: &Workplace) -> usize {
    let ledger = place.path("out.legenda/ledger");
    fs::read_dir(ledger).map_or(0, |entries| entries.count())
}

/// Waits until the run has committed some spans.
fn wait_for_entries(place: &Workplace, n: usize) {
    let start = Instant::now();
    while entries(place) < n {
        assert!(start.elapsed() < Duration::from_secs(120), "no span was committed");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn contents(place: &Workplace, output: &str) -> Vec<Vec<Option<String>>> {
    let answers = place.answers(output);
    ["id", "answer", "legenda_input_sha256"].map(|name| text_column(&answers, name)).to_vec()
}

#[test]
fn a_killed_run_resumes_without_losing_or_duplicating_a_row() {
    let place = workplace();
    for kill in 1..=3 {
        let before = entries(&place);
        let mut child = place.start(&["run", "job.toml", "--set", "model.slots=2"]);
        wait_for_entries(&place, before + 4 * kill);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(entries(&place) < N_ROWS / 4, "the run finished before it was killed");
    }
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 600 == answers 600 + rejects 0"), "{}", ended.stdout);
    assert!(ended.stdout.contains("committed by earlier runs"), "{}", ended.stdout);

    let undisturbed = place.run(&["run", "job.toml", "--set", "output.path=calm"]).expect(0);
    assert!(undisturbed.stdout.contains("rows_in 600"), "{}", undisturbed.stdout);
    assert_eq!(contents(&place, "out"), contents(&place, "calm"));
    let leftovers = fs::read_dir(place.path("out.legenda/tmp")).unwrap().count();
    assert_eq!(leftovers, 0, "temporary files are left");
}

#[cfg(unix)]
#[test]
fn sigterm_commits_started_spans_and_prints_how_to_resume() {
    let place = workplace();
    let mut command = place.command(&["run", "job.toml", "--set", "model.slots=2"]);
    let child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_entries(&place, 4);
    let killed = std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("to resume, run:") && stderr.contains("job.toml"), "{stderr}");
    let done = place.answers("out").num_rows();
    assert!(done > 0 && done < N_ROWS, "{done}");
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 600 == answers 600"), "{}", ended.stdout);
}

/// Runs a job of one long span until some of its rows are answered, then sends SIGTERM.
#[cfg(unix)]
fn terminate_within_a_span(place: &Workplace, extra: &[&str]) -> std::process::Output {
    use std::io::{BufRead, BufReader, Read};
    let args = ["run", "job.toml", "--progress", "json", "--set", "model.slots=3"];
    let mut command = place.command(&[&args[..], extra].concat());
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    loop {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "the run finished: {said}");
        let line = said.lines().last().unwrap_or_default();
        let done = line.split("\"rows_done\":").nth(1);
        if done.is_some_and(|rest| !rest.starts_with('0')) {
            break;
        }
    }
    let killed = std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(killed.success());
    let start = Instant::now();
    stderr.read_to_string(&mut said).unwrap();
    let mut output = child.wait_with_output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(12), "the run exceeded its grace period");
    output.stderr = said.into_bytes();
    output
}

#[cfg(unix)]
#[test]
fn sigterm_commits_every_finished_row_of_a_span() {
    let place = Workplace::new();
    let questions: Vec<String> = (0..4000).map(|n| format!("What is {n} plus one?")).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    write_table(&place.path("table.parquet"), &texts(&questions), 4000);
    place.write("job.toml", &TEXT_JOB.replace("span_rows = 4", "span_rows = 4000"));
    let mut before = 0;
    for _ in 0..2 {
        let output = terminate_within_a_span(&place, &[]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert!(stderr.contains("to resume, run:"), "{stderr}");
        assert!(!stderr.contains("onnxruntime"), "{stderr}");
        let done = place.answers("out").num_rows();
        assert!(done > before && done < 4000, "{before} rows, then {done}");
        let summary = String::from_utf8(output.stdout).unwrap();
        assert!(summary.contains(&format!("rows_in {done} == answers {done} ")), "{summary}");
        before = done;
    }
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 4000 == answers 4000"), "{}", ended.stdout);
    let verified = place.run(&["verify", "out"]).expect(0);
    assert!(verified.stdout.contains("verified"), "{}", verified.stdout);
    drop(place.run(&["run", "job.toml", "--set", "output.path=calm"]).expect(0));
    assert_eq!(contents(&place, "out"), contents(&place, "calm"));
}

#[cfg(all(unix, feature = "sql"))]
#[test]
fn rows_selected_by_a_query_are_committed_when_a_run_is_stopped() {
    let place = Workplace::new();
    let questions: Vec<String> = (0..4000).map(|n| format!("What is {n} plus one?")).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    write_table(&place.path("table.parquet"), &texts(&questions), 4000);
    let query = "[source]\nquery = \"SELECT * FROM source WHERE id NOT LIKE '%7'\"";
    let job = TEXT_JOB.replace("span_rows = 4", "span_rows = 500").replace("[source]", query);
    place.write("job.toml", &job);
    let output = terminate_within_a_span(&place, &[]);
    assert_eq!(output.status.code(), Some(130));
    assert!(place.answers("out").num_rows() > 0);
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 3600 == answers 3600"), "{}", ended.stdout);
    drop(place.run(&["verify", "out"]).expect(0));
    drop(place.run(&["run", "job.toml", "--set", "output.path=calm"]).expect(0));
    assert_eq!(contents(&place, "out"), contents(&place, "calm"));
}

#[cfg(unix)]
#[test]
fn finished_rows_are_committed_without_a_grace_period() {
    let place = Workplace::new();
    let questions: Vec<String> = (0..4000).map(|n| format!("What is {n} plus one?")).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    write_table(&place.path("table.parquet"), &texts(&questions), 4000);
    place.write("job.toml", &TEXT_JOB.replace("span_rows = 4", "span_rows = 4000"));
    let output = terminate_within_a_span(&place, &["--grace", "1"]);
    assert_eq!(output.status.code(), Some(130));
    assert!(place.answers("out").num_rows() > 0);
    let ended = place.run(&["run", "job.toml", "--limit", "1000"]).expect(0);
    assert!(ended.stdout.contains("rows_in "), "{}", ended.stdout);
    drop(place.run(&["verify", "out"]).expect(0));
}

#[test]
fn a_run_with_a_higher_limit_continues() {
    let place = workplace();
    place.write("job.toml", &TEXT_JOB.replace("span_rows = 4", "span_rows = 40"));
    for (limit, rows, new) in [(10, 10, 10), (25, 25, 15), (5, 25, 0), (60, 60, 35)] {
        let limited = place.run(&["run", "job.toml", "--limit", &limit.to_string()]).expect(0);
        let rows = format!("rows_in {rows} == answers {rows}");
        assert!(limited.stdout.contains(&rows), "limit {limit}: {}", limited.stdout);
        let new = if new == 1 { "1 row in".to_owned() } else { format!("{new} rows in") };
        assert!(limited.stdout.contains(&new), "limit {limit}: {}", limited.stdout);
        drop(place.run(&["verify", "out"]).expect(0));
    }
    let all = place.run(&["run", "job.toml"]).expect(0);
    assert!(all.stdout.contains("rows_in 600 == answers 600"), "{}", all.stdout);
    assert!(all.stdout.contains("540 rows in"), "{}", all.stdout);
    drop(place.run(&["verify", "out"]).expect(0));
    drop(place.run(&["run", "job.toml", "--set", "output.path=calm"]).expect(0));
    assert_eq!(contents(&place, "out"), contents(&place, "calm"));
}

#[cfg(feature = "sql")]
#[test]
fn a_limit_on_query_rows_may_grow() {
    let place = workplace();
    let query = "[source]\nquery = \"SELECT * FROM source WHERE id LIKE '%7'\"";
    let job = TEXT_JOB.replace("span_rows = 4", "span_rows = 40").replace("[source]", query);
    place.write("job.toml", &job);
    let limited = place.run(&["run", "job.toml", "--limit", "7"]).expect(0);
    assert!(limited.stdout.contains("rows_in 7 == answers 7"), "{}", limited.stdout);
    let all = place.run(&["run", "job.toml"]).expect(0);
    assert!(all.stdout.contains("rows_in 60 == answers 60"), "{}", all.stdout);
    assert!(all.stdout.contains("53 rows in"), "{}", all.stdout);
    drop(place.run(&["run", "job.toml", "--set", "output.path=calm"]).expect(0));
    assert_eq!(contents(&place, "out"), contents(&place, "calm"));
    let checked = place.run(&["check", "job.toml"]).expect(0);
    assert!(checked.stdout.contains("60 of 600 rows in 1 file"), "{}", checked.stdout);
}

#[test]
fn column_types_do_not_depend_on_which_run_reads_a_file() {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    let place = Workplace::new();
    fs::create_dir(place.path("in")).unwrap();
    let question = || Arc::new(StringArray::from(vec!["dog?"])) as ArrayRef;
    let number = Arc::new(Int64Array::from(vec![7])) as ArrayRef;
    let text = |cell: &str| Arc::new(StringArray::from(vec![cell])) as ArrayRef;
    let tables = [
        ("a", vec![("id", Arc::clone(&number)), ("question", question())]),
        ("b", vec![("id", text("x7")), ("question", question()), ("note", text("n"))]),
        ("c", vec![("id", number), ("question", question())]),
    ];
    let put = |name: &str, columns: &[(&str, ArrayRef)]| {
        let rows = RecordBatch::try_from_iter(columns.to_vec()).unwrap();
        write_table(&place.path(&format!("in/{name}.parquet")), &rows, 10);
    };
    let job = TEXT_JOB.replace("table.parquet", "in").replace("[source]", "[source]\n");
    let job = job
        .replace("kind = \"generate\"", "kind = \"generate\"\nprompt = \"{{ text }}{{ note }}\"");
    place.write("job.toml", &job);
    tables[..2].iter().for_each(|(name, columns)| put(name, columns));
    drop(place.run(&["run", "job.toml"]).expect(0));
    put(tables[2].0, &tables[2].1);
    let resumed = place.run(&["run", "job.toml"]).expect(0);
    assert!(resumed.stdout.contains("rows_in 3 == answers 3"), "{}", resumed.stdout);
    // All parts have the same columns, so they can be concatenated.
    let ids = text_column(&place.answers("out"), "id");
    assert_eq!(ids, ["7", "x7", "7"].map(|id| Some(id.to_owned())));
}

#[test]
fn a_finished_run_has_nothing_to_do() {
    let place = workplace();
    let first = place.run(&["run", "job.toml", "--limit", "20"]).expect(0);
    assert!(first.stdout.contains("rows_in 20"), "{}", first.stdout);
    let part = |path: &Path| {
        let entry = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        entry
            .filter(|path| path.is_file())
            .map(|path| fs::metadata(path).unwrap().modified().unwrap())
            .max()
    };
    let written = part(&place.path("out"));
    let again = place.run(&["run", "job.toml", "--limit", "20"]).expect(0);
    assert!(again.stdout.contains("0 rows in"), "{}", again.stdout);
    assert!(again.stdout.contains("20 rows were committed by earlier runs"), "{}", again.stdout);
    assert_eq!(written, part(&place.path("out")), "a part was rewritten");
}

#[test]
fn another_job_is_refused_with_its_differences() {
    let place = workplace();
    let first = place.run(&["run", "job.toml", "--limit", "8"]).expect(0);
    assert!(first.stdout.contains("rows_in 8"), "{}", first.stdout);
    let asked = ["run", "job.toml", "--limit", "8", "--set", "task.prompt=Say {{ text }}"];
    let refused = place.run(&asked).expect(2);
    refused.stderr_contains(&["task.prompt: not set -> \"Say {{ text }}\"", "--overwrite"]);
    assert!(!refused.stderr.contains("ready in"), "the model was loaded: {}", refused.stderr);
    let long = format!("task.prompt={}", "long ".repeat(100));
    let refused = place.run(&["run", "job.toml", "--set", &long]).expect(2);
    refused.stderr_contains(&["task.prompt: not set -> \"long long", "…"]);
    assert!(!refused.stderr.contains(&"long ".repeat(60)), "{}", refused.stderr);
    // `check` reports the difference as a warning.
    let checked = ["check", "job.toml", "--set", "generation.seed=7"];
    place.run(&checked).expect(0).stderr_contains(&["generation.seed: 0 -> 7"]);
    // Settings that cannot change an answer may differ.
    let tuned = ["run", "job.toml", "--limit", "8", "--set", "model.slots=1"];
    assert!(place.run(&tuned).expect(0).stdout.contains("0 rows in"));
}

#[test]
fn a_changed_file_is_detected_and_processed_again() {
    let place = workplace();
    write_table(&place.path("table.parquet"), &texts(&["a b", "c d"]), 50);
    let first = place.run(&["run", "job.toml"]).expect(0);
    assert!(first.stdout.contains("rows_in 2"), "{}", first.stdout);
    write_table(&place.path("table.parquet"), &texts(&["a b", "c d", "e f"]), 50);
    let second = place.run(&["run", "job.toml"]).expect(0);
    assert!(second.stdout.contains("rows_in 3 == answers 3 + rejects 0"), "{}", second.stdout);
    assert!(second.stdout.contains("because the input changed"), "{}", second.stdout);
    assert_eq!(place.answers("out").num_rows(), 3);
}

#[test]
fn a_second_run_on_the_same_output_is_refused() {
    let place = workplace();
    let mut child = place.start(&["run", "job.toml", "--set", "model.slots=1"]);
    wait_for_entries(&place, 1);
    let refused = place.run(&["run", "job.toml"]).expect(2);
    refused.stderr_contains(&["another run", &child.id().to_string()]);
    child.kill().unwrap();
    child.wait().unwrap();
}
