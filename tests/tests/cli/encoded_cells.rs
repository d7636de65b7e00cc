//! Media encoded as text in cells, rejects as a source, and cells that cannot be resolved.

use std::{fs, io::Write, path::Path, sync::Arc};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, Engine};
use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, image_table, png, text_column, texts, write_table,
};
use serde_json::{Value, json};

/// Returns a job over `source` that writes answers to `out`.
fn job(source: &str, out: &str) -> String {
    IMAGE_JOB.replace("table.parquet", source).replace("\"out\"", &format!("{out:?}"))
}

/// Writes rows of `id` and `image` as JSON Lines.
fn write_lines(path: &Path, cells: &[Value]) {
    let mut file = fs::File::create(path).unwrap();
    for (row, cell) in cells.iter().enumerate() {
        writeln!(file, "{}", json!({ "id": format!("row-{row}"), "image": cell })).unwrap();
    }
}

fn percent(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

fn put(path: &Path, bytes: &[u8]) {
    fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn data_uris_and_base64_are_media() {
    let place = Workplace::new();
    let shades: Vec<Vec<u8>> = (0..6).map(|n| png(n * 40)).collect();
    let bytes: Vec<_> = shades.iter().cloned().map(Some).collect();
    write_table(&place.path("table.parquet"), &image_table(&bytes), 10);
    place.write("job.toml", &job("table.parquet", "bytes"));
    place.run(&["run", "job.toml"]).expect(0).stdout.clear();
    let expected = text_column(&place.answers("bytes"), "answer");

    let standard = |n: usize| BASE64_STANDARD.encode(&shades[n]);
    let in_lines: Vec<String> = standard(4)
        .as_bytes()
        .chunks(76)
        .map(|line| String::from_utf8(line.to_vec()).unwrap())
        .collect();
    let cells = [
        json!(format!("data:image/png;base64,{}", standard(0))),
        json!(format!("DATA:image/png;charset=x;name=a.png,{}", percent(&shades[1]))),
        json!(BASE64_STANDARD_NO_PAD.encode(&shades[2])),
        json!(BASE64_URL_SAFE.encode(&shades[3])),
        json!(in_lines.join("\r\n")),
        json!(standard(5)),
    ];
    write_lines(&place.path("text.jsonl"), &cells);
    let structs: Vec<Value> =
        (0..6).map(|n| json!({ "bytes": standard(n), "path": "gone.png" })).collect();
    write_lines(&place.path("structs.jsonl"), &structs);
    let lists: Vec<Value> = cells.iter().map(|cell| json!([cell])).collect();
    write_lines(&place.path("lists.jsonl"), &lists);
    for source in ["text", "structs", "lists"] {
        place.write("job.toml", &job(&format!("{source}.jsonl"), source));
        let ended = place.run(&["run", "job.toml"]).expect(0);
        assert!(ended.stdout.contains("answers 6 + rejects 0"), "{source}: {}", ended.stdout);
        assert_eq!(text_column(&place.answers(source), "answer"), expected, "{source}");
    }
    // `inspect` detects the same media as a run.
    let told = place.run(&["inspect", "text.jsonl"]).expect(0).stdout;
    assert!(told.contains("image"), "{told}");
}

#[test]
fn encoded_media_obey_limits_and_messages_quote_little_of_them() {
    let place = Workplace::new();
    let long = "QUJD".repeat(100_000);
    let cells = [
        json!(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png(1)))),
        json!(format!("data:image/png;base64,{long}")),
        json!(long),
        json!(format!("!!{long}")),
        json!(format!("{long}.png")),
        json!(format!("https://example.org/{long}.png")),
        json!(format!("zip://{long}.png::images.zip")),
        json!(format!("data:image/png;base64{long}")),
        json!(format!("data:image/png;base64,?{long}")),
        json!(""),
    ];
    write_lines(&place.path("table.jsonl"), &cells);
    let limits = "[limits]\nmedia_bytes = \"100 KB\"\nerror_budget = \"100%\"\n";
    place.write("job.toml", &(job("table.jsonl", "out") + limits));
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("answers 1 + rejects 9"), "{}", ended.stdout);
    let rejects = place.rejects("out");
    let codes = [
        "media_too_large",
        "media_too_large",
        "media_unreadable",
        "media_unreadable",
        "media_url_refused",
        "media_path_refused",
        "media_damaged",
        "media_too_large",
        "media_empty",
    ];
    let codes = codes.map(|code| Some(code.to_owned()));
    assert_eq!(text_column(&rejects, "legenda_code"), codes);
    let quoted = |text: &str| text.matches("QUJD").count();
    for message in text_column(&rejects, "legenda_message") {
        assert!(quoted(message.as_ref().unwrap()) <= 50, "{message:?}");
    }
    let report = fs::read_to_string(place.path("out.legenda/report.html")).unwrap();
    assert!(!report.contains(&"QUJD".repeat(51)), "the report quotes a cell");
    assert!(quoted(&ended.stdout) + quoted(&ended.stderr) <= 50);
    let told = place.run(&["inspect", "table.jsonl"]).expect(0);
    assert!(!told.stdout.contains(&"QUJD".repeat(51)), "inspect quotes a cell");
}

