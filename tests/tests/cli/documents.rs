//! Examples in the documentation work: jobs are valid and run, commands print what is shown.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use legenda_schemas::job::Job;
use legenda_tests::{
    Workplace, files_with_extension, image_table, png, repository, run_command, write_table,
};
use toml::{Table, Value};

/// The keys that the examples leave out.
const FRAME: &str = r#"
version = 1
task = { kind = "caption" }
source = { paths = ["pictures/*.parquet"], columns = { id = "id", image = "image" } }
output = { path = "out" }
"#;

/// Returns the README and the pages of the book.
fn documents() -> Vec<PathBuf> {
    let mut found = files_with_extension(&repository().join("docs"), "md");
    found.push(repository().join("README.md"));
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
    let columns = match job["task"]["kind"].as_str() {
        Some("transcribe") => Some("audio = \"audio\""),
        Some("generate") => Some("text = \"text\""),
        _ => None,
    };
    if let Some(columns) = columns.filter(|_| !block.contains_key("source")) {
        job["source"]["columns"] = Value::Table(columns.parse().unwrap());
    }
    toml::to_string(&job).unwrap()
}

#[test]
fn every_toml_block_is_part_of_a_valid_job() {
    let parsed = |(name, block): (String, Table)| {
        Job::parse(&framed(&block), &[]).err().map(|error| format!("{name}\n{error}"))
    };
    let problems: Vec<String> = blocks().into_iter().filter_map(parsed).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn jobs_over_local_images_run() {
    let mut n_run = 0;
    for (name, block) in blocks() {
        let text = framed(&block);
        let needs_more = ["://", "[model", "embed", "[embedding"];
        let paths = block.get("source").and_then(|source| source.get("paths"));
        if !paths.is_some_and(|paths| paths.to_string().contains("pictures"))
            || needs_more.iter().any(|word| text.contains(word))
        {
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

/// A command of a `console` block, and the lines that it prints there.
struct Example {
    place: String,
    command: String,
    printed: Vec<String>,
}

/// Returns the commands of all `console` blocks that need nothing but the example jobs.
fn examples() -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for block in text.split("```console\n").skip(1) {
            let mut is_ours = false;
            for line in block.split("```").next().unwrap().lines() {
                if let Some(command) = line.strip_prefix("$ ") {
                    is_ours = command.starts_with("legenda ") && command.contains("jobs/examples/");
                    let (place, command) = (path.display().to_string(), command.to_owned());
                    if is_ours {
                        examples.push(Example { place, command, printed: Vec::new() });
                    }
                } else if is_ours && line != "..." {
                    examples.last_mut().unwrap().printed.push(line.to_owned());
                }
            }
        }
    }
    examples
}

/// Replaces numbers, which depend on the machine.
fn without_numbers(line: &str) -> String {
    let mut shown = String::new();
    for c in line.trim_end().chars() {
        let is_number = c.is_ascii_digit() || (c == '.' && shown.ends_with('N'));
        match is_number {
            true if shown.ends_with('N') => {}
            true => shown.push('N'),
            false => shown.push(c),
        }
    }
    shown
}

#[test]
fn console_examples_print_what_the_documents_show() {
    let examples = examples();
    assert!(examples.len() >= 3, "only {} examples", examples.len());
    let place = Workplace::new();
    copy(&repository().join("jobs/examples"), &place.path("jobs/examples"));
    for Example { place: document, command, printed } in examples {
        let words = shlex::split(&command).unwrap();
        let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        let mut process = place.command(&words);
        let ended = run_command(process.env("LEGENDA_RUNS", place.path("runs"))).expect(0);
        let all = ended.stdout + &ended.stderr;
        let actual: Vec<String> = all.lines().map(without_numbers).collect();
        for line in printed.iter().map(|line| without_numbers(line)) {
            assert!(actual.contains(&line), "{document}: {command}\n`{line}` is not in\n{all}");
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &target);
        } else {
            fs::copy(&entry, &target).unwrap();
        }
    }
}
