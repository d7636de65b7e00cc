//! Tests of outputs, on disk and in a store.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    time::Duration,
};

use legenda_schemas::{
    cause::chain,
    job::{Format, Incremental},
    ledger::{LEDGER_VERSION, LedgerEntry, Manifest},
    span::{Fingerprint, SourceObject, Span},
};

use serde::{Serialize, Serializer, ser::Error};

use super::{Committed, LIMIT, LedgerError, OpenOutput, Output, OutputFiles, Rows, Stale, slice};
use crate::base::store::{Folder, LeaseTerms};

/// A lease short enough to wait for in a test.
const SHORT: LeaseTerms = LeaseTerms { lasts: Duration::from_millis(300) };

fn plan(job: &str, sizes: &[u64]) -> Manifest {
    let span = |size_bytes| Span {
        object: SourceObject { path: "/t.parquet".into(), size_bytes, modified_ns: 1, etag: None },
        row_group: 0,
        row_start: 0,
        n_rows: 2,
        file_row_start: 0,
    };
    Manifest {
        version: LEDGER_VERSION,
        fingerprint: Fingerprint::from_parts([job.as_bytes()]),
        identity: BTreeMap::from([
            ("task".to_owned(), job.into()),
            ("output.format".to_owned(), "parquet".into()),
        ]),
        spans: sizes.iter().map(|&size| span(size)).collect(),
        kept: Vec::new(),
        columns: serde_json::Value::Null,
    }
}

fn entry(plan: &Manifest, span_idx: usize) -> LedgerEntry {
    let span = &plan.spans[span_idx];
    LedgerEntry {
        version: LEDGER_VERSION,
        id: span.id(&plan.fingerprint),
        span: span.clone(),
        rows_in: 2,
        answers: 2,
        rejects: BTreeMap::new(),
        tokens_generated: 4,
        parts: Vec::new(),
        rejects_file: None,
        retries: 0,
        before: None,
    }
}

fn rows(text: &'static str) -> Rows {
    Rows { n_rows: 2, bytes: text.into(), schema: None }
}

fn commit(output: &Output, plan: &Manifest, span_idx: usize) {
    let mut entry = entry(plan, span_idx);
    entry.parts.push(output.write_part(&entry, 0, "", rows("part")).unwrap());
    output.commit(&entry, None).unwrap();
}

fn try_open(
    folder: &Folder,
    plan: &Manifest,
    how: impl Fn(&mut OpenOutput<'_>),
) -> Result<(Output, Manifest, Committed), LedgerError> {
    let files = OutputFiles::new(folder.clone(), Format::Parquet);
    let mut opening = OpenOutput {
        plan,
        objects: &HashSet::new(),
        overwrite: false,
        incremental: Incremental::Changed,
        stale: Stale::Refuse,
        lease: SHORT,
        holds_media: false,
    };
    how(&mut opening);
    Output::open(files, opening)
}

fn open(folder: &Folder, plan: &Manifest) -> (Output, Committed) {
    let (output, _, committed) = try_open(folder, plan, |_| {}).unwrap();
    (output, committed)
}

/// Runs a test on disk and in a store.
fn everywhere(name: &str, test: impl Fn(&Folder)) {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = Path::new("/");
    test(&Folder::at(&dir.path().to_string_lossy(), nowhere).unwrap());
    test(&Folder::at(&format!("memory:///{name}"), nowhere).unwrap());
}

fn parts(folder: &Folder) -> usize {
    folder.list("", "part-").unwrap().len()
}

/// A value that cannot be serialised as JSON.
struct Broken;

impl Serialize for Broken {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("it is broken"))
    }
}

#[test]
fn what_cannot_be_json_is_an_error_and_not_an_empty_file() {
    everywhere("broken", |folder| {
        let (output, _) = open(folder, &plan("job", &[1]));
        let error = output.write_report("_legenda/report.json", &Broken).unwrap_err();
        assert!(chain(&error).contains("it is broken"), "{error:?}");
        assert_eq!(folder.read("_legenda/report.json").unwrap(), None);
    });
}

#[test]
fn committed_spans_are_found_and_uncommitted_parts_removed() {
    everywhere("found", |folder| {
        let plan = plan("job", &[1, 2]);
        let (output, committed) = open(folder, &plan);
        assert!(committed.entries.is_empty());
        commit(&output, &plan, 0);
        output.write_part(&entry(&plan, 1), 0, "", rows("stray")).unwrap();
        drop(output);
        let (_output, committed) = open(folder, &plan);
        assert_eq!((committed.entries.len(), parts(folder)), (1, 1));
    });
}

