//! `legenda export`: an output as one file.

use std::fs;

use arrow::array::{Array, AsArray, RecordBatch};
use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, image_table, png, read_table, repository, text_column, texts,
    write_table,
};

fn exported(place: &Workplace, name: &str) -> RecordBatch {
    let batches = read_table(&place.path(name));
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn ids(rows: impl IntoIterator<Item = usize>) -> Vec<Option<String>> {
    rows.into_iter().map(|row| Some(format!("row-{row}"))).collect()
}

/// Runs a job over 11 images of which the rows 4 and 7 are damaged.
fn images(place: &Workplace, keys: &[&str]) {
    let damaged = [4, 7];
    let cells: Vec<_> = (0..11_u8)
        .map(|row| Some(if damaged.contains(&row) { b"junk".to_vec() } else { png(row * 9) }))
        .collect();
    write_table(&place.path("table.parquet"), &image_table(&cells), 11);
    place.write("job.toml", IMAGE_JOB);
    let keys = keys.iter().flat_map(|key| ["--set", key]);
    let args: Vec<&str> = ["run", "job.toml"].into_iter().chain(keys).collect();
    let _ran = place.run(&args).expect(0);
}

#[test]
fn answers_are_exported_in_input_order() {
    for format in ["parquet", "arrow", "jsonl", "csv"] {
        let place = Workplace::new();
        images(&place, &[&format!("output.format={format}")]);
        let told = place.run(&["export", "out", "-o", "all.parquet"]).expect(0);
        assert!(told.stdout.contains("9 rows in all.parquet"), "{}", told.stdout);
        let rows = exported(&place, "all.parquet");
        assert_eq!(text_column(&rows, "id"), ids((0..11).filter(|row| ![4, 7].contains(row))));
        assert!(text_column(&rows, "answer").iter().all(Option::is_some));
        assert!(rows.column_by_name("legenda_reject_code").is_none());
    }
}

#[test]
fn rejects_are_in_their_places() {
    // The order of the rows of a partitioned output comes from `legenda_row`.
    for keys in [&[][..], &["output.rejects=inline"], &["output.partition_by=id"]] {
        let place = Workplace::new();
        images(&place, keys);
        let told = place.run(&["export", "out", "--rejects", "-o", "all.parquet"]).expect(0);
        assert!(told.stdout.contains("11 rows (2 rejects) in all.parquet"), "{}", told.stdout);
        let rows = exported(&place, "all.parquet");
        assert_eq!(text_column(&rows, "id"), ids(0..11));
        let codes = text_column(&rows, "legenda_reject_code");
        for (row, code) in codes.iter().enumerate() {
            let is_reject = [4, 7].contains(&row);
            assert_eq!(code.is_some(), is_reject, "{keys:?}");
            assert_eq!(text_column(&rows, "answer")[row].is_none(), is_reject);
            assert_eq!(text_column(&rows, "legenda_reject_message")[row].is_some(), is_reject);
            let status = if is_reject { "rejected" } else { "ok" };
            assert_eq!(text_column(&rows, "legenda_status")[row].as_deref(), Some(status));
        }
        assert_eq!(codes[4].as_deref(), Some("media_unknown_format"));
        // Without them, the answers alone.
        let _told = place.run(&["export", "out", "-o", "answers.parquet"]).expect(0);
        let rows = exported(&place, "answers.parquet");
        assert_eq!(text_column(&rows, "id"), ids((0..11).filter(|row| ![4, 7].contains(row))));
    }
}

#[test]
fn columns_are_chosen_and_an_existing_file_is_kept() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["a, b", "\"c\"", "d\ne"]), 10);
    place.write("job.toml", TEXT_JOB);
    let _ran = place.run(&["run", "job.toml"]).expect(0);
    let export = ["export", "out", "-o", "all.csv", "--columns", "question,id"];
    let _told = place.run(&export).expect(0);
    let expected = "question,id\n\"a, b\",row-0\n\"\"\"c\"\"\",row-1\n\"d\ne\",row-2\n";
    assert_eq!(fs::read_to_string(place.path("all.csv")).unwrap(), expected);
    let refused = ["export", "out", "-o", "all.csv"];
    place.run(&refused).expect(2).stderr_contains(&["`all.csv` already exists", "--force"]);
    assert_eq!(fs::read_to_string(place.path("all.csv")).unwrap(), expected);
    let _told = place.run(&["export", "out", "-o", "all.csv", "--force"]).expect(0);
    assert!(fs::read_to_string(place.path("all.csv")).unwrap().starts_with("id,question,answer,"));
    let misspelled = ["export", "out", "-o", "b.csv", "--columns", "anwser"];
    place.run(&misspelled).expect(2).stderr_contains(&["did you mean `answer`?", "`question`"]);
    let jsonl = ["export", "out", "-o", "all.jsonl", "--columns", "answer,id"];
    let _told = place.run(&jsonl).expect(0);
    let text = fs::read_to_string(place.path("all.jsonl")).unwrap();
    assert!(text.starts_with("{\"answer\":") && text.lines().count() == 3, "{text}");
    // Nothing is left of files that were refused or are written.
    let names = fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    assert!(
        names.iter().all(|name| !name.ends_with(".unfinished") && name != "b.csv"),
        "{names:?}"
    );
}

