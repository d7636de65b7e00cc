//! `legenda inspect` describes tables of every kind and writes a job that runs.

use std::{
    fs,
    io::{Cursor, Write},
    path::Path,
    sync::Arc,
};

use arrow::array::{
    ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray,
};
use image::{ImageFormat, Rgb, RgbImage};
use legenda_tests::{
    Workplace, bucket::BucketServer, png, read_table, repository, run_command, texts, write_table,
};
use serde_json::Value;

fn facts(place: &Workplace, args: &[&str]) -> Value {
    let told = place.run(&[&["inspect"], args, &["--json"]].concat()).expect(0);
    serde_json::from_str(&told.stdout).unwrap()
}

fn column<'a>(facts: &'a Value, name: &str) -> &'a Value {
    let columns = facts["table"]["columns"].as_array().unwrap();
    columns.iter().find(|column| column["name"] == name).unwrap()
}

fn put(path: &Path, bytes: &[u8]) {
    fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let image = RgbImage::from_pixel(width, height, Rgb([9, 90, 200]));
    image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Jpeg).unwrap();
    bytes
}

/// Writes a table with misleading column names, as structs in the style of `datasets`.
fn write_images(path: &Path) {
    let mut cut = png(7);
    cut.truncate(60);
    let cells: Vec<Option<Vec<u8>>> = vec![
        Some(png(1)),
        Some(png(1)),
        Some(jpeg(64, 48)),
        Some(jpeg(640, 480)),
        Some(cut),
        None,
        Some(Vec::new()),
        Some(png(3)),
    ];
    let n_rows = i64::try_from(cells.len()).unwrap();
    let bytes: BinaryArray = cells.iter().map(Option::as_deref).collect();
    let names = StringArray::from(vec![None::<&str>; cells.len()]);
    let both = arrow::datatypes::Fields::from(vec![
        arrow::datatypes::Field::new("bytes", arrow::datatypes::DataType::Binary, true),
        arrow::datatypes::Field::new("path", arrow::datatypes::DataType::Utf8, true),
    ]);
    let nulls = cells.iter().map(Option::is_some).collect::<Vec<bool>>().into();
    let a = StructArray::new(both, vec![Arc::new(bytes), Arc::new(names)], Some(nulls));
    let junk = BinaryArray::from_iter_values((0..n_rows).map(|_| b"neither one nor the other"));
    let words = StringArray::from_iter_values(
        (0..cells.len()).map(|row| ["w", "ww", "www", "wwww"][row % 4]),
    );
    let columns: [(&str, ArrayRef, bool); 4] = [
        ("audio", Arc::new(a), true),
        ("image", Arc::new(junk), false),
        ("answer", Arc::new(words), false),
        ("id", Arc::new(Int64Array::from_iter_values(0..n_rows)), false),
    ];
    write_table(path, &RecordBatch::try_from_iter_with_nullable(columns).unwrap(), 3);
}

