//! Jobs over a growing source: only new rows are read.

use std::{fs, path::PathBuf, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray},
    datatypes::DataType,
};
use legenda_tests::{
    TEXT_JOB, Workplace,
    bucket::{BucketServer, bucket_with_images},
    image_table, png, read_table, text_column, texts, write_table,
};

/// Returns the printed byte counts of a run: source bytes read for rows, and for planning.
fn bytes_read(stdout: &str) -> (String, String) {
    let line = stdout.lines().find(|line| line.contains(" of the source for rows, ")).unwrap();
    let (rows, plan) = line.split_once(" of the source for rows, ").unwrap();
    let plan = plan.strip_suffix(" for planning").unwrap();
    (rows.strip_prefix("read ").unwrap().to_owned(), plan.to_owned())
}

fn put_table(place: &Workplace, bucket: &BucketServer, name: &str, n_rows: u8) {
    let cells: Vec<_> = (0..n_rows).map(|row| Some(png(row))).collect();
    write_table(&place.path("t.parquet"), &image_table(&cells), 8);
    bucket.put(&format!("tables/{name}.parquet"), &fs::read(place.path("t.parquet")).unwrap());
}

#[test]
fn only_new_files_of_a_growing_bucket_are_read() {
    let (place, bucket) = bucket_with_images(16);
    put_table(&place, &bucket, "u", 16);
    let query = "source.query=SELECT * FROM source WHERE id <> 'row-3'";
    let query: &[&str] = if cfg!(feature = "sql") { &["--set", query] } else { &[] };
    let asked = [&["run", "job.toml"], query].concat();
    let n_rows = |n_files: usize| n_files * if cfg!(feature = "sql") { 15 } else { 16 };
    let first = bucket.run(&place, &asked).expect(0);
    assert!(first.stdout.contains(&format!("rows_in {}", n_rows(2))), "{}", first.stdout);

    // A third file is added: of the other two, no rows are read, and only the footer of the first.
    put_table(&place, &bucket, "v", 16);
    let sent_before = bucket.sent_bytes();
    let second = bucket.run(&place, &asked).expect(0);
    let sent = bucket.sent_bytes();
    let (new, all) = (n_rows(1), n_rows(3));
    assert!(second.stdout.contains(&format!("{new} rows in")), "{}", second.stdout);
    assert!(second.stdout.contains(&format!("rows_in {all}")), "{}", second.stdout);
    assert!(sent * 2 < sent_before * 3, "{sent} bytes now, {sent_before} before");
    let told = bucket.run(&place, &["verify", "s3://bucket/out"]).expect(0);
    assert!(told.stdout.contains(&format!("rows_in {all}")), "{}", told.stdout);

    // Nothing is new.
    let third = bucket.run(&place, &asked).expect(0);
    assert_eq!(bytes_read(&third.stdout).0, "0B", "{}", third.stdout);
    assert!(third.stdout.contains(&format!("rows_in {all}")), "{}", third.stdout);

    // A changed file is processed again; the answers of a deleted file are removed.
    put_table(&place, &bucket, "u", 8);
    bucket.clear("tables/v.parquet");
    let fourth = bucket.run(&place, &asked).expect(0);
    let all = n_rows(1) + if cfg!(feature = "sql") { 7 } else { 8 };
    assert!(fourth.stdout.contains(&format!("rows_in {all}")), "{}", fourth.stdout);
    let told = bucket.run(&place, &["verify", "s3://bucket/out"]).expect(0);
    assert!(told.stdout.contains(&format!("rows_in {all}")), "{}", told.stdout);
}

fn workplace(tables: &[(&str, &[&str])]) -> Workplace {
    let place = Workplace::new();
    for (name, questions) in tables {
        put_texts(&place, name, questions);
    }
    place.write("job.toml", &TEXT_JOB.replace("table.parquet", "*.parquet"));
    place
}

fn put_texts(place: &Workplace, name: &str, questions: &[&str]) {
    write_table(&place.path(&format!("{name}.parquet")), &texts(questions), 50);
}

fn questions(place: &Workplace) -> Vec<String> {
    let answers: RecordBatch = place.answers("out");
    let mut asked: Vec<String> = text_column(&answers, "question").into_iter().flatten().collect();
    asked.sort();
    asked
}

#[test]
fn source_incremental_selects_the_rows_to_process_again() {
    let place = workplace(&[("a", &["a one"]), ("b", &["b one", "b two"])]);
    let run = |incremental: &str| {
        let key = format!("source.incremental={incremental}");
        let told = place.run(&["run", "job.toml", "--set", &key]).expect(0);
        let verified = place.run(&["verify", "out"]).expect(0);
        assert!(verified.stdout.contains("verified"), "{}", verified.stdout);
        told.stdout
    };
    assert!(run("new").contains("3 rows in"));
    fs::remove_file(place.path("a.parquet")).unwrap();
    put_texts(&place, "b", &["b three"]);
    put_texts(&place, "c", &["c one"]);
    // Only the new file is processed, and no answers are removed.
    assert!(run("new").contains("1 row in"));
    assert_eq!(questions(&place), ["a one", "b one", "b two", "c one"]);
    assert!(run("new").contains("0 rows in"));
    // The output follows the source.
    assert!(run("changed").contains("1 row in"));
    assert_eq!(questions(&place), ["b three", "c one"]);
    // All rows are processed every time.
    for _ in 0..2 {
        assert!(run("all").contains("2 rows in"));
        assert_eq!(questions(&place), ["b three", "c one"]);
    }
}