#[test]
fn spans_of_a_changed_input_are_removed() {
    everywhere("changed", |folder| {
        let old = plan("job", &[1]);
        let (output, _) = open(folder, &old);
        commit(&output, &old, 0);
        drop(output);
        let (_output, committed) = open(folder, &plan("job", &[9]));
        assert_eq!((committed.entries.len(), committed.superseded, parts(folder)), (0, 1, 0));
    });
}

#[test]
fn another_job_is_refused_by_the_key_that_differs() {
    everywhere("another", |folder| {
        drop(open(folder, &plan("job", &[1])));
        let message = try_open(folder, &plan("other", &[1]), |_| {}).unwrap_err().to_string();
        assert!(message.contains("task: \"job\" -> \"other\""), "{message}");
        try_open(folder, &plan("other", &[1]), |how| how.overwrite = true).unwrap();
    });
}

#[test]
fn a_second_writer_is_refused_while_the_first_lives() {
    everywhere("second", |folder| {
        let plan = plan("job", &[1]);
        let first = open(folder, &plan);
        let second = try_open(folder, &plan, |_| {});
        assert!(matches!(second, Err(LedgerError::Locked { .. })));
        drop(first);
        drop(open(folder, &plan));
    });
}

#[test]
fn a_retry_takes_the_place_of_its_span() {
    everywhere("retry", |folder| {
        let plan = plan("job", &[1]);
        let (output, _) = open(folder, &plan);
        let mut first = entry(&plan, 0);
        (first.answers, first.rejects) = (1, BTreeMap::from([("media_unreadable".to_owned(), 1)]));
        first.parts.push(output.write_part(&first, 0, "", rows("one")).unwrap());
        first.rejects_file = Some(output.write_rejects(&first, 0, rows("rejected")).unwrap());
        output.commit(&first, None).unwrap();
        let mut second = LedgerEntry {
            retries: 1,
            answers: 2,
            rejects: BTreeMap::new(),
            rejects_file: None,
            ..first.clone()
        };
        second.parts.push(output.write_part(&second, 0, "", rows("two")).unwrap());
        output.commit(&second, Some(&first)).unwrap();
        assert_eq!(folder.list("rejects", "").unwrap(), Vec::<String>::new());
        drop(output);
        let (_output, committed) = open(folder, &plan);
        let entries: Vec<LedgerEntry> = committed.entries.into_values().collect();
        assert_eq!((entries, parts(folder)), (vec![second], 2));
    });
}

#[test]
fn answers_to_files_that_changed_may_stay() {
    everywhere("incremental", |folder| {
        let mut first = plan("job", &[1, 2]);
        first.spans[1].object.path = "/u.parquet".to_owned();
        let (output, _) = open(folder, &first);
        commit(&output, &first, 0);
        commit(&output, &first, 1);
        drop(output);
        // The first file has changed, the second has vanished, the third is new.
        let mut second = plan("job", &[9, 3]);
        second.spans[1].object.path = "/v.parquet".to_owned();
        let new = |how: &mut OpenOutput<'_>| how.incremental = Incremental::New;
        let (output, written, committed) = try_open(folder, &second, new).unwrap();
        assert_eq!((committed.kept.len(), committed.superseded), (2, 0));
        assert_eq!(written.spans, second.spans[1..], "only the new file is done");
        drop(output);
        // They stay if nothing is new, and are removed if the output follows the source.
        let (output, written, committed) = try_open(folder, &second, new).unwrap();
        assert_eq!((written.kept.len(), committed.superseded, parts(folder)), (2, 0, 2));
        drop(output);
        let (_output, committed) = open(folder, &second);
        assert_eq!((committed.kept.len(), committed.superseded, parts(folder)), (0, 2, 0));
    });
}

#[test]
fn all_is_done_again_when_it_is_whole() {
    everywhere("all", |folder| {
        let plan = plan("job", &[1, 2]);
        let all = |how: &mut OpenOutput<'_>| how.incremental = Incremental::All;
        let (output, ..) = try_open(folder, &plan, all).unwrap();
        commit(&output, &plan, 0);
        drop(output);
        let (output, _, committed) = try_open(folder, &plan, all).unwrap();
        assert_eq!(committed.entries.len(), 1, "what was begun is finished");
        commit(&output, &plan, 1);
        drop(output);
        let (_output, _, committed) = try_open(folder, &plan, all).unwrap();
        assert_eq!((committed.entries.len(), parts(folder)), (0, 0));
    });
}

