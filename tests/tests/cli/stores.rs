//! Tables and outputs in an object store work as on a disk, even if the store fails.

use std::{fs, process::Command, sync::Arc, time::Duration};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use legenda_tests::{
    Workplace,
    bucket::{BucketServer, SECRET, bucket_with_images},
    png, run_command, text_column, write_table,
};

#[test]
fn a_store_works_like_a_disk() {
    let (place, bucket) = bucket_with_images(20);
    let first = bucket.run(&place, &["run", "job.toml"]).expect(0);
    assert!(first.stdout.contains("rows_in 20 == answers 16 + rejects 4"), "{}", first.stdout);
    assert!(first.stdout.contains("answers in s3://bucket/out"), "{}", first.stdout);
    let told = bucket.run(&place, &["verify", "s3://bucket/out"]).expect(0);
    assert!(told.stdout.contains("rows_in 20 == answers 16 + rejects 4"), "{}", told.stdout);
    let local = ["run", "job.toml", "--set", "output.path=out", "--set"];
    let local = bucket.run(&place, &[&local[..], &["source.paths=[\"table.parquet\"]"]].concat());
    assert!(local.expect(0).stdout.contains("rows_in 20"));
    let on_disk = |names: &[&str], rows: &RecordBatch| -> Vec<Vec<Option<String>>> {
        names.iter().map(|name| text_column(rows, name)).collect()
    };
    assert_eq!(
        bucket.contents("out"),
        [
            on_disk(&["id", "answer", "legenda_input_sha256"], &place.answers("out")),
            on_disk(&["id", "legenda_code", "legenda_message"], &place.rejects("out")),
        ]
        .concat()
    );
    assert!(bucket.objects("out.legenda/lease").is_empty(), "the lease was not released");

    // A reader of the output gets its answers, and not its rejects.
    for output in ["out", "s3://bucket/out"] {
        let told = bucket.run(&place, &["inspect", output, "--json"]).expect(0);
        let told: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
        assert_eq!(told["table"]["rows"], 16, "{output}: {told}");
    }

    // Committed rows are not read again.
    let read_before = bucket.sent_bytes();
    assert!(read_before > 0);
    let again = bucket.run(&place, &["run", "job.toml"]).expect(0);
    assert!(again.stdout.contains("0 rows in"), "{}", again.stdout);
    assert!(again.stdout.contains("read 0B of the source"), "{}", again.stdout);
    // A changed table and a missing part are processed again.
    let part = bucket.objects("out/part-").into_keys().next().unwrap();
    bucket.clear(&part);
    bucket.run(&place, &["verify", "s3://bucket/out"]).expect(5).stderr_contains(&["missing"]);
    let fixed = bucket.run(&place, &["run", "job.toml"]).expect(0);
    assert!(fixed.stdout.contains("4 rows in"), "{}", fixed.stdout);
    bucket.put("tables/t.parquet", &fs::read(place.path("table.parquet")).unwrap()[..100]);
    bucket
        .run(&place, &["run", "job.toml"])
        .expect(2)
        .stderr_contains(&["s3://bucket/tables/t.parquet", "not a readable Parquet file"]);
}

