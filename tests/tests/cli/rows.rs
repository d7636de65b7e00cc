//! Every row is answered or rejected with a reason; one bad row never aborts a job.

use std::{fs, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, RecordBatch, StringArray},
    datatypes::UInt64Type,
    ipc::reader::FileReader,
};
use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, image_table, png, text_column, texts, write_table,
};

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|&text| Some(text.to_owned())).collect()
}

/// Returns nine images, of which rows 1, 3, 4 and 6 are bad.
fn images_with_bad_ones() -> RecordBatch {
    let good = png(7);
    let mut cells: Vec<Option<Vec<u8>>> = (0..9).map(|shade| Some(png(shade))).collect();
    cells[1] = Some(good[..good.len() / 2].to_vec());
    cells[3] = None;
    cells[4] = Some(b"not a picture".to_vec());
    cells[6] = Some(Vec::new());
    image_table(&cells)
}

#[test]
fn bad_rows_are_rejected_with_a_reason_and_can_be_used_as_a_source() {
    let place = Workplace::new();
    let table = images_with_bad_ones();
    write_table(&place.path("table.parquet"), &table, 5);
    place.write("job.toml", IMAGE_JOB);
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 9 == answers 5 + rejects 4"), "{}", ended.stdout);

    let answers = place.answers("out");
    assert_eq!(text_column(&answers, "id"), some(&["row-0", "row-2", "row-5", "row-7", "row-8"]));
    assert!(text_column(&answers, "legenda_status").iter().all(|s| s.as_deref() == Some("ok")));
    let names: Vec<String> =
        answers.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(
        names,
        [
            "id",
            "answer",
            "legenda_status",
            "legenda_finish_reason",
            "legenda_flags",
            "legenda_tokens_prompt",
            "legenda_tokens_generated",
            "legenda_logprob_mean",
            "legenda_input_sha256",
        ]
    );

    let rejects = place.rejects("out");
    assert_eq!(text_column(&rejects, "id"), some(&["row-1", "row-3", "row-4", "row-6"]));
    let codes = ["media_damaged", "media_missing", "media_unknown_format", "media_empty"];
    assert_eq!(text_column(&rejects, "legenda_code"), some(&codes));
    let rows = rejects.column_by_name("legenda_row").unwrap().as_primitive::<UInt64Type>();
    assert_eq!(rows.values(), &[1, 3, 4, 6]);
    for message in text_column(&rejects, "legenda_message") {
        assert!(message.as_ref().unwrap().contains("column `image`"), "{message:?}");
    }
    let originals = rejects.column_by_name("image").unwrap().as_binary::<i32>();
    assert_eq!(originals.value(2), b"not a picture", "the reject must keep the original row");

    let again =
        IMAGE_JOB.replace("table.parquet", "out.legenda/rejects").replace("\"out\"", "\"out2\"");
    place.write("again.toml", &again);
    let ended = place.run(&["run", "again.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 4 == answers 0 + rejects 4"), "{}", ended.stdout);
}

#[test]
fn rejects_can_be_written_inline() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &images_with_bad_ones(), 5);
    place.write("job.toml", IMAGE_JOB);
    let args = ["run", "job.toml", "--set", "output.rejects=inline"];
    let ended = place.run(&args).expect(0);
    assert!(ended.stdout.contains("rows_in 9 == answers 5 + rejects 4"), "{}", ended.stdout);
    let answers = place.answers("out");
    assert_eq!(answers.num_rows(), 9);
    let status = text_column(&answers, "legenda_status");
    let texts = text_column(&answers, "answer");
    for row in [1, 3, 4, 6] {
        assert_eq!(status[row].as_deref(), Some("rejected"));
        assert_eq!(texts[row], None);
    }
    assert_eq!(text_column(&answers, "legenda_reject_code")[3].as_deref(), Some("media_missing"));
}

#[test]
fn an_exhausted_error_budget_exits_with_3_and_can_be_resumed() {
    let place = Workplace::new();
    let mut cells: Vec<Option<Vec<u8>>> =
        (0..404).map(|shade| Some(png(u8::try_from(shade % 200).unwrap()))).collect();
    cells[40..44].fill(None);
    write_table(&place.path("table.parquet"), &image_table(&cells), 404);
    place.write("job.toml", IMAGE_JOB);
    let ended = place.run(&["run", "job.toml", "--set", "limits.error_budget=\"3\""]).expect(3);
    ended.stderr_contains(&["limits.error_budget"]);
    let done = place.answers("out").num_rows();
    assert!((1..400).contains(&done), "{done} answers: the run did not stop in time");
    let ended = place.run(&["run", "job.toml", "--set", "limits.error_budget=\"1%\""]).expect(0);
    assert!(ended.stdout.contains("rows_in 404 == answers 400 + rejects 4"), "{}", ended.stdout);
}