#[test]
fn columns_are_classified_by_their_cells() {
    let place = Workplace::new();
    write_images(&place.path("table.parquet"));
    let told = facts(&place, &["table.parquet"]);
    let table = &told["table"];
    assert_eq!((&table["rows"], &table["sampled"]), (&8.into(), &8.into()));
    assert_eq!((&table["files"], &table["row_groups"]), (&1.into(), &3.into()));
    // The column names are misleading on purpose.
    let images = column(&told, "audio");
    assert_eq!(images["holds"], "pictures");
    assert_eq!(images["null_share"], 0.125);
    let media = &images["media"];
    assert_eq!(media["count"], 7);
    assert_eq!(media["width"], serde_json::json!({"min": 32.0, "median": 32.0, "max": 640.0}));
    assert_eq!(media["height"], serde_json::json!({"min": 32.0, "median": 32.0, "max": 480.0}));
    assert_eq!(media["unusable"]["media_damaged"]["count"], 1);
    assert_eq!(media["unusable"]["media_empty"]["count"], 1);
    assert!((media["unusable_share"].as_f64().unwrap() - 2.0 / 7.0).abs() < 1e-9);
    assert!((media["duplicate_share"].as_f64().unwrap() - 1.0 / 6.0).abs() < 1e-9);
    assert_eq!(column(&told, "image")["holds"], "bytes");
    let words = column(&told, "answer");
    assert_eq!(words["texts"]["bytes"], serde_json::json!({"min": 1.0, "median": 2.0, "max": 4.0}));
    assert_eq!(words["texts"]["duplicate_share"], 0.5);
    assert_eq!(column(&told, "id")["holds"], "values");

    // The codes match those of a run, and the written job runs: `answer` is not carried.
    let shown = place.run(&["inspect", "table.parquet", "--job", "job.toml"]).expect(0);
    assert!(shown.stdout.contains("32 to 640 pixels, median 32"), "{}", shown.stdout);
    assert!(place.run(&["check", "job.toml"]).expect(0).stdout.contains("valid"));
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("rows_in 8 == answers 5 + rejects 3"), "{}", run.stdout);
    for code in ["media_damaged", "media_empty", "media_missing"] {
        assert!(run.stdout.contains(&format!("rejected 1: {code}")), "{}", run.stdout);
    }
    // Neither the job nor its output is overwritten.
    let again = place.run(&["inspect", "table.parquet", "--job", "job.toml"]).expect(2);
    again.stderr_contains(&["`job.toml` already exists"]);
    let other = facts(&place, &["table.parquet"]);
    assert!(other["job"].as_str().unwrap().contains("path = \"captions-2\""), "{}", other["job"]);
}

#[test]
fn the_written_job_runs() {
    let place = Workplace::new();
    let sample = repository().join("jobs/examples/sample");
    for (table, kind) in [
        ("pictures", "answer"),
        ("sounds", "answer"),
        ("questions", "answer"),
        ("texts", "generate"),
    ] {
        let path = sample.join(format!("{table}.parquet"));
        let told = place.run(&["inspect", &path.to_string_lossy()]).expect(0);
        let job = &told.stdout[told.stdout.find("version = 1").unwrap()..];
        let name = format!("{table}.toml");
        place.write(&name, job);
        let checked = place.run(&["check", &name]).expect(0);
        assert!(checked.stdout.contains(kind), "{table}: {job}\n{}", checked.stdout);
        let run = place.run(&["run", &name, "--limit", "8"]).expect(0);
        assert!(run.stdout.contains("rows_in 8 == answers"), "{}", run.stdout);
    }
    // Audio without text is transcribed; an all-null column is ignored.
    fs::create_dir(place.path("sounds")).unwrap();
    let rows = read_table(&sample.join("sounds.parquet"));
    for (row, bytes) in
        rows[0].column_by_name("audio").unwrap().as_binary::<i32>().iter().enumerate()
    {
        put(&place.path(&format!("sounds/{row}.wav")), bytes.unwrap());
    }
    let told = place.run(&["inspect", "sounds", "--job", "said.toml"]).expect(0);
    assert!(told.stdout.contains("media: audio"), "{}", told.stdout);
    let run = place.run(&["run", "said.toml"]).expect(0);
    assert!(run.stdout.contains("transcripts"), "{}", run.stdout);
    let audio_path = sample.join("sounds.parquet").to_string_lossy().into_owned();
    let told = facts(&place, &[&audio_path]);
    assert_eq!(column(&told, "image")["holds"], "nothing");
    let heard = &column(&told, "audio")["media"]["seconds"];
    assert!(
        heard["min"].as_f64().unwrap() > 0.2 && heard["max"].as_f64().unwrap() < 60.0,
        "{heard}"
    );
}

#[test]
fn a_sample_spreads_over_the_table() {
    let place = Workplace::new();
    // The last third of the rows is long, and a small sample shows it.
    let rows: Vec<String> =
        (0..3000).map(|row| if row < 2000 { "x".into() } else { "long ".repeat(20) }).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    write_table(&place.path("t.parquet"), &texts(&rows), 500);
    let told = facts(&place, &["t.parquet", "--rows", "60"]);
    assert_eq!(told["table"]["sampled"], 60);
    let spread = &column(&told, "question")["texts"]["bytes"];
    assert_eq!((&spread["min"], &spread["max"]), (&1.0.into(), &100.0.into()));
    let few = facts(&place, &["t.parquet", "--rows", "1"]);
    assert_eq!(few["table"]["sampled"], 1);
    place.run(&["inspect", "t.parquet", "--rows", "0"]).expect(2).stderr_contains(&["--rows"]);
}

