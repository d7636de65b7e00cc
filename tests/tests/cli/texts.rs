//! The texts that users read, as snapshots: a change of words is a change of a file that a reviewer reads.
//!
//! `INSTA_UPDATE=always cargo test --release --workspace --test cli texts` writes them again.

use std::{fmt::Write as _, fs};

use legenda_tests::{Workplace, repository, rust_files};

/// Prints the help of each command, those of its subcommands behind it.
fn help(place: &Workplace, command: &[&str], all: &mut String) {
    let printed = place.run(&[command, &["--help"]].concat()).expect(0).stdout;
    writeln!(all, "# legenda {}\n\n{printed}", command.join(" ")).unwrap();
    let commands = printed.lines().skip_while(|line| *line != "Commands:").skip(1);
    for line in commands.take_while(|line| !line.is_empty()) {
        let name = line.split_whitespace().next().unwrap();
        if name != "help" {
            help(place, &[command, &[name]].concat(), all);
        }
    }
}

#[test]
fn help_of_every_command() {
    let mut all = String::new();
    help(&Workplace::new(), &[], &mut all);
    insta::assert_snapshot!("help", all);
}

#[test]
fn descriptions_of_the_job_file() {
    let place = Workplace::new();
    insta::assert_snapshot!("job_schema", place.run(&["schema", "job"]).expect(0).stdout);
}

#[test]
fn summary_of_a_run() {
    let place = Workplace::new();
    let job = fs::read_to_string(repository().join("jobs/examples/everything.toml")).unwrap();
    let sample = repository().join("jobs/examples/sample");
    let job = job
        .replace("sample/*.parquet", &format!("{}/*.parquet", sample.display()))
        .replace("../../out/everything", "out");
    place.write("job.toml", &job);
    let printed = place.run(&["run", "job.toml"]).expect(0).stdout;
    let printed = printed.replace(&place.path("").display().to_string(), "[folder]/");
    insta::with_settings!({filters => vec![
        (r"\d+\.\d+", "N"),
        (r"\d+ (rows|tokens)/s", "N $1/s"),
        (r"NMiB of", "N MiB of"),
    ]}, {
        insta::assert_snapshot!("summary", printed);
    });
}

#[test]
fn texts_of_errors() {
    insta::assert_snapshot!("errors", literals_after(&["#[error("]));
}

#[test]
fn texts_of_log_events() {
    let levels = ["tracing::error!(", "tracing::warn!(", "tracing::info!("];
    insta::assert_snapshot!("log_events", literals_after(&levels));
}

/// Returns the last string literal of each call of `macros` in the sources, by file.
///
/// Placeholders stand in it by their names, so that every variant of every error is there without a sample.
fn literals_after(macros: &[&str]) -> String {
    let mut files = Vec::new();
    for folder in ["schemas/src", "models/src", "pipeline/src", "jobs/src"] {
        files.extend(rust_files(&repository().join(folder)));
    }
    files.sort();
    let mut all = String::new();
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        let calls = macros.iter().flat_map(|name| source.match_indices(name));
        let mut calls: Vec<(usize, String)> = calls
            .filter_map(|(at, name)| Some((at, last_literal(&source[at + name.len()..])?)))
            .collect();
        calls.sort();
        if !calls.is_empty() {
            let path = file.strip_prefix(repository()).unwrap().display().to_string();
            writeln!(all, "# {path}").unwrap();
        }
        for (_, text) in calls {
            writeln!(all, "{text}").unwrap();
        }
    }
    all
}

/// Returns the last string literal before the bracket that ends a call, its lines joined.
fn last_literal(call: &str) -> Option<String> {
    let (mut depth, mut last) = (1, None);
    let mut rest = call.char_indices();
    while let Some((at, char)) = rest.next() {
        match char {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '"' => {
                let mut is_escaped = false;
                let (end, _) = rest.by_ref().find(|(_, char)| {
                    let is_end = *char == '"' && !is_escaped;
                    is_escaped = *char == '\\' && !is_escaped;
                    is_end
                })?;
                let lines = call[at + 1..end].split("\\\n").map(str::trim_start);
                last = Some(lines.collect::<String>());
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    last
}
