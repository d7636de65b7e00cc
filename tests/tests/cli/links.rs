//! Symbolic links planted where files are read or written are not followed.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use legenda_tests::{TEXT_JOB, Workplace, numbered_png, run_command, texts, write_table};

const JOB: &str = r#"
task = { kind = "caption" }
[source]
paths = ["in"]
columns = { image = "media" }
[output]
path = "out"
sidecars = { extension = "txt", mode = "append" }
"#;

const SECRET: &str = "the secret of the user\n";

/// Creates two images in `in`, and a file outside of it.
fn workplace() -> Workplace {
    let place = Workplace::new();
    for folder in ["in", "home"] {
        fs::create_dir(place.path(folder)).unwrap();
    }
    for name in ["in/a.png", "in/b.png"] {
        put(&place.path(name), &numbered_png(7));
    }
    place.write("home/.bashrc", SECRET);
    place.write("job.toml", JOB);
    place
}

fn put(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

fn text(place: &Workplace, name: &str) -> String {
    fs::read_to_string(place.path(name)).unwrap()
}

/// Asserts that the file outside is unchanged and no other file was created next to it.
fn untouched(place: &Workplace, what: &str) {
    assert_eq!(text(place, "home/.bashrc"), SECRET, "{what}");
    assert_eq!(fs::read_dir(place.path("home")).unwrap().count(), 1, "{what}");
}

#[test]
fn sidecars_are_not_written_through_links() {
    for mode in ["append", "prepend", "overwrite", "skip"] {
        let place = workplace();
        symlink("../home/.bashrc", place.path("in/a.txt")).unwrap();
        symlink("../home/.bashrc", place.path("in/.b.txt.unfinished")).unwrap();
        let set = format!("output.sidecars.mode={mode}");
        let told = place.run(&["run", "job.toml", "--set", &set]).expect(0);
        untouched(&place, mode);
        // The link stays, and its target is not copied.
        assert!(place.path("in/a.txt").is_symlink(), "{mode}");
        assert!(told.stderr.contains("a.txt") && told.stderr.contains("it is a link"), "{mode}");
        let written = text(&place, "in/b.txt");
        assert!(!written.trim().is_empty() && !written.contains("secret"), "{mode}: {written}");
        assert!(!place.path("in/b.txt").is_symlink());
    }
}

#[test]
fn sidecars_are_not_written_outside_the_source() {
    let place = workplace();
    fs::create_dir(place.path("elsewhere")).unwrap();
    put(&place.path("elsewhere/c.png"), &numbered_png(8));
    symlink("../elsewhere", place.path("in/sub")).unwrap();
    let told = place.run(&["run", "job.toml"]).expect(0);
    assert!(told.stdout.contains("rows_in 2 =="), "{}", told.stdout);
    assert!(told.stdout.contains("1 link out of the folder"), "{}", told.stdout);
    // The job may allow reading through links, but not writing.
    let followed = ["run", "job.toml", "--overwrite", "--set", "source.follow_links=true"];
    place
        .run(&followed)
        .expect(2)
        .stderr_contains(&["c.png", "is a link to a file outside the source"]);
    let text = JOB.replace("[\"in\"]", "[\"in\"]\nfollow_links = true");
    place.write("job.toml", text.split("sidecars").next().unwrap());
    let read = place.run(&["run", "job.toml", "--overwrite"]).expect(0);
    assert!(read.stdout.contains("rows_in 3 =="), "{}", read.stdout);
    assert_eq!(fs::read_dir(place.path("elsewhere")).unwrap().count(), 1);
    untouched(&place, "a folder");
}

#[test]
fn parts_locks_and_run_files_are_not_written_through_links() {
    // An undisturbed run shows which files are written.
    let calm = workplace();
    drop(calm.run(&["run", "job.toml"]).expect(0));
    let part = fs::read_dir(calm.path("out")).unwrap().next().unwrap().unwrap().file_name();
    let part = part.into_string().unwrap();
    let in_tmp = format!("out.legenda/tmp/{part}");
    for name in [
        "out.legenda/lock",
        "out.legenda/plan.json",
        "out.legenda/tmp/plan.json",
        "out.legenda/job.json",
        "out.legenda/report.html",
        &in_tmp,
    ] {
        let place = workplace();
        fs::create_dir_all(place.path(name).parent().unwrap()).unwrap();
        fs::create_dir_all(place.path("out")).unwrap();
        symlink(place.path("home/.bashrc"), place.path(name)).unwrap();
        let _told = place.run(&["run", "job.toml"]);
        untouched(&place, name);
    }
    for folder in ["out.legenda", "out.legenda/tmp", "out.legenda/ledger", "out.legenda/rejects"] {
        let place = workplace();
        fs::create_dir_all(place.path(folder).parent().unwrap()).unwrap();
        symlink(place.path("home"), place.path(folder)).unwrap();
        let told = place.run(&["run", "job.toml"]);
        assert_ne!(told.code, Some(0), "{folder}: {}", told.stdout);
        untouched(&place, folder);
    }
}

#[test]
fn responses_are_not_written_through_links() {
    const LINE: &str = "{\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \
                        \"body\": {\"model\": \"legenda-tiny\", \"max_tokens\": 1, \"messages\": \
                        [{\"role\": \"user\", \"content\": \"dog?\"}]}}\n";
    for (name, target, code) in [
        ("answers.jsonl", "home/.bashrc", 0),
        (".answers.jsonl.unfinished", "home/.bashrc", 0),
        ("answers.jsonl.legenda", "home", 4),
    ] {
        let place = workplace();
        place.write("batch.jsonl", LINE);
        symlink(place.path(target), place.path(name)).unwrap();
        let told = place.run(&["batch", "batch.jsonl", "--out", "answers.jsonl"]);
        untouched(&place, name);
        assert_eq!(told.code, Some(code), "{name}: {}", told.stderr);
        if code == 0 {
            assert!(text(&place, "answers.jsonl").contains("\"a\""), "{name}");
            assert!(!place.path("answers.jsonl").is_symlink());
        }
    }
}

#[test]
fn pipes_and_devices_are_skipped_without_blocking() {
    let place = workplace();
    for name in ["in/pipe.png", "in/pipe", "in/a.txt"] {
        let made = Command::new("mkfifo").arg(place.path(name)).status().unwrap();
        assert!(made.success());
    }
    symlink("/dev/zero", place.path("in/zero.png")).unwrap();
    let start = Instant::now();
    let told = place.run(&["run", "job.toml"]).expect(0);
    assert!(start.elapsed() < Duration::from_secs(60));
    assert!(told.stdout.contains("rows_in 2 == answers 2"), "{}", told.stdout);
    assert!(told.stdout.contains("special file"), "{}", told.stdout);
    // A pipe named by a cell and by the job itself.
    write_table(&place.path("table.parquet"), &texts(&["in/pipe.png", "in/a.png", "in/pipe"]), 10);
    let job = JOB.replace("[\"in\"]", "[\"table.parquet\"]").replace("\"media\"", "\"question\"");
    place.write("cells.toml", job.split("sidecars").next().unwrap());
    let told = place.run(&["run", "cells.toml", "--overwrite"]).expect(0);
    assert!(told.stdout.contains("answers 1 + rejects 2"), "{}", told.stdout);
    place.write("named.toml", &TEXT_JOB.replace("table.parquet", "in/pipe"));
    assert_eq!(run_command(&mut place.command(&["run", "named.toml"])).code, Some(2));
}