#[test]
fn rejects_are_a_source_in_every_format() {
    let place = Workplace::new();
    let bytes: Vec<_> = (0..5).map(|n| Some(png(n * 50))).collect();
    write_table(&place.path("table.parquet"), &image_table(&bytes), 10);
    place.write("job.toml", &job("table.parquet", "direct"));
    place.run(&["run", "job.toml"]).expect(0).stdout.clear();
    let direct = place.answers("direct");
    for format in ["parquet", "arrow", "jsonl"] {
        let limits = "[limits]\nmedia_bytes = \"10 B\"\nerror_budget = \"100%\"\n";
        let refusing = job("table.parquet", format) + &format!("format = {format:?}\n") + limits;
        place.write("job.toml", &refusing);
        let ended = place.run(&["run", "job.toml"]);
        assert!(
            ended.stdout.contains("answers 0 + rejects 5"),
            "{} {}",
            ended.stdout,
            ended.stderr
        );
        let out = format!("again-{format}");
        place.write("again.toml", &job(&format!("{format}.legenda/rejects"), &out));
        let again = place.run(&["run", "again.toml"]).expect(0);
        assert!(again.stdout.contains("rows_in 5 == answers 5"), "{format}: {}", again.stdout);
        let answers = place.answers(&out);
        for name in ["id", "answer", "legenda_input_sha256"] {
            assert_eq!(text_column(&answers, name), text_column(&direct, name), "{format}");
        }
    }
}

#[test]
fn rejects_with_paths_find_their_media_through_media_dirs() {
    let place = Workplace::new();
    fs::create_dir_all(place.path("data/img")).unwrap();
    for row in 0..3_u8 {
        put(&place.path(&format!("data/img/{row}.png")), &png(row));
    }
    let cells: Vec<Value> = (0..3).map(|row| json!(format!("img/{row}.png"))).collect();
    write_lines(&place.path("data/table.jsonl"), &cells);
    let limits = "[limits]\nmedia_bytes = \"10 B\"\nerror_budget = \"100%\"\n";
    place.write("job.toml", &(job("data/table.jsonl", "out") + limits));
    let ended = place.run(&["run", "job.toml"]);
    assert!(ended.stdout.contains("answers 0 + rejects 3"), "{} {}", ended.stdout, ended.stderr);
    place.write("again.toml", &job("out.legenda/rejects", "again"));
    let args = ["run", "again.toml", "--set", "source.media_dirs=[\"data\"]"];
    let again = place.run(&args).expect(0);
    assert!(again.stdout.contains("rows_in 3 == answers 3"), "{}", again.stdout);
}

#[test]
fn rejects_of_files_name_the_original_file() {
    let place = Workplace::new();
    fs::create_dir(place.path("pictures")).unwrap();
    for row in 0..4_u8 {
        let bytes = if row % 2 == 1 { b"junk".to_vec() } else { png(row) };
        put(&place.path(&format!("pictures/{row}.png")), &bytes);
    }
    let job = job("pictures", "out").replace("id = \"id\", image = \"image\"", "image = \"media\"");
    place.write("job.toml", &job);
    place.run(&["run", "job.toml"]).expect(0).stdout.clear();
    let files = text_column(&place.rejects("out"), "legenda_file");
    let names: Vec<&str> =
        files.iter().map(|file| file.as_ref().unwrap().rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["1.png", "3.png"]);
}

