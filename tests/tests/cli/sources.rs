//! Tables of every format give the same answers; damage costs only the affected rows.

use std::{fs, path::Path};

use arrow::array::{AsArray, RecordBatch};
use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, bucket::BucketServer, image_table, png, run_command,
    text_column, texts, write_table,
};

const QUESTIONS: [&str; 6] =
    ["What is dog in German?", "Name it, \"please\".", "a, b", "two\nlines", "x", "y"];

fn columns(rows: &RecordBatch, names: &[&str]) -> Vec<Vec<Option<String>>> {
    names.iter().map(|name| text_column(rows, name)).collect()
}

fn json_lines(rows: &[&str]) -> String {
    let line = |(row, text): (usize, &&str)| {
        format!("{}\n", serde_json::json!({"id": format!("row-{row}"), "question": text}))
    };
    rows.iter().enumerate().map(line).collect()
}

fn csv(rows: &[&str]) -> String {
    let line =
        |(row, text): (usize, &&str)| format!("row-{row},\"{}\"\r\n", text.replace('"', "\"\""));
    format!("id,question\r\n{}", rows.iter().enumerate().map(line).collect::<String>())
}

#[test]
fn every_format_gives_the_same_answers() {
    let place = Workplace::new();
    place.write("job.toml", TEXT_JOB);
    write_table(&place.path("table.parquet"), &texts(&QUESTIONS), 10);
    place.write("table.jsonl", &json_lines(&QUESTIONS));
    place.write("table.csv", &csv(&QUESTIONS));
    let mut all = Vec::new();
    for extension in ["parquet", "jsonl", "csv"] {
        let paths = format!("source.paths=[\"table.{extension}\"]");
        let output = format!("output.path={extension}");
        let run = place.run(&["run", "job.toml", "--set", &paths, "--set", &output]).expect(0);
        assert!(run.stdout.contains("rows_in 6 == answers 6"), "{}", run.stdout);
        let told = place.run(&["verify", extension]).expect(0);
        assert!(told.stdout.contains("rows_in 6 == answers 6"), "{}", told.stdout);
        let rows = place.answers(extension);
        all.push(columns(&rows, &["id", "question", "answer", "legenda_input_sha256"]));
    }
    assert_eq!(all[0], all[1]);
    assert_eq!(all[0], all[2]);
}

#[test]
fn damaged_lines_are_rejected_again_on_retry() {
    let place = Workplace::new();
    place.write("job.toml", TEXT_JOB);
    let good = csv(&QUESTIONS);
    place.write("table.csv", &format!("{good}row-6,one,too many\r\nrow-7,\"last\"\r\n"));
    let set = ["--set", "source.paths=[\"table.csv\"]"];
    let run = place.run(&[&["run", "job.toml"][..], &set].concat()).expect(0);
    assert!(run.stdout.contains("rows_in 8 == answers 7 + rejects 1"), "{}", run.stdout);
    let rejects = place.rejects("out");
    assert_eq!(text_column(&rejects, "legenda_code"), [Some("row_damaged".to_owned())]);
    let message = text_column(&rejects, "legenda_message")[0].clone().unwrap();
    assert_eq!(message, "line 9: expected 2 fields, got 3");
    assert!(place.run(&["verify", "out"]).expect(0).stdout.contains("rejects 1"));
    assert!(place.run(&["retry", "out"]).expect(0).stdout.contains("answers 7 + rejects 1"));
    // Committed rows are not processed again; a changed file is.
    let again = place.run(&[&["run", "job.toml"][..], &set].concat()).expect(0);
    assert!(again.stdout.contains("0 rows in"), "{}", again.stdout);
    place.write("table.csv", &good);
    let again = place.run(&[&["run", "job.toml"][..], &set].concat()).expect(0);
    assert!(again.stdout.contains("rows_in 6 == answers 6"), "{}", again.stdout);
}

