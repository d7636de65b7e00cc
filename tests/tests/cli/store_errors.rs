//! Errors of a store, or of its configuration, have one hint and are reported immediately and before
//! anything is read.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use legenda_tests::{
    CommandResult, Workplace,
    bucket::{BucketServer, FAR_REGION, Fault, bucket_with_images},
    png, run_command, text_column, write_table,
};

/// Asserts that a command exits with 2 and prints one error, its causes and one hint that contain all
/// of `texts`.
fn refused(told: &CommandResult, texts: &[&str]) {
    assert_eq!(told.code, Some(2), "{}", told.stderr);
    let lines: Vec<&str> = told.stderr.lines().collect();
    let [error, causes @ .., hint] = lines.as_slice() else { panic!("no hint:\n{}", told.stderr) };
    assert!(error.starts_with("error: ") && hint.starts_with("hint: "), "{}", told.stderr);
    let causes: Option<Vec<&str>> =
        causes.iter().map(|line| line.strip_prefix("caused by: ")).collect();
    let causes = causes.unwrap_or_else(|| panic!("not only causes:\n{}", told.stderr));
    let error = [&[*error], causes.as_slice()].concat().join(": ");
    told.stderr_contains(texts);
    // No cause is repeated, and the store's XML is not shown.
    let parts: Vec<&str> = error.split(": ").collect();
    assert!(parts.windows(2).all(|two| two[0] != two[1]), "{error}");
    assert!(!error.contains('<') && error.len() < 300, "{error}");
}

fn told(command: &mut Command) -> (CommandResult, Duration) {
    let start = Instant::now();
    (run_command(command), start.elapsed())
}

/// Runs a job over another bucket name: as a table pattern, as one table, and as the output.
fn with_buckets(place: &Workplace, bucket: &BucketServer, name: &str) -> Vec<CommandResult> {
    [
        format!("source.paths=[\"s3://{name}/tables/*.parquet\"]"),
        format!("source.paths=[\"s3://{name}/tables/t.parquet\"]"),
        format!("output.path=s3://{name}/out"),
    ]
    .iter()
    .map(|change| bucket.run(place, &["run", "job.toml", "--set", change]))
    .collect()
}

#[test]
fn unusable_buckets_are_reported_with_the_setting_to_change() {
    let (place, bucket) = bucket_with_images(4);
    for told in with_buckets(&place, &bucket, "none") {
        refused(&told, &["the bucket does not exist", "s3://none/", "`AWS_ENDPOINT`"]);
    }
    for told in with_buckets(&place, &bucket, "closed") {
        refused(&told, &["access denied (AccessDenied)", "`AWS_ACCESS_KEY_ID`"]);
    }
    for told in with_buckets(&place, &bucket, "far") {
        refused(&told, &["another region", &format!("set `AWS_REGION={FAR_REGION}`")]);
    }
    let (calls, _) = bucket.calls();
    assert!(calls < 60, "{calls} calls: permanent errors were retried");
    for command in ["check", "inspect", "verify"] {
        let place_of = if command == "check" { "job.toml" } else { "s3://none/out" };
        let change: &[&str] = if command == "check" {
            &["--set", "source.paths=[\"s3://none/t.parquet\"]"]
        } else {
            &[]
        };
        let told = bucket.run(&place, &[&[command, place_of][..], change].concat());
        refused(&told, &["the bucket does not exist"]);
    }
}

#[test]
fn missing_credentials_are_reported_immediately() {
    let (place, bucket) = bucket_with_images(4);
    let without = |change: &str| {
        let mut command = bucket.command(&place, &["run", "job.toml", "--set", change]);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        told(&mut command)
    };
    for change in ["output.path=out", "source.paths=[\"table.parquet\"]"] {
        let (told, took) = without(change);
        refused(&told, &["found no credentials for S3", "`AWS_ACCESS_KEY_ID`"]);
        assert!(took < Duration::from_secs(12), "{took:?}");
    }
    let mut half = bucket.command(&place, &["run", "job.toml"]);
    let half = run_command(half.env_remove("AWS_SECRET_ACCESS_KEY")).expect(2);
    half.stderr_contains(&["SecretAccessKey", "AWS_"]);
}

#[test]
fn unusable_endpoints_are_reported_with_the_setting_to_change() {
    let (place, bucket) = bucket_with_images(4);
    let at = |endpoint: &str, change: &str| {
        let mut command = bucket.command(&place, &["run", "job.toml", "--set", change]);
        told(command.env("AWS_ENDPOINT", endpoint).env_remove("AWS_ALLOW_HTTP"))
    };
    // A port without a listener, and a host name that does not resolve.
    for endpoint in ["http://127.0.0.1:9", "https://store.invalid"] {
        for change in ["output.path=out", "source.paths=[\"table.parquet\"]"] {
            let (told, took) = at(endpoint, change);
            let host = endpoint.split("//").nth(1).unwrap();
            refused(&told, &["failed to connect to", host, "`AWS_ENDPOINT`"]);
            assert!(took < Duration::from_secs(30), "{took:?}");
        }
    }
    let (told, _) = at("http://store.invalid:9000", "output.path=out");
    refused(&told, &["`http://store.invalid:9000` is not encrypted", "AWS_ALLOW_HTTP=true"]);
    // An endpoint on this machine needs no extra setting.
    let (told, _) = at(bucket.endpoint(), "output.path=out");
    assert_eq!(told.code, Some(0), "{}", told.stderr);
}

#[test]
fn a_media_cell_is_retried_after_a_broken_connection() {
    let (place, bucket) = bucket_with_images(1);
    bucket.put("pictures/a.png", &png(7));
    let url = format!("{}/public/pictures/a.png", bucket.endpoint());
    let rows = legenda_tests::texts(&[&url]);
    let rows = arrow::array::RecordBatch::try_from_iter([
        ("id", rows.columns()[0].clone()),
        ("image", rows.columns()[1].clone()),
    ]);
    write_table(&place.path("cells.parquet"), &rows.unwrap(), 5);
    let hosts = format!("source.media_hosts=[\"{}\"]", bucket.endpoint());
    let job = ["run", "job.toml", "--set", "source.paths=[\"cells.parquet\"]", "--set", &hosts];
    for fault in [Fault::Cut, Fault::AnswerLost, Fault::Dropped, Fault::SlowDown] {
        bucket.fail_at(0, fault);
        let told =
            bucket.run(&place, &[&job[..], &["--set", "output.path=out", "--overwrite"]].concat());
        assert_eq!(told.code, Some(0), "{fault:?}: {}", told.stderr);
        let (_, fired) = bucket.calls();
        assert_eq!(fired.into_keys().collect::<Vec<_>>(), [fault]);
        assert_eq!(
            text_column(&place.answers("out"), "id"),
            [Some("row-0".to_owned())],
            "{fault:?}"
        );
    }
}
