//! Object keys are used verbatim: keys with any characters are listed, read and written, and no
//! other object is touched.

use std::{collections::BTreeMap, fs, sync::Arc};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use legenda_tests::{
    TEXT_JOB, Workplace,
    bucket::{BucketServer, SIGNATURE},
    numbered_png,
    python::run_script,
    read_rows, text_column, write_table,
};

/// Returns every printable ASCII character in one name, ordered so that none of them ends the name
/// early.
fn printable() -> String {
    let all: String = (' '..='~').filter(|c| *c != '/').collect();
    format!("a{all}.png")
}

fn keys() -> Vec<String> {
    let odd = [
        "plain.png",
        "a b.png",
        "q?mark.png",
        "hash#1.png",
        "percent%20x.png",
        "percent%2520x.png",
        "plus+plus.png",
        "ünï.png",
        "two//slashes.png",
        "%2e%2e/up.png",
        "dots../x.png",
        "[1]*.png",
        "v=San%20Francisco/x.png",
        "v=a&b<c>/x.png",
    ];
    odd.iter().map(|key| (*key).to_owned()).chain([printable()]).collect()
}

const FOLDER: &str = "pre%fix/#?/files";

/// Creates a bucket with a distinct image at each of the keys.
fn bucket_of_keys() -> BucketServer {
    let bucket = BucketServer::start();
    for (number, key) in (0..).zip(keys()) {
        bucket.put(&format!("{FOLDER}/{key}"), &numbered_png(number));
    }
    bucket
}

fn job(paths: &str) -> String {
    format!(
        "version = 1\ntask = {{ kind = \"caption\" }}\n\
         source = {{ paths = [{paths}], columns = {{ id = \"path\", image = \"media\" }} }}\n\
         [output]\npath = 's3://bucket/out%20#?/1'\nspan_rows = 4\n"
    )
}

/// Returns the paths of the answered rows.
fn answered(bucket: &BucketServer, output: &str) -> Vec<String> {
    let parts = bucket.objects(&format!("{output}/part-"));
    let rows = parts.into_values().flat_map(read_rows);
    rows.flat_map(|rows| text_column(&rows, "path")).map(Option::unwrap).collect()
}

#[test]
fn keys_with_any_characters_are_listed_read_and_written() {
    let (place, bucket) = (Workplace::new(), bucket_of_keys());
    let mut expected: Vec<String> =
        keys().iter().map(|key| format!("s3://bucket/{FOLDER}/{key}")).collect();
    // A console's folder marker, and keys that HTTP clients cannot request, do not affect the
    // others.
    bucket.put(&format!("{FOLDER}/"), b"");
    let unreachable = ["a/./b.png", "../b.png", "line\nbreak.png"];
    for key in unreachable {
        bucket.put(&format!("{FOLDER}/{key}"), &numbered_png(99));
    }
    place.write("job.toml", &job(&format!("'s3://bucket/{FOLDER}'")));
    let told = bucket.run(&place, &["run", "job.toml"]).expect(0);
    assert!(told.stdout.contains("rows_in 15 == answers 15 + rejects 0"), "{}", told.stdout);
    let skipped = format!("{} unreadable", unreachable.len());
    assert!(told.stdout.contains(&skipped), "{}", told.stdout);
    let mut found = answered(&bucket, "out%20#?/1");
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let told = bucket.run(&place, &["verify", "s3://bucket/out%20#?/1"]).expect(0);
    assert!(told.stdout.contains("answers 15"), "{}", told.stdout);

    // Each key is read by its own name and answered with its own image.
    let by_name = expected.iter().map(|path| format!("'''{path}'''")).collect::<Vec<_>>();
    place.write("job.toml", &job(&by_name.join(", ")));
    let told = bucket.run(&place, &["run", "job.toml", "--overwrite"]).expect(0);
    assert!(told.stdout.contains("rows_in 15 == answers 15 + rejects 0"), "{}", told.stdout);
    // A glob character can be written in brackets.
    for (pattern, n_files) in
        [("[[]1[]][*].png", 1), ("*.png", 10), ("q[?]mark.png", 1), ("%2*/*", 1)]
    {
        place.write("job.toml", &job(&format!("'s3://bucket/{FOLDER}/{pattern}'")));
        let told = bucket.run(&place, &["check", "job.toml"]).expect(0);
        let source = told.stdout.lines().find(|line| line.starts_with("source")).unwrap();
        assert!(source.contains(&format!(" {n_files} row")), "{pattern}: {source}");
    }
    for key in unreachable[..2].iter().chain(&["/leading.png"]) {
        place.write("job.toml", &job(&format!("'s3://bucket/{key}'")));
        let refused = bucket.run(&place, &["check", "job.toml"]).expect(2);
        refused.stderr_contains(&["cannot be requested", key]);
    }
}