#[test]
fn files_that_are_not_tables_are_errors() {
    let place = Workplace::new();
    place.write("job.toml", TEXT_JOB);
    place.write("empty.csv", "");
    place.write("twice.csv", "a,a\n1,2\n");
    place.write("no.tar", &"no tar at all".repeat(100));
    for (name, problem) in [
        ("empty.csv", "the file is empty and has no header"),
        ("twice.csv", "duplicate column name `a`"),
        ("no.tar", "as tar"),
    ] {
        let paths = format!("source.paths=[\"{name}\"]");
        let run = place.run(&["run", "job.toml", "--set", &paths]).expect(2);
        run.stderr_contains(&[name, problem, "source.format"]);
    }
}

/// Writes images into Hive-partitioned folders, one of them broken.
fn write_images(place: &Workplace) {
    for (folder, shades) in [("lang=de", 0..3_u8), ("lang=en", 3..5)] {
        let dir = place.path("pictures").join(folder);
        fs::create_dir_all(&dir).unwrap();
        for shade in shades {
            let bytes = if shade == 1 { b"junk".to_vec() } else { png(shade * 40) };
            put(&dir.join(format!("{shade}.png")), &bytes);
        }
    }
}

fn put(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

const MEDIA_JOB: &str = r#"
version = 1
[task]
kind = "caption"
[source]
paths = ["pictures"]
columns = { image = "media" }
[output]
path = "out"
"#;

#[test]
fn a_folder_of_images_is_a_table() {
    let place = Workplace::new();
    write_images(&place);
    place.write("job.toml", MEDIA_JOB);
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("rows_in 5 == answers 4 + rejects 1"), "{}", run.stdout);
    let answers = place.answers("out");
    let named = |row: &str, lang: &str| (Some(row.to_owned()), Some(lang.to_owned()));
    let (names, langs) = (text_column(&answers, "file_name"), text_column(&answers, "lang"));
    assert_eq!(
        names.into_iter().zip(langs).collect::<Vec<_>>(),
        [named("0.png", "de"), named("2.png", "de"), named("3.png", "en"), named("4.png", "en")]
    );
    assert!(text_column(&answers, "path")[0].as_ref().unwrap().ends_with("lang=de/0.png"));
    let rejects = place.rejects("out");
    assert_eq!(rejects.column_by_name("media").unwrap().as_binary::<i32>().value(0), b"junk");
    assert!(place.run(&["verify", "out"]).expect(0).stdout.contains("rows_in 5"));

    // A table of the same images has the same answers.
    let cells: Vec<_> = [0_u8, 2, 3, 4].map(|shade| Some(png(shade * 40))).into();
    write_table(&place.path("table.parquet"), &image_table(&cells), 10);
    place.write("table.toml", &IMAGE_JOB.replace("\"out\"", "\"table\""));
    let run = place.run(&["run", "table.toml"]).expect(0);
    assert!(run.stdout.contains("answers 4"), "{}", run.stdout);
    let same = ["answer", "legenda_input_sha256"];
    assert_eq!(columns(&answers, &same), columns(&place.answers("table"), &same));

    // Fixing the rejected file changes its group, and no other.
    put(&place.path("pictures/lang=de/1.png"), &png(40));
    place.run(&["verify", "out"]).expect(5).stderr_contains(&["has changed since it was read"]);
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("rows_in 5 == answers 5"), "{}", run.stdout);
    assert!(run.stdout.contains("3 rows in"), "{}", run.stdout);
    // A query selects by partition and file name.
    #[cfg(feature = "sql")]
    {
        let query = "source.query=SELECT * FROM source WHERE lang = 'en' AND file_name < '4'";
        let set = ["--set", query, "--set", "output.path=queried"];
        let run = place.run(&[&["run", "job.toml"][..], &set].concat()).expect(0);
        assert!(run.stdout.contains("rows_in 1 == answers 1"), "{}", run.stdout);
        assert_eq!(text_column(&place.answers("queried"), "file_name"), [Some("3.png".to_owned())]);
    }
}

/// Returns a shard of images with their names.
fn shard(n_rows: u8) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for row in 0..n_rows {
        let mut add = |name: String, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, bytes).unwrap();
        };
        add(format!("{row:03}.png"), &png(row * 20));
        add(format!("{row:03}.txt"), format!("picture {row}").as_bytes());
    }
    builder.into_inner().unwrap()
}

