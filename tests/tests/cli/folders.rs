//! Real-world folders: every file is read, rejected, or counted as skipped with a reason.

use std::{fs, io::Write, path::Path};

use legenda_tests::{
    TEXT_JOB, Workplace, numbered_png, png, read_table, text_column, texts, write_table,
};

const MEDIA_JOB: &str = r#"
[task]
kind = "caption"
[source]
paths = ["in"]
columns = { id = "file_name", image = "media" }
[output]
path = "out"
"#;

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

fn with_job(job: &str) -> Workplace {
    let place = Workplace::new();
    place.write("job.toml", &format!("version = 1\n{job}"));
    place
}

#[test]
fn every_file_of_a_folder_is_a_row_or_counted() {
    let place = with_job(MEDIA_JOB);
    let names = [
        "_DSC0042.JPG",
        "_MG_0001.jpeg",
        "_album/a.png",
        "photo.jfif",
        "photo.jpe",
        "noextension",
        "plain.png",
    ];
    for (shade, name) in (0_u8..).zip(names) {
        write(&place.path("in").join(name), &png(shade));
    }
    write(&place.path("in/IMG_1.HEIC"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic");
    write(&place.path("in/a.avif"), b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf");
    for passed in ["._a.jpg", "Thumbs.db", ".trash/b.png", "notes.txt", "more.TXT"] {
        write(&place.path("in").join(passed), b"no image");
    }
    let skipped = "skipped 5 files: 2 TXT, 2 hidden, 1 system file";
    let checked = place.run(&["check", "job.toml"]).expect(0);
    assert!(checked.stdout.contains("9 rows in 9 files"), "{}", checked.stdout);
    assert!(checked.stdout.contains(skipped), "{}", checked.stdout);
    let looked = place.run(&["inspect", "in"]).expect(0);
    assert!(looked.stdout.contains(skipped), "{}", looked.stdout);
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("rows_in 9 == answers 7 + rejects 2"), "{}", run.stdout);
    assert!(run.stdout.contains(skipped), "{}", run.stdout);
    let page = fs::read_to_string(place.path("out.legenda/report.html")).unwrap();
    assert!(page.contains(skipped));
    let rejects = place.rejects("out");
    let mut named: Vec<_> = text_column(&rejects, "file_name").into_iter().flatten().collect();
    named.sort();
    assert_eq!(named, ["IMG_1.HEIC", "a.avif"]);
}

#[test]
fn odd_folder_entries_never_block_a_table() {
    let place = with_job(TEXT_JOB.trim_start_matches("\nversion = 1\n"));
    place.write("job.toml", &TEXT_JOB.replace("table.parquet", "in"));
    fs::create_dir(place.path("in")).unwrap();
    write_table(&place.path("in/a.parquet"), &texts(&["dog?", "cat?"]), 10);
    write_table(&place.path("in/z.parquet"), &texts(&["cow?"]), 10);
    write(&place.path("in/empty.parquet"), b"");
    write(&place.path("in/damaged.parquet"), b"PAR1 and no more");
    write_table(&place.path("in/norows.parquet"), &texts(&[]), 10);
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("rows_in 3 == answers 3"), "{}", run.stdout);
    assert!(run.stdout.contains("skipped 3 files: 2 empty, 1 damaged"), "{}", run.stdout);
    assert!(run.stdout.contains("damaged.parquet: "), "{}", run.stdout);
    place.run(&["verify", "out"]).expect(0).stderr_contains(&[]);
    let strict = ["check", "job.toml", "--set", "source.on_bad_file=stop"];
    place.run(&strict).expect(2).stderr_contains(&["damaged.parquet"]);
    // A single file is an error instead of being skipped.
    let alone = ["check", "job.toml", "--set", "source.paths=[\"in/damaged.parquet\"]"];
    place.run(&alone).expect(2).stderr_contains(&["damaged.parquet"]);
    // If a file becomes damaged, the answers to its rows are kept: it was not deleted.
    write(&place.path("in/a.parquet"), b"PAR1 and no more");
    place.run(&["run", "job.toml"]).expect(2).stderr_contains(&["a.parquet"]);
    assert_eq!(place.answers("out").num_rows(), 3);
    fs::remove_file(place.path("in/a.parquet")).unwrap();
    let gone = place.run(&["run", "job.toml"]).expect(0);
    assert!(gone.stdout.contains("rows_in 1 == answers 1"), "{}", gone.stdout);
}

#[test]
fn a_finished_source_stays_finished_if_its_first_file_becomes_unreadable() {
    let place = with_job("");
    place.write("job.toml", &TEXT_JOB.replace("table.parquet", "in"));
    fs::create_dir(place.path("in")).unwrap();
    write(&place.path("in/a.parquet"), b"PAR1 and no more");
    write_table(&place.path("in/b.parquet"), &texts(&["dog?", "cat?"]), 10);
    drop(place.run(&["run", "job.toml"]).expect(0));
    let again = place.run(&["run", "job.toml"]).expect(0);
    assert!(again.stdout.contains("rows_in 2 == answers 2"), "{}", again.stdout);
    assert!(again.stdout.contains("0 rows in"), "{}", again.stdout);
}

#[test]
fn a_limit_keeps_no_answers_to_deleted_files() {
    let place = with_job("");
    place.write("job.toml", &TEXT_JOB.replace("table.parquet", "in"));
    fs::create_dir(place.path("in")).unwrap();
    write_table(&place.path("in/x.parquet"), &texts(&["dog?", "cat?"]), 10);
    drop(place.run(&["run", "job.toml", "--limit", "10"]).expect(0));
    fs::rename(place.path("in/x.parquet"), place.path("in/y.parquet")).unwrap();
    let again = place.run(&["run", "job.toml", "--limit", "10"]).expect(0);
    assert!(again.stdout.contains("rows_in 2 == answers 2"), "{}", again.stdout);
}

#[test]
fn empty_text_tables_are_skipped() {
    let place = with_job(TEXT_JOB.trim_start_matches("\nversion = 1\n"));
    for (extension, rows, head) in [
        ("csv", "id,question\nr,dog?\n", "id,question\n"),
        ("jsonl", "{\"id\": \"r\", \"question\": \"dog?\"}\n", "\n"),
    ] {
        place.write("job.toml", &TEXT_JOB.replace("table.parquet", extension));
        write(&place.path(extension).join(format!("b.{extension}")), rows.as_bytes());
        write(&place.path(extension).join(format!("a.{extension}")), b"");
        write(&place.path(extension).join(format!("c.{extension}")), head.as_bytes());
        let run = place.run(&["run", "job.toml", "--overwrite"]).expect(0);
        assert!(run.stdout.contains("rows_in 1 == answers 1"), "{}", run.stdout);
        assert!(run.stdout.contains("skipped 2 files: 2 empty"), "{}", run.stdout);
    }
}

#[cfg(unix)]
mod links {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Creates a folder like DVC, git-annex and the Hub's cache do: file names are links into a
    /// blob store.
    fn linked() -> Workplace {
        let place = with_job("");
        for dir in ["data/lang=de", "data/lang=en", "blobs"] {
            fs::create_dir_all(place.path(dir)).unwrap();
        }
        write_table(&place.path("blobs/aa11"), &texts(&["dog?"]), 10);
        write_table(&place.path("blobs/bb22"), &texts(&["cat?"]), 10);
        let link = |target: &str, path: &str| symlink(target, place.path(path)).unwrap();
        link("../../blobs/aa11", "data/lang=de/train.parquet");
        link("../../blobs/bb22", "data/lang=en/train.parquet");
        link("../../blobs/aa11", "data/lang=de/again.parquet");
        link("nowhere", "data/dangling.parquet");
        link("..", "data/up");
        place.write("job.toml", &TEXT_JOB.replace("table.parquet", "data"));
        place
    }

    #[test]
    fn links_into_content_stores_are_followed() {
        for (folder, store) in [
            ("hub/snapshots/5f3a", "hub/blobs"),
            ("repo/data", "repo/.dvc/cache/files/md5/aa"),
            ("repo/data", "repo/.git/annex/objects/x/y"),
        ] {
            let place = with_job("");
            fs::create_dir_all(place.path(folder).join("sub")).unwrap();
            fs::create_dir_all(place.path(store)).unwrap();
            write_table(&place.path(store).join("aa11"), &texts(&["dog?"]), 10);
            write_table(&place.path("elsewhere"), &texts(&["cat?"]), 10);
            let link = |target: &str, name: &str| {
                symlink(place.path(target), place.path(folder).join(name)).unwrap();
            };
            link(&format!("{store}/aa11"), "a.parquet");
            link(&format!("{store}/aa11"), "sub/b.parquet");
            link("elsewhere", "sub/c.parquet");
            let job = TEXT_JOB.replace("table.parquet", folder);
            place.write("job.toml", &job);
            let run = place.run(&["run", "job.toml"]).expect(0);
            assert!(run.stdout.contains("rows_in 2 == answers 2"), "{folder} {}", run.stdout);
            assert!(run.stdout.contains("1 link out of the folder"), "{folder} {}", run.stdout);
            assert!(run.stdout.contains("c.parquet"), "{}", run.stdout);
            let all = ["run", "job.toml", "--set", "source.follow_links=true"];
            let run = place.run(&all).expect(0);
            assert!(run.stdout.contains("rows_in 3 == answers 3"), "{folder} {}", run.stdout);
        }
    }

    #[test]
    fn partitions_come_from_link_names() {
        let place = linked();
        let run = place.run(&["run", "job.toml"]).expect(0);
        assert!(run.stdout.contains("rows_in 3 == answers 3"), "{}", run.stdout);
        let counted = "skipped 2 files: 1 dangling link, 1 link loop";
        assert!(run.stdout.contains(counted), "{}", run.stdout);
        assert!(run.stdout.contains("dangling.parquet"), "{}", run.stdout);
        let mut languages = text_column(&place.answers("out"), "lang");
        languages.sort();
        assert_eq!(languages, ["de", "de", "en"].map(|lang| Some(lang.to_owned())));
        place.run(&["verify", "out"]).expect(0).stderr_contains(&[]);
        // A temporarily missing link target is not a deleted file.
        fs::rename(place.path("blobs/aa11"), place.path("away")).unwrap();
        place.run(&["run", "job.toml"]).expect(2).stderr_contains(&["lang=de"]);
        assert_eq!(place.answers("out").num_rows(), 3);
    }

    #[test]
    fn an_output_within_the_source_is_detected_through_a_link() {
        let place = with_job("");
        fs::create_dir_all(place.path("real/in")).unwrap();
        write_table(&place.path("real/in/a.parquet"), &texts(&["dog?"]), 10);
        symlink("real", place.path("data")).unwrap();
        let job =
            TEXT_JOB.replace("table.parquet", "data/in").replace("\"out\"", "\"data/in/out\"");
        place.write("job.toml", &job);
        drop(place.run(&["run", "job.toml"]).expect(0));
        place.run(&["run", "job.toml"]).expect(2).stderr_contains(&["`output.path`"]);
    }

    #[test]
    fn sidecars_are_written_next_to_links_and_not_next_to_blobs() {
        let place = with_job(MEDIA_JOB);
        fs::create_dir_all(place.path("in")).unwrap();
        write(&place.path("blobs/aa"), &numbered_png(1));
        symlink("../blobs/aa", place.path("in/one.png")).unwrap();
        symlink("../blobs/aa", place.path("in/two.png")).unwrap();
        let run = place
            .run(&[
                "run",
                "job.toml",
                "--set",
                "output.sidecars={extension = \"txt\", mode = \"overwrite\"}",
            ])
            .expect(0);
        assert!(run.stdout.contains("rows_in 2 == answers 2"), "{}", run.stdout);
        assert_eq!(fs::read_dir(place.path("blobs")).unwrap().count(), 1);
        for name in ["in/one.txt", "in/two.txt"] {
            assert!(!fs::read_to_string(place.path(name)).unwrap().is_empty());
        }
    }
}

#[test]
fn an_output_folder_contains_only_answers() {
    let place = with_job("");
    place.write("job.toml", TEXT_JOB);
    let questions: Vec<String> = (0..10).map(|n| format!("What is {n}?")).collect();
    let mut questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    questions[3] = "";
    write_table(&place.path("table.parquet"), &texts(&questions), 100);
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("rows_in 10 == answers 9 + rejects 1"), "{}", run.stdout);
    let mut names: Vec<String> = fs::read_dir(place.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 3);
    assert!(names.iter().all(|name| name.len() <= 40), "{names:?}");
    // Part names sort in input order.
    let ids = names.iter().flat_map(|name| read_table(&place.path("out").join(name)));
    let ids: Vec<_> = ids.flat_map(|rows| text_column(&rows, "id")).flatten().collect();
    let expected = (0..10).filter(|row| *row != 3).map(|row| format!("row-{row}"));
    assert_eq!(ids, expected.collect::<Vec<_>>());
    // A job over the folder that contains both reads only the answers.
    let again = TEXT_JOB.replace("table.parquet", ".").replace("\"out\"", "\"second/out\"");
    fs::create_dir(place.path("only")).unwrap();
    for name in ["out", "out.legenda"] {
        fs::rename(place.path(name), place.path("only").join(name)).unwrap();
    }
    let again = again.replace("paths = [\".\"]", "paths = [\"only\"]");
    place.write("again.toml", &again.replace("question\" }", "answer\" }"));
    let drop_answer = ["run", "again.toml", "--set", "output.columns=[\"id\"]"];
    let run = place.run(&drop_answer).expect(0);
    assert!(run.stdout.contains("rows_in 9 == "), "{}", run.stdout);
    assert!(run.stdout.contains("1 metadata file"), "{}", run.stdout);
}