#[test]
fn a_damaged_row_group_costs_only_its_rows() {
    let place = Workplace::new();
    let questions: Vec<String> = (0..30).map(|n| format!("What is dog in German? {n}")).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    let path = place.path("table.parquet");
    write_table(&path, &texts(&questions), 10);
    // The middle row group's pages are in the middle of the file: overwrite some of them.
    let mut bytes = fs::read(&path).unwrap();
    let marker = b"What is dog in German? 15";
    let at = bytes.windows(marker.len()).position(|window| window == marker).unwrap();
    bytes[at - 200..at + 20].fill(0xFF);
    fs::File::create(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &bytes))
        .unwrap();

    place.write("job.toml", TEXT_JOB);
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 30 == "), "{}", ended.stdout);
    let answers = text_column(&place.answers("out"), "id");
    for row in (0..10).chain(20..30) {
        assert!(answers.contains(&Some(format!("row-{row}"))), "row {row} of an intact row group");
    }
    let rejects = place.rejects("out");
    let codes = text_column(&rejects, "legenda_code");
    assert!(!codes.is_empty() && codes.iter().all(|c| c.as_deref() == Some("source_damaged")));
}

#[test]
fn arrow_ipc_output_has_the_same_rows() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["What is dog in German?", "Name it."]), 10);
    place.write("job.toml", TEXT_JOB);
    let args = ["run", "job.toml", "--set", "output.format=arrow"];
    let ended = place.run(&args).expect(0);
    assert!(ended.stdout.contains("rows_in 2 == answers 2 + rejects 0"), "{}", ended.stdout);
    let part = fs::read_dir(place.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "arrow"))
        .unwrap();
    let reader = FileReader::try_new(fs::File::open(part).unwrap(), None).unwrap();
    let rows: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    assert_eq!(text_column(&rows[0], "id"), some(&["row-0", "row-1"]));
}

#[test]
fn templates_join_columns_and_equal_prompts_get_equal_answers() {
    let place = Workplace::new();
    let words: ArrayRef = Arc::new(StringArray::from(vec![Some("dog"), None, Some("dog")]));
    let id: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let table =
        RecordBatch::try_from_iter_with_nullable([("id", id, false), ("word", words, true)]);
    write_table(&place.path("table.parquet"), &table.unwrap(), 10);
    let job = TEXT_JOB
        .replace("kind = \"generate\"", "kind = \"generate\"\nprompt = \"{% if word %}What is {{ word }} in German?{% endif %}\"")
        .replace(", text = \"question\"", "");
    place.write("job.toml", &job);
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 3 == answers 2 + rejects 1"), "{}", ended.stdout);
    let answers = place.answers("out");
    let texts = text_column(&answers, "answer");
    assert_eq!(texts[0], texts[1]);
    let digests = text_column(&answers, "legenda_input_sha256");
    assert_eq!(digests[0], digests[1]);
    assert_eq!(text_column(&place.rejects("out"), "legenda_code"), some(&["row_empty"]));
}

#[test]
fn answers_do_not_depend_on_the_number_of_slots() {
    let place = Workplace::new();
    let job = fs::read_to_string(legenda_tests::repository().join("jobs/examples/everything.toml"));
    place.write("job.toml", &job.unwrap());
    let sample = legenda_tests::repository().join("jobs/examples/sample/*.parquet");
    let paths = format!("source.paths=[{:?}]", sample.display().to_string());
    let run = |slots: &str, more: &[&str], output: &str| {
        let slots = format!("model.slots={slots}");
        let output_set = format!("output.path={output}");
        let mut args =
            vec!["run", "job.toml", "--set", &slots, "--set", &output_set, "--set", &paths];
        args.extend(more);
        let ended = place.run(&args).expect(0);
        assert!(ended.stdout.contains("rows_in"), "{}", ended.stdout);
        place.answers(output)
    };
    let one = run("1", &[], "one");
    assert_eq!(text_column(&one, "answer"), text_column(&run("3", &[], "three"), "answer"));
    assert_eq!(text_column(&one, "answer"), text_column(&run("8", &[], "eight"), "answer"));
    let drawn = ["--set", "generation.temperature=0.8", "--set", "generation.seed=7"];
    let drawn_by_two = run("2", &drawn, "two");
    let drawn_by_five = run("5", &drawn, "five");
    assert_eq!(text_column(&drawn_by_two, "answer"), text_column(&drawn_by_five, "answer"));
}

/// Runs a job with extra arguments; asserts how many rows are committed, by this run and in total,
/// and that the output is valid.
fn assert_continues(place: &Workplace, args: &[&str], of_this_run: u64, in_all: u64) {
    let args = [&["run", "job.toml", "--progress", "json"], args].concat();
    let ended = place.run(&args).expect(0);
    let report = ended.stderr.lines().rfind(|line| line.starts_with("{\"report\"")).unwrap();
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    let report = &report["report"];
    assert_eq!(report["rows_in"], in_all, "{args:?}");
    assert_eq!(report["rows_resumed"], in_all - of_this_run, "{args:?}");
    assert_eq!(report["spans_superseded"], 0, "{args:?}");
    assert!(place.run(&["verify", "out"]).expect(0).stdout.contains(&format!("rows_in {in_all} ")));
}

