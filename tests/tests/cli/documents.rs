//! Examples in the documentation work: jobs are valid and run, commands and options exist.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
};

use legenda_schemas::job::Job;
use legenda_tests::{Workplace, image_table, png, repository, write_table};
use toml::{Table, Value};

/// The keys that the examples leave out.
const FRAME: &str = r#"
version = 1
task = { kind = "caption" }
source = { paths = ["pictures/*.parquet"], columns = { id = "id", image = "image" } }
output = { path = "out" }
"#;

fn documents() -> Vec<PathBuf> {
    let docs = repository().join("docs");
    let mut found = vec![repository().join("README.md")];
    for dir in [docs.clone(), docs.join("schedule")] {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        found.extend(entries.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    found
}

/// Returns the TOML blocks of all documents, with their locations.
fn blocks() -> Vec<(String, Table)> {
    let mut blocks = Vec::new();
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            let name = format!("{}: {block}", path.display());
            let table = block.parse().unwrap_or_else(|error| panic!("{name}\n{error}"));
            blocks.push((name, table));
        }
    }
    assert!(blocks.len() >= 8, "{} blocks", blocks.len());
    blocks
}

/// Merges a block into the frame, key by key.
fn framed(block: &Table) -> String {
    let mut job: Table = FRAME.parse().unwrap();
    for (key, value) in block {
        match (job.get_mut(key), value) {
            (Some(Value::Table(known)), Value::Table(given)) => known.extend(given.clone()),
            _ => drop(job.insert(key.clone(), value.clone())),
        }
    }
    if job["task"]["kind"].as_str() == Some("transcribe") && !block.contains_key("source") {
        job["source"]["columns"] = Value::Table("audio = \"audio\"".parse().unwrap());
    }
    toml::to_string(&job).unwrap()
}

#[test]
fn every_toml_block_is_part_of_a_valid_job() {
    for (name, block) in blocks() {
        Job::parse(&framed(&block), &[]).unwrap_or_else(|error| panic!("{name}\n{error}"));
    }
}

#[test]
fn jobs_over_local_images_run() {
    let mut n_run = 0;
    for (name, block) in blocks() {
        let text = framed(&block);
        let needs_more = ["://", "[model", "embed", "[embedding"];
        if !block.contains_key("source") || needs_more.iter().any(|word| text.contains(word)) {
            continue;
        }
        let place = Workplace::new();
        fs::create_dir(place.path("pictures")).unwrap();
        if text.contains("\"media\"") {
            let mut file = File::create(place.path("pictures/a.png")).unwrap();
            file.write_all(&png(1)).unwrap();
        } else {
            let cells = [Some(png(1))];
            write_table(&place.path("pictures/a.parquet"), &image_table(&cells), 4);
        }
        place.write("job.toml", &text);
        let ended = place.run(&["run", "job.toml"]).expect(0);
        assert!(ended.stdout.contains("rows_in 1 == answers 1"), "{name}\n{}", ended.stdout);
        n_run += 1;
    }
    assert!(n_run >= 2, "only {n_run} jobs ran");
}

#[test]
fn commands_and_their_options_exist() {
    let place = Workplace::new();
    let commands = place.run(&["--help"]).expect(0).stdout;
    let mut n_commands = 0;
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("    legenda ")) {
            let line = line.split(" #").next().unwrap();
            let mut words = line.split_whitespace();
            let command = words.next().unwrap();
            let known = format!("\n  {command} ");
            assert!(commands.contains(&known), "{}: `legenda {line}`", path.display());
            let help = place.run(&[command, "--help"]).expect(0).stdout;
            for option in words.filter(|word| word.starts_with("--")) {
                let option = option.split('=').next().unwrap();
                assert!(help.contains(option), "{}: `legenda {line}`", path.display());
            }
            n_commands += 1;
        }
    }
    assert!(n_commands >= 15, "only {n_commands} commands");
}