const SHARD_JOB: &str = r#"
version = 1
[task]
kind = "answer"
prompt = "{{ txt }}?"
[source]
paths = ["shards"]
columns = { id = "__key__", image = "png" }
[output]
path = "out"
span_rows = 4
"#;

#[test]
fn a_shard_is_a_table() {
    let place = Workplace::new();
    fs::create_dir(place.path("shards")).unwrap();
    put(&place.path("shards/a.tar"), &shard(10));
    place.write("job.toml", SHARD_JOB);
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("rows_in 10 == answers 10"), "{}", run.stdout);
    let keys = text_column(&place.answers("out"), "__key__");
    assert_eq!(keys.len(), 10);
    assert_eq!(keys[3].as_deref(), Some("003"));
    assert!(place.run(&["verify", "out"]).expect(0).stdout.contains("rows_in 10"));
}

#[test]
fn parquet_in_hive_folders_has_partition_columns() {
    let place = Workplace::new();
    for (folder, question) in [("lang=de/year=2026", "eins"), ("lang=en/year=2025", "one")] {
        let dir = place.path("tree").join(folder);
        fs::create_dir_all(&dir).unwrap();
        write_table(&dir.join("t.parquet"), &texts(&[question]), 10);
    }
    let job = TEXT_JOB.replace("table.parquet", "tree").replace(
        "kind = \"generate\"",
        "kind = \"generate\"\nprompt = \"{{ text }} in {{ lang }}\"",
    );
    place.write("job.toml", &job);
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("rows_in 2 == answers 2"), "{}", run.stdout);
    let answers = place.answers("out");
    let years = text_column(&answers, "year");
    assert_eq!(years.iter().flatten().count(), 2);
    #[cfg(feature = "sql")]
    {
        let query = "source.query=SELECT * FROM source WHERE lang = 'de'";
        let set = ["--set", query, "--set", "output.path=queried"];
        let run = place.run(&[&["run", "job.toml"][..], &set].concat()).expect(0);
        assert!(run.stdout.contains("rows_in 1 == answers 1"), "{}", run.stdout);
        assert_eq!(text_column(&place.answers("queried"), "lang"), [Some("de".to_owned())]);
    }
}

#[test]
fn tables_of_every_format_are_read_from_a_store() {
    let (place, bucket) = (Workplace::new(), BucketServer::start());
    write_images(&place);
    for (folder, names) in [("lang=de", &["0", "1", "2"][..]), ("lang=en", &["3", "4"])] {
        for name in names {
            let key = format!("pictures/{folder}/{name}.png");
            bucket.put(&key, &fs::read(place.path(&key)).unwrap());
        }
    }
    bucket.put("shards/a.tar", &shard(10));
    bucket.put("tables/t.csv", csv(&QUESTIONS).as_bytes());
    bucket.put("tables/t.jsonl", json_lines(&QUESTIONS).as_bytes());
    let run = |job: &str, paths: &str, output: &str, counts: &str| {
        place.write("job.toml", job);
        let paths = format!("source.paths=[\"s3://bucket/{paths}\"]");
        let output = format!("s3://bucket/{output}");
        let set = format!("output.path={output}");
        let args = ["run", "job.toml", "--set", &paths, "--set", &set];
        let run = run_command(&mut bucket.command(&place, &args)).expect(0);
        assert!(run.stdout.contains(counts), "{}", run.stdout);
        let told = run_command(&mut bucket.command(&place, &["verify", &output])).expect(0);
        assert!(told.stdout.contains(counts), "{}", told.stdout);
    };
    run(MEDIA_JOB, "pictures", "media", "rows_in 5 == answers 4 + rejects 1");
    run(SHARD_JOB, "shards/*.tar", "shard", "rows_in 10 == answers 10");
    run(TEXT_JOB, "tables/t.csv", "csv", "rows_in 6 == answers 6");
    run(TEXT_JOB, "tables/t.jsonl", "jsonl", "rows_in 6 == answers 6");
}
