//! `legenda retry` processes rejects again and commits each new answer once.

use std::{collections::BTreeMap, fs, fs::File, io::Write, path::Path, sync::Arc};

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::UInt64Type;
use legenda_tests::{IMAGE_JOB, Workplace, png, run_command, text_column, write_table};

/// Eleven rows with image files: those of rows 1, 4 and 7 are missing, that of row 9 is not an
/// image. `options` override job keys.
fn workplace_of(options: &[&str]) -> Workplace {
    let place = Workplace::new();
    let ids = StringArray::from_iter_values((0..11).map(|row| format!("row-{row}")));
    let paths = StringArray::from_iter_values((0..11).map(|row| format!("pictures/{row}.png")));
    let columns: [(&str, ArrayRef); 2] = [("id", Arc::new(ids)), ("image", Arc::new(paths))];
    write_table(&place.path("table.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 50);
    fs::create_dir(place.path("pictures")).unwrap();
    for row in [0, 2, 3, 5, 6, 8, 9, 10] {
        put(&place, row, &if row == 9 { b"junk".to_vec() } else { png(row) });
    }
    place.write("job.toml", IMAGE_JOB);
    let first = place.run(&[&["run", "job.toml"], options].concat()).expect(0);
    assert!(first.stdout.contains("rows_in 11 == answers 7 + rejects 4"), "{}", first.stdout);
    place
}

fn workplace() -> Workplace {
    workplace_of(&[])
}

fn put(place: &Workplace, row: u8, bytes: &[u8]) {
    let path = place.path(&format!("pictures/{row}.png"));
    File::create(path).unwrap().write_all(bytes).unwrap();
}

/// Returns the sorted ids of the answers, and the rows and codes of the rejects.
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
fn fixed_rows_are_answered_once() {
    let place = workplace();
    for row in [1, 7] {
        put(&place, row, &png(row));
    }
    // No reject has this code.
    let none = place.run(&["retry", "out", "--code", "media_too_large"]).expect(0);
    assert!(none.stdout.contains("0 rows in"), "{}", none.stdout);
    let again = place.run(&["retry", "out", "--code", "media_unreadable"]).expect(0);
    assert!(again.stdout.contains("rows_in 11 == answers 9 + rejects 2"), "{}", again.stdout);
    assert!(again.stdout.contains("3 rows in"), "{}", again.stdout);
    let expected = vec![(4, "media_unreadable".to_owned()), (9, "media_unknown_format".to_owned())];
    assert_eq!(settled(&place), (ids(&[0, 1, 2, 3, 5, 6, 7, 8, 10]), expected.clone()));
    let told = place.run(&["verify", "out"]).expect(0);
    assert!(told.stdout.contains("rows_in 11 == answers 9 + rejects 2"), "{}", told.stdout);

    // The job itself has nothing to do, and retried answers stay.
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("0 rows in"), "{}", run.stdout);
    assert_eq!(settled(&place).1, expected);

    // The remaining rejects, of all codes.
    for row in [4, 9] {
        put(&place, row, &png(row));
    }
    let last = place.run(&["retry", "out"]).expect(0);
    assert!(last.stdout.contains("rows_in 11 == answers 11 + rejects 0"), "{}", last.stdout);
    assert_eq!(fs::read_dir(place.path("out.legenda/rejects")).unwrap().count(), 0);
    assert_eq!(text_column(&place.answers("out"), "id").len(), 11);
    let told = place.run(&["verify", "out"]).expect(0);
    assert!(told.stdout.contains("rows_in 11 == answers 11 + rejects 0"), "{}", told.stdout);
    let nothing = place.run(&["retry", "out"]).expect(0);
    assert!(nothing.stdout.contains("0 rows in"), "{}", nothing.stdout);
}

#[test]
fn a_crash_during_a_retry_loses_nothing() {
    let mut crashes = 0;
    for step in (1..).step_by(5) {
        let place = workplace();
        for row in [1, 7] {
            put(&place, row, &png(row));
        }
        let mut command = place.command(&["retry", "out"]);
        let crashed = run_command(command.env("LEGENDA_CRASH_AT", step.to_string()));
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
fn a_retry_may_raise_limits_and_change_nothing_else() {
    let place = Workplace::new();
    let big = png(9);
    let rows = legenda_tests::image_table(&[Some(png(1)), Some(big)]);
    write_table(&place.path("table.parquet"), &rows, 50);
    place.write("job.toml", IMAGE_JOB);
    let tight = place.run(&["run", "job.toml", "--set", "limits.image_pixels=100"]).expect(0);
    assert!(tight.stdout.contains("answers 0 + rejects 2"), "{}", tight.stdout);
    place
        .run(&["retry", "out", "--set", "task.prompt=Say."])
        .expect(2)
        .stderr_contains(&["`task`", "may only change `limits`"]);
    let raised = place.run(&["retry", "out", "--set", "limits.image_pixels=5000"]).expect(0);
    assert!(raised.stdout.contains("answers 2 + rejects 0"), "{}", raised.stdout);
    place.run(&["retry", "elsewhere"]).expect(2).stderr_contains(&["not the output of a run"]);
}

const INLINE: [&str; 2] = ["--set", "output.rejects=inline"];

/// Returns the rows of a whole output, with their results.
fn inline_rows(place: &Workplace, output: &str) -> Vec<[Option<String>; 4]> {
    let rows = place.answers(output);
    let columns = ["id", "answer", "legenda_status", "legenda_reject_code"];
    let columns = columns.map(|name| text_column(&rows, name));
    (0..rows.num_rows()).map(|row| columns.each_ref().map(|column| column[row].clone())).collect()
}

/// Returns whether the outputs `out` and `whole` have byte-identical parts.
fn same_parts(place: &Workplace) -> bool {
    let parts = |output: &str| -> BTreeMap<String, Vec<u8>> {
        let files = fs::read_dir(place.path(output)).unwrap().map(|file| file.unwrap().path());
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let parts = files.filter(|path| name(path).starts_with("part-"));
        parts.map(|path| (name(&path), fs::read(&path).unwrap())).collect()
    };
    let whole = parts("whole");
    whole.len() > 1 && parts("out") == whole
}

#[test]
fn inline_rejects_are_replaced_in_place() {
    let formats = ["parquet", "arrow", "jsonl"].map(|format| format!("output.format={format}"));
    for format in &formats {
        let options = [&INLINE[..], &["--set", format, "--set", "output.span_rows=4"]].concat();
        let place = workplace_of(&options);
        for row in [1, 7] {
            put(&place, row, &png(row));
        }
        let none = place.run(&["retry", "out", "--code", "media_too_large"]).expect(0);
        assert!(none.stdout.contains("0 rows in"), "{}", none.stdout);
        let parts = fs::read_dir(place.path("out")).unwrap().count();
        let again = place.run(&["retry", "out", "--code", "media_unreadable"]).expect(0);
        assert!(again.stdout.contains("rows_in 11 == answers 9 + rejects 2"), "{}", again.stdout);
        assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), parts);
        let told = place.run(&["verify", "out"]).expect(0);
        assert!(told.stdout.contains("rows_in 11 == answers 9 + rejects 2"), "{}", told.stdout);
        let run = place.run(&[&["run", "job.toml"], &options[..]].concat()).expect(0);
        assert!(run.stdout.contains("0 rows in"), "{}", run.stdout);
        // The output equals that of a run with all images present.
        let whole = [&["run", "job.toml", "--set", "output.path=whole"], &options[..]].concat();
        let _whole = place.run(&whole).expect(0);
        assert!(same_parts(&place), "{format}");

        for row in [4, 9] {
            put(&place, row, &png(row));
        }
        let last = place.run(&["retry", "out"]).expect(0);
        assert!(last.stdout.contains("rows_in 11 == answers 11 + rejects 0"), "{}", last.stdout);
        let _whole = place.run(&[&whole[..], &["--overwrite"]].concat()).expect(0);
        assert!(same_parts(&place), "{format}");
        let nothing = place.run(&["retry", "out"]).expect(0);
        assert!(nothing.stdout.contains("0 rows in"), "{}", nothing.stdout);
        let _whole = place.run(&["verify", "out"]).expect(0);
    }
}

#[test]
fn inline_rejects_of_a_query_are_replaced_in_place() {
    let query = "source.query=SELECT * FROM source WHERE id NOT IN ('row-0', 'row-3', 'row-4')";
    let place = workplace();
    let options = [&INLINE[..], &["--set", query, "--set", "output.path=some"]].concat();
    let first = place.run(&[&["run", "job.toml"], &options[..]].concat()).expect(0);
    assert!(first.stdout.contains("rows_in 8 == answers 5 + rejects 3"), "{}", first.stdout);
    for row in [1, 9] {
        put(&place, row, &png(row));
    }
    let again = place.run(&["retry", "some"]).expect(0);
    assert!(again.stdout.contains("rows_in 8 == answers 7 + rejects 1"), "{}", again.stdout);
    let whole = [&["run", "job.toml"], &options[..4], &["--set", "output.path=whole"]].concat();
    let _whole = place.run(&whole).expect(0);
    assert_eq!(inline_rows(&place, "some"), inline_rows(&place, "whole"));
    let _whole = place.run(&["verify", "some"]).expect(0);
}

#[test]
fn rejects_beyond_the_limit_of_the_last_run_are_retried() {
    let query = ["--set", "source.query=SELECT * FROM source WHERE id NOT IN ('row-0', 'row-3')"];
    for options in [INLINE.to_vec(), query.to_vec(), [INLINE, query].concat()] {
        let place = workplace();
        let run = ["run", "job.toml", "--set", "output.path=some"];
        let _all = place.run(&[&run[..], &options].concat()).expect(0);
        let _first = place.run(&[&run[..], &options, &["--limit", "2"]].concat()).expect(0);
        for row in [1, 4, 7, 9] {
            put(&place, row, &png(row));
        }
        let again = place.run(&["retry", "some"]).expect(0);
        assert!(again.stdout.contains("4 rows in"), "{options:?} {}", again.stdout);
        assert!(again.stdout.contains(" + rejects 0"), "{options:?} {}", again.stdout);
    }
}

/// A reader of the parts finds each row exactly once at any moment, and the next run completes the
/// retry.
#[test]
fn a_crash_while_a_part_is_rewritten_loses_nothing() {
    let mut told = Vec::new();
    for step in (1..).step_by(2) {
        let place = workplace_of(&INLINE);
        for row in [1, 7] {
            put(&place, row, &png(row));
        }
        let mut command = place.command(&["retry", "out"]);
        let crashed = run_command(command.env("LEGENDA_CRASH_AT", step.to_string()));
        assert_eq!(inline_rows(&place, "out").len(), 11, "step {step}");
        if crashed.code.is_some() {
            break;
        }
        let verified = place.run(&["verify", "out"]);
        told.extend(verified.stderr.contains("was interrupted").then_some(step));
        let run = [&["run", "job.toml"], &INLINE[..]].concat();
        let again = if step % 4 == 1 { &["retry", "out"][..] } else { &run };
        let _whole = place.run(again).expect(0);
        let _whole = place.run(&["verify", "out"]).expect(0);
        let last = place.run(&["retry", "out"]).expect(0);
        assert!(last.stdout.contains("rows_in 11 == answers 9 + rejects 2"), "{}", last.stdout);
        let answered = inline_rows(&place, "out");
        assert_eq!(answered.iter().filter(|row| row[1].is_some()).count(), 9, "step {step}");
    }
    assert!(!told.is_empty());
}