#[test]
fn wrong_targets_and_outputs_are_errors() {
    let place = Workplace::new();
    images(&place, &[]);
    let refuse = |args: &[&str], texts: &[&str]| place.run(args).expect(2).stderr_contains(texts);
    refuse(
        &["export", "out", "-o", "all.xlsx"],
        &["`all.xlsx`", ".csv, .parquet, .arrow or .jsonl"],
    );
    refuse(&["export", "out", "-o", "s3://bucket/all.csv"], &["is a URL"]);
    refuse(&["export", "none", "-o", "all.csv"], &["none"]);
    refuse(&["export", "out", "-o", "out/all.csv"], &["is inside the output"]);
    let missing = place.run(&["export", "out", "-o", "none/all.csv"]);
    assert_ne!(missing.code, Some(0));
    missing.stderr_contains(&["failed to write `none/all.csv`"]);
    assert!(!place.path("none").try_exists().unwrap());

    let only = Workplace::new();
    write_table(&only.path("table.parquet"), &image_table(&[Some(b"junk".to_vec())]), 1);
    only.write("job.toml", IMAGE_JOB);
    let _ran = only.run(&["run", "job.toml"]).expect(0);
    let none = only.run(&["export", "out", "-o", "all.csv"]).expect(2);
    none.stderr_contains(&["has no answers", "--rejects"]);
    let _told = only.run(&["export", "out", "--rejects", "-o", "all.csv"]).expect(0);
    let text = fs::read_to_string(only.path("all.csv")).unwrap();
    assert!(text.starts_with("id,legenda_status,legenda_reject_code,"), "{text}");
    assert!(text.contains("row-0,rejected,media_unknown_format,"), "{text}");
}

#[test]
fn an_unfinished_output_is_exported_with_a_warning_and_retried_rows_follow() {
    let place = Workplace::new();
    let job = TEXT_JOB.replace("[output]", "[limits]\ntext_bytes = \"10 B\"\n[output]");
    place.write("job.toml", &job);
    let questions: Vec<String> =
        (0..9).map(|row| if row == 2 { "long".repeat(9) } else { format!("q{row}") }).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    write_table(&place.path("table.parquet"), &texts(&questions), 9);
    let _ran = place.run(&["run", "job.toml"]).expect(0);
    let _told = place.run(&["retry", "out", "--set", "limits.text_bytes=1 MiB"]).expect(0);
    let _told = place.run(&["export", "out", "-o", "all.parquet"]).expect(0);
    let rows = exported(&place, "all.parquet");
    assert_eq!(text_column(&rows, "id"), ids([0, 1, 3, 2, 4, 5, 6, 7, 8]));
    // A span whose entry is gone is not committed.
    let ledger = fs::read_dir(place.path("out.legenda/ledger")).unwrap();
    let mut entries: Vec<_> = ledger.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    fs::remove_file(&entries[1]).unwrap();
    let told = place.run(&["export", "out", "-o", "part.parquet"]).expect(0);
    told.stderr_contains(&["the output is incomplete: 4 rows are not committed yet"]);
    assert_eq!(text_column(&exported(&place, "part.parquet"), "id"), ids([0, 1, 3, 2, 8]));
}

#[test]
fn embeddings_are_exported_in_every_format() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["one", "two"]), 10);
    let bundle = repository().join("tests/references/bundles/minilm");
    let job = TEXT_JOB.replace("generate", "embed");
    place.write("job.toml", &format!("{job}[model]\nbundle = \"{}\"\n", bundle.display()));
    let _ran = place.run(&["run", "job.toml"]).expect(0);
    for name in ["a.parquet", "a.arrow", "a.jsonl", "a.csv"] {
        let told = place.run(&["export", "out", "-o", name]).expect(0);
        assert!(told.stdout.contains(&format!("2 rows in {name}")), "{}", told.stdout);
    }
    let rows = exported(&place, "a.parquet");
    let vectors = rows.column_by_name("embedding").unwrap().as_fixed_size_list();
    let first: Vec<f32> = vectors
        .value(0)
        .as_primitive::<arrow::datatypes::Float32Type>()
        .iter()
        .map(Option::unwrap)
        .collect();
    assert!(vectors.is_valid(1) && first.len() > 8);
    let line = fs::read_to_string(place.path("a.jsonl")).unwrap();
    let object: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    let numbers: Vec<f32> = serde_json::from_value(object["embedding"].clone()).unwrap();
    assert_eq!(numbers, first);
    assert!(fs::read_to_string(place.path("a.csv")).unwrap().contains(",\"["));
    let arrow = fs::File::open(place.path("a.arrow")).unwrap();
    let mut reader = arrow::ipc::reader::FileReader::try_new(arrow, None).unwrap();
    let batch = reader.next().unwrap().unwrap();
    assert_eq!(batch.column_by_name("embedding"), rows.column_by_name("embedding"));
}
