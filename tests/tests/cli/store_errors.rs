//! What is wrong with a store, or with how it is set up, is said in one line with what to set, before
//! anything is read, and at once.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use legenda_tests::{
    Ended, Workplace,
    bucket::{BucketServer, FAR_REGION, Fault, bucket_with_pictures},
    ended, png, text_column, write_table,
};

/// Checks that a command ends with 2 and says each of `texts` in one error and one hint.
fn refused(told: &Ended, texts: &[&str]) {
    assert_eq!(told.code, Some(2), "{}", told.stderr);
    let lines: Vec<&str> = told.stderr.lines().collect();
    let [error, hint] = lines.as_slice() else { panic!("not two lines:\n{}", told.stderr) };
    assert!(error.starts_with("error: ") && hint.starts_with("hint: "), "{}", told.stderr);
    told.complains_of(texts);
    // No cause is repeated, and nothing of the store's XML is shown.
    let parts: Vec<&str> = error.split(": ").collect();
    assert!(parts.windows(2).all(|two| two[0] != two[1]), "{error}");
    assert!(!error.contains('<') && error.len() < 300, "{error}");
}

fn told(command: &mut Command) -> (Ended, Duration) {
    let start = Instant::now();
    (ended(command), start.elapsed())
}

/// Runs a job over the same bucket by other names: its tables, one table, and as an output.
fn with_buckets(place: &Workplace, bucket: &BucketServer, name: &str) -> Vec<Ended> {
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
fn buckets_that_cannot_be_used_are_told_with_what_to_set() {
    let (place, bucket) = bucket_with_pictures(4);
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
    assert!(calls < 60, "{calls} calls: what cannot pass was tried again");
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
fn absent_credentials_are_told_at_once() {
    let (place, bucket) = bucket_with_pictures(4);
    let without = |change: &str| {
        let mut command = bucket.command(&place, &["run", "job.toml", "--set", change]);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        told(&mut command)
    };
    for change in ["output.path=out", "source.paths=[\"table.parquet\"]"] {
        let (told, took) = without(change);
        refused(&told, &["no credentials for S3 were found", "`AWS_ACCESS_KEY_ID`"]);
        assert!(took < Duration::from_secs(12), "{took:?}");
    }
    let mut half = bucket.command(&place, &["run", "job.toml"]);
    let half = ended(half.env_remove("AWS_SECRET_ACCESS_KEY")).expect(2);
    half.complains_of(&["SecretAccessKey", "AWS_"]);
}

#[test]
fn endpoints_that_cannot_be_used_are_told_with_what_to_set() {
    let (place, bucket) = bucket_with_pictures(4);
    let at = |endpoint: &str, change: &str| {
        let mut command = bucket.command(&place, &["run", "job.toml", "--set", change]);
        told(command.env("AWS_ENDPOINT", endpoint).env_remove("AWS_ALLOW_HTTP"))
    };
    // Nobody listens at that port, and the name leads nowhere.
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
    // An endpoint on this machine needs no leave.
    let (told, _) = at(bucket.endpoint(), "output.path=out");
    assert_eq!(told.code, Some(0), "{}", told.stderr);
}

#[test]
fn a_media_cell_whose_connection_breaks_is_asked_for_again() {
    let (place, bucket) = bucket_with_pictures(1);
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