#[test]
fn media_cells_are_resolved_as_keys_relative_to_the_table() {
    let (place, bucket) = (Workplace::new(), bucket_of_keys());
    let mut cells = keys();
    cells.push("./plain.png".to_owned());
    let n_good = cells.len();
    // None of these decodes to a key outside of the folder.
    bucket.put("pre%fix/#?/up.png", &numbered_png(98));
    bucket.put("pre%fix/up.png", &numbered_png(98));
    let outside =
        ["../up.png", "x/../../up.png", "%2E%2E/up.png", "..%2fup.png", "%2e%2e%2fup.png"];
    cells.extend(outside.map(str::to_owned));
    let ids = StringArray::from_iter_values((0..cells.len()).map(|row| format!("row-{row:02}")));
    let columns: [(&str, ArrayRef); 2] =
        [("id", Arc::new(ids)), ("image", Arc::new(StringArray::from_iter_values(&cells)))];
    write_table(&place.path("t.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 50);
    bucket.put(&format!("{FOLDER}/t.parquet"), &fs::read(place.path("t.parquet")).unwrap());
    place.write(
        "job.toml",
        &format!(
            "version = 1\ntask = {{ kind = \"caption\" }}\n\
             source = {{ paths = ['s3://bucket/{FOLDER}/t.parquet'], columns = {{ id = \"id\", image = \"image\" }} }}\n\
             output = {{ path = \"s3://bucket/out\" }}\n"
        ),
    );
    let told = bucket.run(&place, &["run", "job.toml"]).expect(0);
    let expected = format!("answers {n_good} + rejects {}", outside.len());
    assert!(told.stdout.contains(&expected), "{}", told.stdout);
    let columns = bucket.contents("out");
    let answered: Vec<&String> = columns[0].iter().flatten().collect();
    assert!(answered.iter().enumerate().all(|(row, id)| **id == format!("row-{row:02}")));
    // The images themselves: different rows have different digests.
    let digests: BTreeMap<_, usize> =
        columns[2].iter().fold(BTreeMap::new(), |mut seen, digest| {
            *seen.entry(digest).or_default() += 1;
            seen
        });
    assert_eq!(digests.len(), n_good - 1, "`./plain.png` and `plain.png` are one image");
}

#[test]
fn a_partitioned_output_reads_back_from_a_store_and_a_disk() {
    let (place, bucket) = (Workplace::new(), BucketServer::start());
    let days = ["2026-01-01 00:00", "a/b", "100%", "é #?*[1]", "..", "a+b&c"];
    let ids = StringArray::from_iter_values((0..days.len()).map(|row| format!("row-{row}")));
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(ids)),
        ("day", Arc::new(StringArray::from_iter_values(days))),
        (
            "question",
            Arc::new(StringArray::from_iter_values(days.map(|day| format!("What is {day}?")))),
        ),
    ];
    write_table(&place.path("table.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 50);
    for output in ["out%20 1", "s3://bucket/out%20 1"] {
        let parts = TEXT_JOB
            .replace("path = \"out\"", &format!("path = \"{output}\"\npartition_by = \"day\""));
        place.write("job.toml", &parts);
        let told = bucket.run(&place, &["run", "job.toml"]).expect(0);
        assert!(told.stdout.contains("rows_in 6 == answers 6"), "{}", told.stdout);
        drop(bucket.run(&place, &["verify", output]).expect(0));
        let again = TEXT_JOB
            .replace("\"table.parquet\"", &format!("\"{output}\""))
            .replace("path = \"out\"", "path = \"next\"\ncolumns = [\"id\", \"day\"]");
        place.write("next.toml", &again);
        let told = bucket.run(&place, &["run", "next.toml", "--overwrite"]).expect(0);
        assert!(told.stdout.contains("rows_in 6 =="), "{}", told.stdout);
        let next = place.answers("next");
        let mut read: Vec<_> =
            text_column(&next, "id").into_iter().zip(text_column(&next, "day")).collect();
        read.sort();
        let days: Vec<_> = read.into_iter().map(|(_, day)| day.unwrap()).collect();
        assert_eq!(
            days,
            ["2026-01-01 00:00", "a/b", "100%", "é #?*[1]", "..", "a+b&c"],
            "{output}"
        );
    }
}

#[test]
fn web_urls_are_percent_decoded() {
    let (place, bucket) = (Workplace::new(), BucketServer::start());
    write_table(&place.path("t.parquet"), &legenda_tests::texts(&["What is dog in German?"]), 5);
    let table = fs::read(place.path("t.parquet")).unwrap();
    // A signed URL with an encoded name: `%20` is a space, `%2520` a literal `%20`.
    bucket.put("signed/a b%20?.parquet", &table);
    let url = format!("{}/public/signed/a%20b%2520%3F.parquet?{SIGNATURE}", bucket.endpoint());
    place.write("job.toml", &TEXT_JOB.replace("table.parquet", &url));
    let told = bucket.run(&place, &["run", "job.toml"]).expect(0);
    assert!(told.stdout.contains("rows_in 1 == answers 1"), "{}", told.stdout);
    // Without its signature it is refused, and the error gives the reason.
    place.write("job.toml", &TEXT_JOB.replace("table.parquet", url.split('?').next().unwrap()));
    bucket
        .run(&place, &["check", "job.toml"])
        .expect(2)
        .stderr_contains(&["SignatureDoesNotMatch"]);
}

#[test]
fn keys_work_on_a_real_s3_server() {
    println!("{}", run_script("servers/store_keys.py", &[]));
}
