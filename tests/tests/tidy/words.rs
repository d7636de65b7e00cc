//! Comments, errors and documents avoid some words.

use std::{fs, path::PathBuf};

use legenda_tests::{files_with_extension, repository, rust_files};

use crate::CRATES;

/// Words of which `CONTRIBUTING.md` says what to write instead: a reader parses a sentence with one twice.
const STYLE: [&str; 12] = [
    "anew",
    "mend",
    "mends",
    "mended",
    "heed",
    "whoever",
    "of whatever",
    "as they stand",
    "as it stands",
    "so many",
    "so long",
    "is told by",
];

#[test]
fn documents_comments_and_errors_avoid_words_of_another_language() {
    let root = repository();
    let mut files: Vec<PathBuf> =
        CRATES.iter().flat_map(|folder| rust_files(&root.join(folder))).collect();
    for folder in ["docs", "tests"] {
        files.extend(files_with_extension(&root.join(folder), "md"));
    }
    for folder in ["", "models/training", "models/tiny"] {
        let entries = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.extension().is_some_and(|found| found == "md")));
    }
    // This file has the list.
    files.retain(|file| !file.ends_with("tidy/words.rs"));
    assert!(files.len() > 400, "only {} files were found", files.len());
    let mut problems = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let file = file.strip_prefix(&root).unwrap().display().to_string();
        let is_prose = |line: &&str| {
            let line = line.trim_start();
            file.ends_with(".md")
                || ["///", "//!", "#[error("].iter().any(|start| line.starts_with(start))
        };
        for (number, line) in text.lines().enumerate().filter(|(_, line)| is_prose(line)) {
            let words: Vec<String> = line
                .split(|c: char| !c.is_alphanumeric())
                .filter(|word| !word.is_empty())
                .map(str::to_lowercase)
                .collect();
            let words = format!(" {} ", words.join(" "));
            let is_no = line.contains(" is no ")
                && !["there is no ", "is no longer "]
                    .iter()
                    .any(|fine| line.to_lowercase().contains(fine));
            if STYLE.iter().any(|phrase| words.contains(&format!(" {phrase} "))) || is_no {
                problems.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