#[test]
fn stale_answers_are_kept_or_redone() {
    let place = workplace(&[("a", &["a one", "a two"])]);
    let told = place.run(&["run", "job.toml"]).expect(0);
    assert!(told.stdout.contains("2 rows in"), "{}", told.stdout);
    put_texts(&place, "b", &["b one"]);
    let run = |stale: &[&str]| {
        let asked = ["run", "job.toml", "--set", "task.prompt=Say {{ text }}"];
        place.run(&[&asked[..], stale].concat())
    };
    run(&[]).expect(2).stderr_contains(&["task.prompt", "--stale"]);
    let kept = run(&["--stale", "keep"]).expect(0);
    assert!(kept.stdout.contains("1 row in"), "{}", kept.stdout);
    assert!(kept.stdout.contains("rows_in 3 == answers 3"), "{}", kept.stdout);
    let told = place.run(&["verify", "out"]).expect(0);
    assert!(told.stdout.contains("rows_in 3 == answers 3"), "{}", told.stdout);
    assert_eq!(questions(&place), ["a one", "a two", "b one"]);
    let again = run(&[]).expect(0);
    assert!(again.stdout.contains("0 rows in"), "{}", again.stdout);
    let redone = run(&["--stale", "redo"]).expect(0);
    assert!(redone.stdout.contains("2 rows in"), "{}", redone.stdout);
    assert_eq!(questions(&place), ["a one", "a two", "b one"]);
    // A job with other columns cannot share the output.
    place
        .run(&["run", "job.toml", "--stale", "keep", "--set", "output.columns=[\"id\"]"])
        .expect(2)
        .stderr_contains(&["output.columns: not set", "--stale redo"]);
}

/// Returns the type of a column in each part, in the order of part names.
fn types_of(place: &Workplace, column: &str) -> Vec<DataType> {
    let mut parts: Vec<PathBuf> =
        fs::read_dir(place.path("out")).unwrap().map(|part| part.unwrap().path()).collect();
    parts.sort();
    let kind = |part: &PathBuf| {
        read_table(part)[0].schema().field_with_name(column).unwrap().data_type().clone()
    };
    parts.iter().map(kind).collect()
}

fn table_of(ids: ArrayRef) -> RecordBatch {
    let n_rows = ids.len();
    let questions: ArrayRef = Arc::new(StringArray::from_iter_values(vec!["what?"; n_rows]));
    RecordBatch::try_from_iter([("id", ids), ("question", questions)]).unwrap()
}

#[test]
fn new_files_keep_the_column_types_of_committed_ones() {
    type Writes = fn(&Workplace, &str, &str);
    let csv: Writes = |place, name, id| {
        place.write(&format!("{name}.csv"), &format!("id,question\n{id},what?\n"));
    };
    let jsonl: Writes = |place, name, id| {
        let id = if id.starts_with('x') { format!("\"{id}\"") } else { id.to_owned() };
        let line = format!("{{\"id\": {id}, \"question\": \"what?\"}}\n");
        place.write(&format!("{name}.jsonl"), &line);
    };
    let parquet: Writes = |place, name, id| {
        let ids: ArrayRef = match id.parse::<i32>() {
            Ok(id) => Arc::new(Int32Array::from(vec![id])),
            Err(_) => Arc::new(Int64Array::from(vec![1 << 40])),
        };
        write_table(&place.path(&format!("{name}.parquet")), &table_of(ids), 8);
    };
    for (extension, write, wide) in [
        ("csv", csv, DataType::Utf8),
        ("jsonl", jsonl, DataType::Utf8),
        ("parquet", parquet, DataType::Int64),
    ] {
        let place = Workplace::new();
        let job = TEXT_JOB.replace("table.parquet", &format!("*.{extension}"));
        place.write("job.toml", &job.replace("[output]", "[output]\ncolumns = [\"id\"]"));
        for (name, id) in [("a", "1"), ("b", "x2"), ("c", "3")] {
            write(&place, name, id);
        }
        let _first = place.run(&["run", "job.toml"]).expect(0);
        assert_eq!(types_of(&place, "id"), vec![wide.clone(); 3], "{extension}");
        // Only the first of the committed files is read again, for the table's types.
        write(&place, "d", "4");
        let second = place.run(&["run", "job.toml"]).expect(0);
        assert!(second.stdout.contains("1 row in"), "{extension} {}", second.stdout);
        assert!(!second.stderr.contains("warn"), "{extension} {}", second.stderr);
        assert_eq!(types_of(&place, "id"), vec![wide.clone(); 4], "{extension}");
        let _verified = place.run(&["verify", "out"]).expect(0);
        // Without earlier answers, the types depend on the files alone.
        write(&place, "b", "2");
        let _anew = place.run(&["run", "job.toml", "--overwrite"]).expect(0);
        let narrow = types_of(&place, "id");
        assert!(narrow.iter().all(|kind| *kind == narrow[0] && *kind != wide), "{narrow:?}");
        // A value that fits no earlier type: a warning reports it, and old answers stay.
        write(&place, "e", "x5");
        let told = place.run(&["run", "job.toml"]).expect(0);
        let is_told = told.stderr.contains(&format!("and {wide} in new ones"));
        assert!(is_told, "{extension} {}", told.stderr);
        assert_eq!(types_of(&place, "id"), [&narrow[..], &[wide]].concat(), "{extension}");
    }
}
