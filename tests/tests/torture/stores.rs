//! No row is lost or duplicated, whatever fails in a store or in a run that writes to it.
//!
//! A small share runs with the other tests, all cases with `just torture`, as in `crashes.rs`.

use std::{collections::BTreeMap, process::Stdio, time::Instant};

use legenda_tests::{
    Workplace,
    bucket::{BucketServer, FAULTS, bucket_with_images},
    run_command,
    torture::{Instants, TortureRow, is_torture},
};

const CALM: [&str; 4] = ["run", "job.toml", "--set", "output.path=s3://bucket/calm"];

/// Creates the workplace and the bucket, and runs the job undisturbed.
fn calm(n_rows: u16) -> (Workplace, BucketServer) {
    let (place, bucket) = bucket_with_images(n_rows);
    let told = bucket.run(&place, &CALM).expect(0);
    assert!(told.stdout.contains("rows_in"), "{}", told.stdout);
    (place, bucket)
}

/// Resumes the job on a disturbed output and checks the output.
fn finish(place: &Workplace, bucket: &BucketServer) {
    let told = bucket.run(place, &["run", "job.toml"]).expect(0);
    assert!(told.stdout.contains("rows_in"), "{}", told.stdout);
    check(place, bucket);
}

fn check(place: &Workplace, bucket: &BucketServer) {
    let told = bucket.run(place, &["verify", "s3://bucket/out"]).expect(0);
    assert!(told.stdout.contains("verified"), "{}", told.stdout);
    assert_eq!(bucket.contents("out"), bucket.contents("calm"));
    bucket.clear("out/");
    bucket.clear("out.legenda/");
}

#[test]
fn a_failing_store_costs_time_and_no_row() {
    let (n_rows, calls_wanted) = if is_torture() { (40, 10_000) } else { (12, 100) };
    let (place, bucket) = calm(n_rows);
    let (mut calls, mut compared) = (0, 0);
    let mut struck = BTreeMap::new();
    while calls < calls_wanted {
        compared += 1;
        let (before, _) = bucket.calls();
        assert!(before > 0);
        bucket.fail(100, compared);
        let mut command = bucket.command(&place, &["run", "job.toml"]);
        // Heartbeats fail too, so the lease must outlast several of them.
        let told = run_command(command.env("LEGENDA_LEASE_SECONDS", "10")).expect(0);
        assert!(told.stdout.contains("rows_in"), "{}", told.stdout);
        let (n_calls, fired) = bucket.calls();
        calls += n_calls;
        for (fault, times) in fired {
            *struck.entry(format!("{fault:?}").to_lowercase()).or_default() += times;
        }
        bucket.fail(0, 1);
        check(&place, &bucket);
    }
    let fired: usize = struck.values().sum();
    assert!(fired * 15 > calls, "{fired} faults in {calls} calls");
    let compared = usize::try_from(compared).unwrap();
    let fault = "a tenth of the calls to a store goes wrong (asked for: calls)";
    TortureRow { fault, asked: calls, fired, compared, struck: &struck }.leave();
}

/// Injects every fault into every call, until a run makes no further call.
#[test]
fn any_single_store_call_may_fail() {
    let (n_rows, stride) = if is_torture() { (10, 1) } else { (4, 17) };
    let (place, bucket) = calm(n_rows);
    let mut struck: BTreeMap<String, usize> = BTreeMap::new();
    for (first, fault) in FAULTS.into_iter().enumerate() {
        for n in (first..).step_by(stride) {
            let (_, _) = bucket.calls();
            bucket.fail_at(n, fault);
            let told = run_command(&mut bucket.command(&place, &["run", "job.toml"])).expect(0);
            assert!(told.stdout.contains("rows_in"), "{fault:?} at call {n}: {}", told.stdout);
            let (n_calls, fired) = bucket.calls();
            let fired: usize = fired.values().sum();
            assert_eq!(fired, usize::from(n < n_calls), "{fault:?} at call {n} of {n_calls}");
            bucket.fail(0, 1);
            check(&place, &bucket);
            if fired == 0 {
                break;
            }
            *struck.entry(format!("{fault:?}").to_lowercase()).or_default() += 1;
        }
    }
    let fired = struck.values().sum();
    assert!(fired >= FAULTS.len(), "{struck:?}");
    let fault = "the n-th call to a store goes wrong, for every n";
    TortureRow { fault, asked: fired, fired, compared: fired, struck: &struck }.leave();
}

#[test]
fn a_crash_after_any_store_write_loses_nothing() {
    let (n_rows, stride) = if is_torture() { (10, 1) } else { (4, 3) };
    let (place, bucket) = calm(n_rows);
    let mut crashes = 0;
    for step in (1_usize..).step_by(stride) {
        let mut command = bucket.command(&place, &["run", "job.toml"]);
        let crashed = run_command(command.env("LEGENDA_CRASH_AT", step.to_string()));
        crashes += usize::from(crashed.code.is_none());
        finish(&place, &bucket);
        if crashed.code.is_some() {
            break;
        }
    }
    assert!(crashes * stride > 5, "{crashes}");
    let struck = BTreeMap::from([("a write".to_owned(), crashes)]);
    let fault = "crash after a write to a store";
    let compared = crashes + 1;
    TortureRow { fault, asked: crashes, fired: crashes, compared, struck: &struck }.leave();
}

#[test]
fn kills_of_a_run_that_writes_to_a_store_lose_nothing() {
    let (place, bucket) = calm(80);
    let start = Instant::now();
    finish(&place, &bucket);
    let mut instants = Instants::within(start.elapsed());
    let kills = if is_torture() { 200 } else { 3 };
    let (mut fired, mut compared) = (0, 1);
    let mut struck: BTreeMap<String, usize> = BTreeMap::new();
    while fired < kills {
        for _ in 0..4 {
            let mut command = bucket.command(&place, &["run", "job.toml"]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(instants.draw());
            let over = child.try_wait().unwrap().is_some();
            child.kill().unwrap();
            child.wait().unwrap();
            if over {
                break;
            }
            fired += 1;
            let begun = !bucket.objects("out.legenda/ledger/").is_empty();
            let what = if begun { "between commits" } else { "before the first commit" };
            *struck.entry(what.to_owned()).or_default() += 1;
        }
        finish(&place, &bucket);
        compared += 1;
    }
    let fault = "kill -9 of a run that writes to a store";
    TortureRow { fault, asked: fired, fired, compared, struck: &struck }.leave();
}
