//! Architectures are named in their files only.

use std::{fs, path::PathBuf};

use legenda_tests::{repository, rust_files};

use crate::CRATES;

/// The names of architectures, as [`bare`] writes them.
const ARCHITECTURES: [&str; 17] = [
    "blip",
    "clap",
    "donut",
    "florence",
    "gemma3",
    "idefics",
    "llava",
    "moonshine",
    "paligemma",
    "phi4",
    "qwen25vl",
    "qwen2vl",
    "siglip",
    "smolvlm",
    "ultravox",
    "voxtral",
    "whisper",
];

/// Returns code in lower case and without what parts words, so that `Phi4`, `phi4_mm` and `Phi-4` are
/// alike.
fn bare(code: &str) -> String {
    code.to_lowercase().replace(['_', '-'], "")
}

/// Returns the lines of a source without comments and unit tests, which may cite architectures.
fn code_lines(source: &str) -> impl Iterator<Item = &str> {
    source
        .lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| line.split_once(" // ").map_or(line, |(code, _)| code))
}

#[test]
fn architectures_are_named_in_their_files_only() {
    let homes = [
        "models/src/arch",
        // What a config names as its processor's class is read before its architecture is known.
        "models/src/config/classes",
        // Names of published models.
        "models/src/hub/short_names.rs",
        "jobs/src/cli/examples.rs",
    ]
    .map(|home| repository().join(home));
    let named_in = |file: &PathBuf, is_clap_crate: bool| {
        let source = fs::read_to_string(file).unwrap();
        let code = bare(&code_lines(&source).collect::<Vec<_>>().join("\n"));
        let mut names = ARCHITECTURES.iter().filter(|name| !(is_clap_crate && **name == "clap"));
        names.find(|name| code.contains(**name)).copied()
    };
    let mut n_files = 0;
    for crate_dir in &CRATES[1..] {
        for file in rust_files(&repository().join(crate_dir).join("src")) {
            if homes.iter().any(|home| file.starts_with(home)) || file.ends_with("tests.rs") {
                continue;
            }
            // The command line is read by a crate of one of these names.
            let name = named_in(&file, *crate_dir == "jobs");
            assert_eq!(name, None, "{} names an architecture", file.display());
            n_files += 1;
        }
    }
    assert!(n_files > 100);
    // The names are written as the sources have them: each is found where it belongs.
    let sources: Vec<String> =
        rust_files(&homes[0]).iter().map(|file| bare(&fs::read_to_string(file).unwrap())).collect();
    for name in ARCHITECTURES {
        assert!(sources.iter().any(|source| source.contains(name)), "`{name}` is in no file");
    }
}