#[test]
fn an_output_in_the_single_folder_layout_keeps_it() {
    let place = with_job("");
    place.write("job.toml", TEXT_JOB);
    write_table(&place.path("table.parquet"), &texts(&["dog?", "", "cow?", "hen?", "cat?"]), 2);
    drop(place.run(&["run", "job.toml", "--limit", "2"]).expect(0));
    // The layout of version 0.1.
    fs::rename(place.path("out.legenda/rejects"), place.path("out/rejects")).unwrap();
    fs::rename(place.path("out.legenda"), place.path("out/_legenda")).unwrap();
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("rows_in 5 == answers 4 + rejects 1"), "{}", run.stdout);
    assert!(run.stdout.contains("2 rows were committed by earlier runs"), "{}", run.stdout);
    assert!(!place.path("out.legenda").is_dir());
    assert!(place.path("out/_legenda/report.html").is_file());
    assert_eq!(fs::read_dir(place.path("out/rejects")).unwrap().count(), 1);
    let verified = place.run(&["verify", "out"]).expect(0);
    assert!(verified.stdout.contains("verified"), "{}", verified.stdout);
    // A job over it reads only its answers.
    let again = TEXT_JOB.replace("table.parquet", "out").replace("\"out\"\nspan", "\"two\"\nspan");
    place.write("again.toml", &again);
    let run = place.run(&["run", "again.toml", "--set", "output.columns=[\"id\"]"]).expect(0);
    assert!(run.stdout.contains("rows_in 4 == answers 4"), "{}", run.stdout);
}