#[test]
fn answers_of_another_job_may_stay() {
    everywhere("stale", |folder| {
        let old = plan("job", &[1]);
        let (output, _) = open(folder, &old);
        commit(&output, &old, 0);
        drop(output);
        let mut other = plan("job", &[1, 2]);
        other.spans[1].object.path = "/u.parquet".to_owned();
        other.identity.insert("generation".to_owned(), "other".into());
        other.fingerprint = Fingerprint::from_parts([b"another".as_slice()]);
        let keep = |how: &mut OpenOutput<'_>| how.stale = Stale::Keep;
        let (output, written, committed) = try_open(folder, &other, keep).unwrap();
        assert_eq!((committed.kept.len(), written.spans.len()), (1, 1));
        commit(&output, &other, 1);
        drop(output);
        // From then on they belong to the output.
        let (output, written, committed) = try_open(folder, &other, |_| {}).unwrap();
        assert_eq!((written.kept.len(), committed.entries.len(), parts(folder)), (1, 1, 2));
        drop(output);
        // With `Redo`, only they are recomputed.
        let redo = |how: &mut OpenOutput<'_>| how.stale = Stale::Redo;
        let (output, written, committed) = try_open(folder, &other, redo).unwrap();
        assert_eq!((written.spans.len(), committed.entries.len(), parts(folder)), (2, 1, 1));
        drop(output);
        let mut columns = other.clone();
        columns.identity.insert("output.columns".to_owned(), "other".into());
        columns.fingerprint = Fingerprint::from_parts([b"third".as_slice()]);
        let refused = try_open(folder, &columns, keep).unwrap_err().to_string();
        assert!(refused.contains("output.columns: not set"), "{refused}");
    });
}

/// Commits some rows of the first span of a manifest, as a run that ends early does.
fn commit_piece(output: &Output, plan: &Manifest, rows: std::ops::Range<usize>) -> Span {
    let span = slice(&plan.spans[0], rows.start, rows.end).unwrap();
    let n_rows = span.n_rows as u64;
    let mut entry = LedgerEntry {
        id: span.id(&plan.fingerprint),
        span: span.clone(),
        rows_in: n_rows,
        answers: n_rows,
        ..entry(plan, 0)
    };
    entry.parts.push(output.write_part(&entry, 0, "", rows_of(n_rows)).unwrap());
    output.commit(&entry, None).unwrap();
    span
}

fn rows_of(n_rows: u64) -> Rows {
    Rows { n_rows, ..rows("part") }
}

#[test]
fn a_run_goes_on_around_what_one_before_has_committed_of_a_span() {
    everywhere("around", |folder| {
        let mut plan = plan("job", &[1]);
        plan.spans[0].n_rows = 10;
        let (output, _) = open(folder, &plan);
        let piece = commit_piece(&output, &plan, 3..5);
        drop(output);
        let (output, written, committed) = try_open(folder, &plan, |_| {}).unwrap();
        assert_eq!((committed.entries.len(), committed.superseded, parts(folder)), (1, 0, 1));
        let whole = &plan.spans[0];
        let around = [slice(whole, 0, 3).unwrap(), piece, slice(whole, 5, 10).unwrap()];
        assert_eq!(written.spans, around);
        drop(output);
        // A limit ignores rows beyond it, and the next run without a limit processes them.
        let mut limited = plan.clone();
        limited.identity.insert(LIMIT.to_owned(), 2.into());
        limited.spans[0].n_rows = 2;
        let (output, written, committed) = try_open(folder, &limited, |_| {}).unwrap();
        assert_eq!((written.spans.len(), committed.entries.len(), parts(folder)), (2, 1, 1));
        commit(&output, &limited, 0);
        drop(output);
        let (output, written, committed) = try_open(folder, &plan, |_| {}).unwrap();
        let ranges: Vec<(usize, usize)> =
            written.spans.iter().map(|span| (span.row_start, span.n_rows)).collect();
        assert_eq!(ranges, [(0, 2), (2, 1), (3, 2), (5, 5)]);
        assert_eq!(committed.entries.len(), 2);
        drop(output);
        // It is complete once the remainder is committed.
        let (output, ..) = try_open(folder, &plan, |_| {}).unwrap();
        drop((commit_piece(&output, &plan, 2..3), commit_piece(&output, &plan, 5..10)));
        drop(output);
        let all = |how: &mut OpenOutput<'_>| how.incremental = Incremental::All;
        let (_output, written, committed) = try_open(folder, &plan, all).unwrap();
        assert_eq!((written.spans, committed.entries.len(), parts(folder)), (plan.spans, 0, 0));
    });
}
