//! `legenda retry` tries rejects again, and commits what is answered now, once.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::{fs, fs::File, io::Write, sync::Arc};

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::UInt64Type;
use legenda_tests::{PICTURE_JOB, Workplace, ended, png, text_column, write_table};

/// Eleven rows whose pictures are files; those of rows 1, 4 and 7 are not there, that of row 9 is no
/// picture.
fn workplace() -> Workplace {
    let place = Workplace::new();
    let ids = StringArray::from_iter_values((0..11).map(|row| format!("row-{row}")));
    let paths = StringArray::from_iter_values((0..11).map(|row| format!("pictures/{row}.png")));
    let columns: [(&str, ArrayRef); 2] = [("id", Arc::new(ids)), ("image", Arc::new(paths))];
    write_table(&place.path("table.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 50);
    fs::create_dir(place.path("pictures")).unwrap();
    for row in [0, 2, 3, 5, 6, 8, 9, 10] {
        put(&place, row, &if row == 9 { b"junk".to_vec() } else { png(row) });
    }
    place.write("job.toml", PICTURE_JOB);
    let first = place.run(&["run", "job.toml"]).expect(0);
    assert!(first.stdout.contains("rows_in 11 == answers 7 + rejects 4"), "{}", first.stdout);
    place
}

fn put(place: &Workplace, row: u8, bytes: &[u8]) {
    let path = place.path(&format!("pictures/{row}.png"));
    File::create(path).unwrap().write_all(bytes).unwrap();
}

/// The ids of the answers, sorted, and the rows of the rejects with their codes.
fn settled(place: &Workplace) -> (Vec<String>, Vec<(u64, String)>) {
    let mut ids: Vec<String> =
        text_column(&place.answers("out"), "id").into_iter().flatten().collect();
    ids.sort();
    let rejects = place.rejects("out");
    let rows = rejects.column_by_name("legenda_row").unwrap().as_primitive::<UInt64Type>().clone();
    let codes = text_column(&rejects, "legenda_code").into_iter().flatten();
    (ids, rows.values().iter().copied().zip(codes).collect())
}

fn ids(rows: &[u8]) -> Vec<String> {
    let mut ids: Vec<String> = rows.iter().map(|row| format!("row-{row}")).collect();
    ids.sort();
    ids
}

#[test]
fn what_is_mended_is_answered_once() {
    let place = workplace();
    for row in [1, 7] {
        put(&place, row, &png(row));
    }
    // Of another code none is tried.
    let none = place.run(&["retry", "out", "--code", "media_too_large"]).expect(0);
    assert!(none.stdout.contains("0 rows in"), "{}", none.stdout);
    let again = place.run(&["retry", "out", "--code", "media_unreadable"]).expect(0);
    assert!(again.stdout.contains("rows_in 11 == answers 9 + rejects 2"), "{}", again.stdout);
    assert!(again.stdout.contains("3 rows in"), "{}", again.stdout);
    let expected = vec![(4, "media_unreadable".to_owned()), (9, "media_unknown_format".to_owned())];
    assert_eq!(settled(&place), (ids(&[0, 1, 2, 3, 5, 6, 7, 8, 10]), expected.clone()));
    let told = place.run(&["verify", "out"]).expect(0);
    assert!(told.stdout.contains("rows_in 11 == answers 9 + rejects 2"), "{}", told.stdout);

    // The job itself has nothing to do, and what was retried stays.
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("0 rows in"), "{}", run.stdout);
    assert_eq!(settled(&place).1, expected);

    // The last ones, all codes together.
    for row in [4, 9] {
        put(&place, row, &png(row));
    }
    let last = place.run(&["retry", "out"]).expect(0);
    assert!(last.stdout.contains("rows_in 11 == answers 11 + rejects 0"), "{}", last.stdout);
    assert_eq!(fs::read_dir(place.path("out/rejects")).unwrap().count(), 0);
    assert_eq!(text_column(&place.answers("out"), "id").len(), 11);
    let told = place.run(&["verify", "out"]).expect(0);
    assert!(told.stdout.contains("rows_in 11 == answers 11 + rejects 0"), "{}", told.stdout);
    let nothing = place.run(&["retry", "out"]).expect(0);
    assert!(nothing.stdout.contains("0 rows in"), "{}", nothing.stdout);
}

#[test]
fn a_crash_within_a_retry_costs_nothing() {
    let mut crashes = 0;
    for step in (1..).step_by(5) {
        let place = workplace();
        for row in [1, 7] {
            put(&place, row, &png(row));
        }
        let mut command = place.command(&["retry", "out"]);
        let crashed = ended(command.env("LEGENDA_CRASH_AT", step.to_string()));
        crashes += usize::from(crashed.code.is_none());
        let again = place.run(&["retry", "out"]).expect(0);
        assert!(again.stdout.contains("rows_in 11 == answers 9 + rejects 2"), "{}", again.stdout);
        assert_eq!(settled(&place).0, ids(&[0, 1, 2, 3, 5, 6, 7, 8, 10]), "step {step}");
        let told = place.run(&["verify", "out"]).expect(0);
        assert!(told.stdout.contains("verified"), "{}", told.stdout);
        if crashed.code.is_some() {
            break;
        }
    }
    assert!(crashes > 5, "{crashes}");
}

#[test]
fn limits_may_be_raised_and_nothing_else_changed() {
    let place = Workplace::new();
    let big = png(9);
    let rows = legenda_tests::pictures(&[Some(png(1)), Some(big)]);
    write_table(&place.path("table.parquet"), &rows, 50);
    place.write("job.toml", PICTURE_JOB);
    let tight = place.run(&["run", "job.toml", "--set", "limits.image_pixels=100"]).expect(0);
    assert!(tight.stdout.contains("answers 0 + rejects 2"), "{}", tight.stdout);
    place
        .run(&["retry", "out", "--set", "task.prompt=Say."])
        .expect(2)
        .complains_of(&["`task`", "only `limits`"]);
    let raised = place.run(&["retry", "out", "--set", "limits.image_pixels=5000"]).expect(0);
    assert!(raised.stdout.contains("answers 2 + rejects 0"), "{}", raised.stdout);
    place.run(&["retry", "elsewhere"]).expect(2).complains_of(&["no output of a run"]);
    let inline =
        ["run", "job.toml", "--set", "output.path=inline", "--set", "output.rejects=inline"];
    assert!(place.run(&inline).expect(0).stdout.contains("answers 2"));
    place.run(&["retry", "inline"]).expect(2).complains_of(&["`inline`", "--overwrite"]);
}