#[test]
fn a_shard_column_may_list_several_extensions() {
    let place = Workplace::new();
    let write = |name: &str, members: &[(&str, &[u8])]| {
        let mut shard = tar::Builder::new(fs::File::create(place.path(name)).unwrap());
        for (member, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            shard.append_data(&mut header, member, *bytes).unwrap();
        }
        shard.finish().unwrap();
    };
    let images: Vec<Vec<u8>> = (0..5).map(|n| png(n * 40)).collect();
    write(
        "a.tar",
        &[
            ("0.png", &images[0]),
            ("0.txt", b"zero"),
            ("1.jpeg", &images[1]),
            ("1.txt", b"one"),
            // The first extension listed wins.
            ("2.png", &images[2]),
            ("2.jpg", &images[3]),
            ("2.txt", b"two"),
            ("3.txt", b"three"),
        ],
    );
    write("b.tar", &[("4.WEBP", &images[4]), ("4.txt", b"four")]);
    let names = "image = \"jpg;jpeg;png;webp\"";
    let of_images = job("*.tar", "out").replace("id = \"id\", image = \"image\"", names);
    place.write("job.toml", &of_images);
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 5 == answers 4 + rejects 1"), "{}", ended.stdout);
    let answers = place.answers("out");
    assert_eq!(
        text_column(&answers, "__key__"),
        ["0", "1", "2", "4"].map(|key| Some(key.to_owned()))
    );
    let rejects = place.rejects("out");
    assert_eq!(text_column(&rejects, "legenda_code"), [Some("media_missing".to_owned())]);

    let bytes: Vec<_> = [0, 1, 3, 4].map(|n: usize| Some(images[n].clone())).into();
    write_table(&place.path("table.parquet"), &image_table(&bytes), 10);
    place.write("job.toml", &job("table.parquet", "bytes"));
    place.run(&["run", "job.toml"]).expect(0).stdout.clear();
    let direct = place.answers("bytes");
    for name in ["answer", "legenda_input_sha256"] {
        assert_eq!(text_column(&answers, name), text_column(&direct, name));
    }
    place.write("job.toml", &of_images.replace("jpg;jpeg;png;webp", "tiff;bmp"));
    place.run(&["check", "job.toml"]).expect(2).stderr_contains(&["tiff;bmp", "`png`"]);
}

#[test]
fn cells_that_point_into_archives_are_refused() {
    let place = Workplace::new();
    let cells =
        [json!("images.zip::a.png"), json!("zip://a.png::https://example.org/b.zip"), json!(null)];
    write_lines(&place.path("table.jsonl"), &cells);
    place.write("job.toml", &(job("table.jsonl", "out") + "[limits]\nerror_budget = \"100%\"\n"));
    place.run(&["run", "job.toml"]).expect(0).stdout.clear();
    let messages = text_column(&place.rejects("out"), "legenda_message");
    let has = |row: usize, text: &str| messages[row].as_ref().unwrap().contains(text);
    assert!(has(0, "archive `images.zip`") && has(0, "extract it"), "{messages:?}");
    assert!(has(1, "archive `https://example.org/b.zip`"), "{messages:?}");
}

#[cfg(feature = "sql")]
#[test]
fn check_refuses_aggregate_queries() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["one", "two"]), 10);
    for (query, named) in [
        ("SELECT count(*) FROM source", "`count(*)` makes one row of many"),
        ("SELECT id, question, max(id) AS last FROM source", "`max(id)`"),
        ("SELECT question FROM source GROUP BY question", "GROUP BY"),
        ("SELECT DISTINCT question FROM source", "DISTINCT"),
    ] {
        place.write(
            "job.toml",
            &TEXT_JOB.replace("[output]", &format!("query = {query:?}\n[output]")),
        );
        place.run(&["check", "job.toml"]).expect(2).stderr_contains(&["source.query", named]);
    }
}

#[test]
fn tables_in_every_compression_codec_are_read() {
    use parquet::{
        arrow::ArrowWriter,
        basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel},
        file::properties::WriterProperties,
    };
    let place = Workplace::new();
    let ids = StringArray::from_iter_values((0..40).map(|row| format!("row-{row}")));
    let questions = StringArray::from_iter_values((0..40).map(|row| format!("what is {row}?")));
    let columns: [(&str, ArrayRef); 2] = [("id", Arc::new(ids)), ("question", Arc::new(questions))];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(ZstdLevel::default()),
    ] {
        let properties = WriterProperties::builder().set_compression(codec).build();
        let file = fs::File::create(place.path("table.parquet")).unwrap();
        let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
        place.write("job.toml", TEXT_JOB);
        let args = ["run", "job.toml", "--overwrite", "--limit", "3"];
        let ended = place.run(&args).expect(0);
        assert!(ended.stdout.contains("rows_in 3 == answers 3"), "{codec}: {}", ended.stdout);
    }
}