#[test]
fn a_higher_limit_processes_only_new_rows() {
    let place = Workplace::new();
    let questions: Vec<String> = (0..13).map(|row| format!("What is {row} plus one?")).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    // Two files, each with several row groups and spans.
    let table = texts(&questions);
    write_table(&place.path("a.parquet"), &table.slice(0, 7), 5);
    write_table(&place.path("b.parquet"), &table.slice(7, 6), 6);
    place.write("job.toml", &TEXT_JOB.replace("table.parquet", "[ab].parquet"));
    assert_continues(&place, &["--limit", "3"], 3, 3);
    let first = text_column(&place.answers("out"), "id");
    assert_eq!(first, ["row-0", "row-1", "row-2"].map(|id| Some(id.to_owned())));
    assert_continues(&place, &["--limit", "3"], 0, 3);
    assert_continues(&place, &["--limit", "6"], 3, 6);
    // Within the second file: the first is complete, but the output is not.
    assert_continues(&place, &["--limit", "9"], 3, 9);
    // A smaller limit removes nothing.
    assert_continues(&place, &["--limit", "2"], 0, 9);
    assert_continues(&place, &[], 4, 13);
    assert_continues(&place, &[], 0, 13);
    assert_continues(&place, &["--limit", "4"], 0, 13);
    assert_continues(&place, &[], 0, 13);
    let column = |output: &str, name: &str| {
        let rows = place.answers(output);
        let mut rows: Vec<_> =
            text_column(&rows, "id").into_iter().zip(text_column(&rows, name)).collect();
        rows.sort();
        rows
    };
    let at_once = place.run(&["run", "job.toml", "--set", "output.path=whole"]).expect(0);
    assert!(at_once.stdout.contains("rows_in 13 "), "{}", at_once.stdout);
    assert_eq!(column("out", "answer"), column("whole", "answer"));
}

#[test]
fn a_limit_may_grow_after_a_retry() {
    let place = Workplace::new();
    let mut table: Vec<&str> = vec!["What is two plus two?"; 9];
    table[1] = "";
    table[7] = "";
    write_table(&place.path("table.parquet"), &texts(&table), 9);
    place.write("job.toml", TEXT_JOB);
    assert_continues(&place, &["--limit", "3"], 3, 3);
    let retried = place.run(&["retry", "out"]).expect(0);
    assert!(retried.stdout.contains("rejects 1"), "{}", retried.stdout);
    assert_continues(&place, &[], 6, 9);
    assert!(place.run(&["retry", "out"]).expect(0).stdout.contains("rejects 2"));
    assert!(place.run(&["verify", "out"]).expect(0).stdout.contains("answers 7 + rejects 2"));
}

#[test]
fn progress_can_be_json() {
    let place = Workplace::new();
    let questions = vec!["What is dog in German?"; 400];
    write_table(&place.path("table.parquet"), &texts(&questions), 100);
    place.write("job.toml", TEXT_JOB);
    let args = ["run", "job.toml", "--progress", "json", "--show", "2", "--set", "model.slots=1"];
    let ended = place.run(&args).expect(0);
    assert!(ended.stdout.contains("row-"), "answers are missing:\n{}", ended.stdout);
    let lines: Vec<serde_json::Value> = ended
        .stderr
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // The report comes last, after at least one line of progress.
    let (report, lines) = lines.split_last().expect("expected JSON lines");
    assert_eq!(report["report"]["rows_in"], 400);
    let last = lines.last().expect("expected a line of progress");
    assert_eq!(last["rows_planned"], 400);
    for key in ["rows_done", "rejects", "rows_per_second", "tokens_per_second"] {
        assert!(last[key].is_number(), "{key} in {last}");
    }
}

#[test]
fn a_run_that_rejects_most_rows_warns() {
    let place = Workplace::new();
    place.write("job.toml", TEXT_JOB);
    let texts_of = |n_rows: usize, n_empty: usize| -> Vec<&str> {
        (0..n_rows).map(|row| if row < n_empty { "" } else { "dog?" }).collect()
    };
    write_table(&place.path("table.parquet"), &texts(&texts_of(120, 61)), 200);
    let spent = place.run(&["run", "job.toml"]).expect(3);
    spent.stderr_contains(&["61 of 120 rows", "limits.error_budget", "limits.error_budget=100%"]);
    let all = ["run", "job.toml", "--set", "limits.error_budget=100%"];
    let ended = place.run(&all).expect(0);
    assert!(ended.stdout.contains("rows_in 120 == answers 59 + rejects 61"), "{}", ended.stdout);
    ended.stderr_contains(&["warning: 61 of 120 rows were rejected"]);
    write_table(&place.path("table.parquet"), &texts(&texts_of(120, 60)), 200);
    let half = place.run(&["run", "job.toml"]).expect(0);
    assert!(!half.stderr.contains("warning"), "{}", half.stderr);
    write_table(&place.path("table.parquet"), &texts(&texts_of(9, 9)), 200);
    place.run(&["run", "job.toml"]).expect(0).stderr_contains(&["warning: 9 of 9 rows"]);
}
