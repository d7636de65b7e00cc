//! Every command line in the documents is valid.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Parser;

use crate::cli::Cli;

/// Returns the Markdown files of users: the README and everything in `docs`, except the generated help.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// Returns the commands in the code blocks of a document, without prompts, comments and what follows a pipe.
fn commands(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let mut language = None;
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(fence) = line.trim_start().strip_prefix("```") {
            language = if language.is_some() { None } else { Some(fence.trim()) };
            continue;
        }
        let command = match language {
            Some("console") => line.strip_prefix("$ "),
            Some("sh") => Some(line),
            Some(_) => None,
            None => line.strip_prefix("    "),
        };
        let Some(command) = command.map(|line| line.split(" #").next().unwrap_or(line)) else {
            continue;
        };
        let parts = command.split(" && ").map(|part| part.split(" | ").next().unwrap_or(part));
        let parts = parts.map(|part| part.split(" > ").next().unwrap_or(part).trim());
        let parts =
            parts.map(|part| part.strip_prefix("cargo run --release --").map_or(part, str::trim));
        for part in parts {
            let is_ours = part.starts_with("legenda ") || part.starts_with("run jobs/");
            let full =
                if part.starts_with("run ") { format!("legenda {part}") } else { part.to_owned() };
            found.extend(is_ours.then_some(full));
        }
    }
    found
}

/// Returns the words of a command as a shell splits them. A usage line stands for its fullest form.
fn words(command: &str) -> Vec<String> {
    let words = shlex::split(command).unwrap_or_else(|| panic!("unbalanced quotes: {command}"));
    let optional = |word: String| match word.strip_prefix('[') {
        Some(rest) => rest.trim_end_matches(']').to_owned(),
        None if word.matches('[').count() < word.matches(']').count() => {
            word.trim_end_matches(']').to_owned()
        }
        None => word,
    };
    // `bash|zsh`: one of them.
    let first = |word: String| word.split('|').next().unwrap_or_default().to_owned();
    words.into_iter().map(optional).map(first).collect()
}

#[test]
fn commands_in_documents_are_valid() {
    let mut problems = Vec::new();
    let mut n_commands = 0;
    for path in documents() {
        for command in commands(&fs::read_to_string(&path).unwrap()) {
            n_commands += 1;
            if let Err(error) = Cli::try_parse_from(words(&command)) {
                // Help and version also end the parser.
                if error.exit_code() != 0 {
                    problems.push(format!("{}: `{command}`: {error}", path.display()));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(n_commands >= 40, "only {n_commands} commands");
}

#[test]
fn commands_are_found_in_blocks_only() {
    let text = "legenda prose\n\n    legenda check a.toml  # a comment\n\n```sh\nlegenda run \\\n  b.toml && legenda verify out\n\
                ```\n```console\n$ legenda doctor | head\nlegenda 0.1.0\n```\n";
    let expected =
        ["legenda check a.toml", "legenda run    b.toml", "legenda verify out", "legenda doctor"];
    assert_eq!(commands(text), expected);
    assert!(Cli::try_parse_from(words("legenda run a.toml --no-such-option")).is_err());
}