#[test]
fn media_by_path_lists_and_urls_are_found() {
    let place = Workplace::new();
    fs::create_dir(place.path("files")).unwrap();
    let mut lines = String::new();
    for row in 0..20_u8 {
        let name = format!("files/{row}.dat");
        put(&place.path(&name), &png(row));
        let two = [name.clone(), "../secret.png".to_owned()];
        let url = format!("https://pictures.example.org/{row}.jpg?size=1");
        let line = serde_json::json!({"where": name, "both": two, "url": url, "said": "a. b/c"});
        lines.push_str(&format!("{line}\n"));
    }
    place.write("table.jsonl", &lines);
    let told = facts(&place, &["table.jsonl"]);
    assert_eq!(told["table"]["format"], "jsonl");
    let media = &column(&told, "where")["media"];
    assert_eq!((&media["count"], &media["by_path"]), (&20.into(), &20.into()));
    assert_eq!(media["unusable_share"], 0.0);
    let both = column(&told, "both");
    assert_eq!(both["media"]["unusable"]["media_unreadable"]["count"], 20, "{both}");
    let url = column(&told, "url");
    assert_eq!(url["holds"], "pictures");
    assert_eq!(url["media"]["hosts"], serde_json::json!(["pictures.example.org"]));
    assert_eq!(url["media"]["unusable"]["media_url_refused"]["count"], 20);
    assert_eq!(column(&told, "said")["holds"], "texts");
    place.write("job.toml", told["job"].as_str().unwrap());
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("rows_in 20 == answers 20"), "{}", run.stdout);
}

#[test]
fn damage_is_counted_and_does_not_stop_the_inspection() {
    let place = Workplace::new();
    place.write("t.csv", "id,text\n1,fine\n2,a,b,c\n3,also fine\n");
    let told = facts(&place, &["t.csv"]);
    assert_eq!(told["table"]["unreadable"]["row_damaged"]["count"], 1);
    assert_eq!(column(&told, "text")["texts"]["bytes"]["max"], 9.0);
    place.write("no.parquet", "no table");
    place.run(&["inspect", "no.parquet"]).expect(2).stderr_contains(&["no.parquet"]);
    place
        .run(&["inspect", "none/*.parquet"])
        .expect(2)
        .stderr_contains(&["no readable file matches"]);
    place.run(&["inspect", "t.csv", "--format", "excel"]).expect(2).stderr_contains(&["excel"]);
    place.write("numbers.csv", "a\n1\n2\n");
    let told = place.run(&["inspect", "numbers.csv"]).expect(0);
    told.stderr_contains(&["no job proposed"]);
}

#[test]
fn folders_shards_and_stores_are_inspected() {
    let (place, bucket) = (Workplace::new(), BucketServer::start());
    fs::create_dir_all(place.path("all/lang=de")).unwrap();
    for shade in 0..6_u8 {
        let name = format!("all/lang=de/{shade}.png");
        put(&place.path(&name), &png(shade));
        bucket.put(&name, &png(shade));
    }
    let told = facts(&place, &["all"]);
    assert_eq!((&told["table"]["format"], &told["table"]["files"]), (&"media".into(), &6.into()));
    assert_eq!(column(&told, "media")["media"]["count"], 6);
    assert_eq!(column(&told, "path")["holds"], "texts");
    // A job in another folder also finds the table.
    fs::create_dir(place.path("jobs")).unwrap();
    let made = place.run(&["inspect", "all", "--job", "jobs/job.toml"]).expect(0);
    made.stderr_contains(&["job in jobs/job.toml"]);
    let run = place.run(&["run", "jobs/job.toml"]).expect(0);
    assert!(run.stdout.contains("rows_in 6 == answers 6"), "{}", run.stdout);

    let args = ["inspect", "s3://bucket/all", "--json"];
    let told = run_command(&mut bucket.command(&place, &args)).expect(0);
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(column(&told, "media")["media"]["count"], 6);
    assert_eq!(column(&told, "lang")["holds"], "texts");
    assert!(told["job"].as_str().unwrap().contains("s3://bucket/all"));
}