#[cfg(unix)]
fn signal(child: &std::process::Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[cfg(unix)]
fn start_slowly(place: &Workplace, bucket: &BucketServer) -> std::process::Child {
    let mut command = bucket.command(place, &["run", "job.toml", "--set", "model.slots=1"]);
    let piped = std::process::Stdio::piped;
    let child = command.stdout(piped()).stderr(piped()).spawn().unwrap();
    let start = std::time::Instant::now();
    while bucket.objects("out.legenda/ledger/").is_empty() {
        assert!(start.elapsed() < Duration::from_secs(120), "no span was committed");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[cfg(unix)]
#[test]
fn two_runs_cannot_write_to_one_output() {
    let (place, bucket) = bucket_with_images(600);
    let mut first = start_slowly(&place, &bucket);
    // While the first run is alive, the second is refused.
    bucket
        .run(&place, &["run", "job.toml"])
        .expect(2)
        .stderr_contains(&["another run (process ", &first.id().to_string()]);
    // The first run is killed: the second waits for the lease to expire, then continues.
    first.kill().unwrap();
    first.wait().unwrap();
    let second = bucket.run(&place, &["run", "job.toml"]).expect(0);
    assert!(second.stderr.contains("watching"), "{}", second.stderr);
    assert!(second.stdout.contains("rows_in 600 == answers 480"), "{}", second.stdout);
    bucket.clear("out/");
    bucket.clear("out.legenda/");

    // The first run is suspended for longer than its lease: the second takes over, and the first
    // writes nothing after it wakes.
    let first = start_slowly(&place, &bucket);
    signal(&first, "-STOP");
    let second = bucket.run(&place, &["run", "job.toml"]).expect(0);
    assert!(second.stdout.contains("rows_in 600 == answers 480"), "{}", second.stdout);
    let written = bucket.objects("out");
    signal(&first, "-CONT");
    let first = first.wait_with_output().unwrap();
    let told = String::from_utf8(first.stderr).unwrap();
    assert_eq!(first.status.code(), Some(4), "{told}");
    assert!(told.contains("lease"), "{told}");
    assert!(bucket.objects("out") == written, "the first run wrote after it lost its lease");
}

#[cfg(unix)]
#[test]
fn an_unavailable_store_ends_the_run_resumable() {
    let (place, bucket) = bucket_with_images(600);
    let first = start_slowly(&place, &bucket);
    bucket.fail(1000, 1);
    let ended = first.wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(4), "{told}");
    assert!(told.contains("s3://bucket/") && told.contains("to resume, run:"), "{told}");
    bucket.fail(0, 1);
    let second = bucket.run(&place, &["run", "job.toml"]).expect(0);
    assert!(
        second.stdout.contains("rows_in 600 == answers 480 + rejects 120"),
        "{}",
        second.stdout
    );
    assert!(second.stdout.contains("committed by earlier runs"), "{}", second.stdout);
    let told = bucket.run(&place, &["verify", "s3://bucket/out"]).expect(0);
    assert!(told.stdout.contains("verified"), "{}", told.stdout);
}

/// Writes a table of image paths to `tables/t.parquet` of the bucket.
fn put_cells(place: &Workplace, bucket: &BucketServer, cells: &[String]) {
    let ids = StringArray::from_iter_values((0..cells.len()).map(|row| format!("row-{row}")));
    let columns: [(&str, ArrayRef); 2] =
        [("id", Arc::new(ids)), ("image", Arc::new(StringArray::from_iter_values(cells)))];
    let path = place.path("cells.parquet");
    write_table(&path, &RecordBatch::try_from_iter(columns).unwrap(), 50);
    bucket.put("tables/t.parquet", &fs::read(path).unwrap());
}

#[test]
fn media_cells_in_a_store_reach_only_what_the_job_allows() {
    let (place, bucket) = bucket_with_images(1);
    bucket.put("tables/media/a.png", &png(1));
    bucket.put("pictures/b.png", &png(2));
    bucket.put("secret/c.png", &png(3));
    let web = bucket.endpoint().to_owned();
    let local = web.replace("127.0.0.1", "localhost");
    let cells = [
        "media/a.png".to_owned(),
        "s3://bucket/pictures/b.png".to_owned(),
        format!("{web}/public/pictures/b.png?key=hidden"),
        format!("{web}/public/redirect/{}/public/tables/media/a.png", web.replacen("://", ":", 1)),
        // The following cells are refused.
        "../secret/c.png".to_owned(),
        "s3://bucket/secret/c.png".to_owned(),
        "s3://bucket/pictures/../secret/c.png".to_owned(),
        format!("file://{}", place.path("table.parquet").display()),
        "https://example.org/x.png".to_owned(),
        format!("{local}/public/pictures/b.png"),
        format!("{web}/public/redirect/http:localhost/x"),
        format!("{web}/public/none.png?key=hidden"),
        "media/none.png".to_owned(),
    ];
    put_cells(&place, &bucket, &cells);
    // A host without a port means the scheme's default port.
    let hosts = format!("source.media_hosts=[\"{web}\", \"{local}\", \"http://localhost\"]");
    let asked = ["run", "job.toml", "--set", "source.media_dirs=[\"s3://bucket/pictures\"]"];
    let told = bucket.run(&place, &[&asked[..], &["--set", &hosts]].concat()).expect(0);
    assert!(told.stdout.contains("rows_in 13 == answers 4 + rejects 9"), "{}", told.stdout);
    let columns = bucket.contents("out");
    let of = |column: usize| -> Vec<String> { columns[column].iter().flatten().cloned().collect() };
    assert_eq!(of(0), ["row-0", "row-1", "row-2", "row-3"]);
    let (path, url, gone) = ("media_path_refused", "media_url_refused", "media_not_fetched");
    // `localhost` is allowed by name, but does not resolve to a public address.
    let codes = [path, path, path, path, url, gone, gone, gone, "media_unreadable"];
    assert_eq!(of(4), codes);
    assert!(of(5).iter().all(|message| !message.contains("hidden")), "{:?}", of(5));
    assert!(of(5)[5].contains("no public address"), "{}", of(5)[5]);

    // Unless the job allows it, no row is fetched from the web.
    let told = bucket.run(&place, &["run", "job.toml", "--overwrite"]).expect(0);
    assert!(told.stdout.contains("answers 1 + rejects 12"), "{}", told.stdout);
    assert!(told.stdout.contains("rejected 6: media_url_refused"), "{}", told.stdout);
}

#[cfg(feature = "sql")]
#[test]
fn a_query_of_a_table_in_a_store_reads_only_selected_rows() {
    let (place, bucket) = bucket_with_images(64);
    let query = "source.query=SELECT * FROM source WHERE id = 'row-63'";
    let told = bucket.run(&place, &["run", "job.toml", "--set", query]).expect(0);
    assert!(told.stdout.contains("rows_in 1 == answers 1 + rejects 0"), "{}", told.stdout);
    let web = format!("source.paths=[\"{}/public/tables/t.parquet\"]", bucket.endpoint());
    let by_http = ["run", "job.toml", "--set", &web, "--set", "output.path=s3://bucket/http"];
    let told = bucket.run(&place, &by_http).expect(0);
    assert!(told.stdout.contains("rows_in 64"), "{}", told.stdout);
}

#[test]
fn unusable_stores_are_refused() {
    let (place, bucket) = bucket_with_images(4);
    let with = |key: &str| bucket.run(&place, &["run", "job.toml", "--set", key]);
    with("source.paths=[\"s3://bucket/none/*.parquet\"]")
        .expect(2)
        .stderr_contains(&["s3://bucket/none/*.parquet", "no readable file matches"]);
    with("source.paths=[\"s3://bucket/none.parquet\"]")
        .expect(2)
        .stderr_contains(&["s3://bucket/none.parquet"]);
    with("output.path=ftp://bucket/out").expect(2).stderr_contains(&["`output.path`", "ftp://"]);
    with("output.path=s3://bucket/tables").expect(2).stderr_contains(&["contains the input file"]);
    // A store that ignores conditional writes could not keep two runs apart.
    bucket.ignore_conditions();
    bucket.run(&place, &["run", "job.toml"]).expect(4).stderr_contains(&["If-None-Match"]);
}

#[test]
fn store_secrets_are_never_shown() {
    let (place, bucket) = bucket_with_images(4);
    let mut command = bucket.command(&place, &["run", "job.toml"]);
    let told = run_command(command.env("RUST_LOG", "trace")).expect(0);
    assert!(told.stderr.len() > 1000, "{}", told.stderr);
    let written: Vec<u8> = bucket.objects("out/").into_values().flatten().collect();
    for text in [&told.stdout, &told.stderr, &*String::from_utf8_lossy(&written)] {
        assert!(!text.contains(SECRET), "{text}");
    }
}
