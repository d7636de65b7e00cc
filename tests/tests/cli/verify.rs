//! `legenda verify` proves that an output is complete, or names each problem.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use legenda_tests::{IMAGE_JOB, Workplace, image_table, png, write_table};

/// Creates eight rows in two spans, with one reject in each.
fn workplace() -> Workplace {
    let place = Workplace::new();
    write_images(&place, 8);
    place.write("job.toml", IMAGE_JOB);
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("answers 6 + rejects 2"), "{}", ended.stdout);
    let told = place.run(&["verify", "out"]).expect(0);
    assert!(
        told.stdout.contains("rows_in 8 == answers 6 + rejects 2 in 2 spans"),
        "{}",
        told.stdout
    );
    place
}

fn write_images(place: &Workplace, n_rows: u8) {
    let cell = |row: u8| Some(if row % 4 == 1 { b"junk".to_vec() } else { png(row) });
    let cells: Vec<_> = (0..n_rows).map(cell).collect();
    write_table(&place.path("table.parquet"), &image_table(&cells), 50);
}

fn first_file(dir: &Path, prefix: &str) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(prefix);
    files.filter(|path| path.is_file()).filter(named).min().unwrap()
}

/// Replaces `old` by `new` in a text file.
fn edit(path: &Path, old: &str, new: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(old), "{text}");
    File::create(path).unwrap().write_all(text.replacen(old, new, 1).as_bytes()).unwrap();
}

#[test]
fn damaged_files_are_named_and_fixed_by_another_run() {
    let place = workplace();
    let (out, rejects) = (place.path("out"), place.path("out.legenda/rejects"));
    for (dir, prefix) in [(&out, "part-"), (&rejects, "rejects-")] {
        let file = first_file(dir, prefix);
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let whole = fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        File::create(&file).unwrap().write_all(&damaged).unwrap();
        place
            .run(&["verify", "out"])
            .expect(5)
            .stderr_contains(&[&name, "has changed since it was committed"]);

        fs::remove_file(&file).unwrap();
        place.run(&["verify", "out"]).expect(5).stderr_contains(&[&name, "missing"]);

        fs::copy(first_file(dir, prefix), dir.join(format!("{prefix}stray.parquet"))).unwrap();
        place.run(&["verify", "out"]).expect(5).stderr_contains(&["stray", "never committed"]);

        place.run(&["run", "job.toml"]).expect(0).stderr_contains(&[]);
        place.run(&["verify", "out"]).expect(0).stderr_contains(&[]);
        assert_eq!(fs::read(&file).unwrap(), whole, "the part was not restored identically");
    }
}

#[test]
fn ledger_problems_are_named() {
    let place = workplace();
    let entry = first_file(&place.path("out.legenda/ledger"), "");
    edit(&entry, "\"answers\": 3", "\"answers\": 2");
    place.run(&["verify", "out"]).expect(5).stderr_contains(&["counts 4 rows, 2 answers"]);
    edit(&entry, "\"answers\": 2", "\"answers\": 3");
    edit(&entry, "\"rows\": 3", "\"rows\": 2");
    place.run(&["verify", "out"]).expect(5).stderr_contains(&["has 3 rows"]);
    edit(&entry, "\"version\": 2", "\"version\": 99");
    place.run(&["verify", "out"]).expect(2).stderr_contains(&["version 99"]);
    place.run(&["run", "job.toml"]).expect(2).stderr_contains(&["version 99", "--overwrite"]);
    fs::remove_file(&entry).unwrap();
    place.run(&["verify", "out"]).expect(5).stderr_contains(&["incomplete: 4 of"]);
    edit(&place.path("out.legenda/plan.json"), "\"row_start\": 4", "\"row_start\": 3");
    place
        .run(&["verify", "out"])
        .expect(5)
        .stderr_contains(&["row group 0", "is not in the manifest"]);
}

#[test]
fn a_changed_or_missing_input_is_named() {
    let place = workplace();
    write_images(&place, 9);
    place.run(&["verify", "out"]).expect(5).stderr_contains(&["table.parquet", "has changed"]);
    fs::remove_file(place.path("table.parquet")).unwrap();
    place
        .run(&["verify", "out"])
        .expect(5)
        .stderr_contains(&["table.parquet", "failed to read the input"]);
    place.run(&["verify", "elsewhere"]).expect(2).stderr_contains(&["not the output of a run"]);
}

#[test]
fn arrow_files_inline_rejects_limits_and_queries_are_verified() {
    let place = workplace();
    for (name, extra) in [
        ("arrow", ["--set", "output.format=arrow"].as_slice()),
        ("inline", &["--set", "output.rejects=inline"]),
        ("limited", &["--limit", "5"]),
        #[cfg(feature = "sql")]
        ("asked", &["--set", "source.query=SELECT * FROM source WHERE id > 'row-4'"]),
    ] {
        let path = format!("output.path={name}");
        let asked = [["run", "job.toml", "--set", &path].as_slice(), extra].concat();
        let ended = place.run(&asked).expect(0);
        let told = place.run(&["verify", name]).expect(0);
        let counts = told.stdout.split(" in ").next().unwrap();
        assert!(ended.stdout.contains(counts), "{name}: {} {}", ended.stdout, told.stdout);
    }
}
