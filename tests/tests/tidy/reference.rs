//! The reference pages that are written by hand list what the sources have.

use std::{collections::BTreeSet, fs};

use legenda_tests::{repository, rust_files};

/// The files with the reject codes of rows.
const ROW_ERRORS: [&str; 8] = [
    "models/src/engine/decoder.rs",
    "models/src/engine/generation.rs",
    "models/src/exec/encoder.rs",
    "models/src/preprocess/error.rs",
    "pipeline/src/input/media/error.rs",
    "pipeline/src/input/media/locate.rs",
    "pipeline/src/run/stage/prepare/error.rs",
    "pipeline/src/run/stage/prompt.rs",
];

/// The codes that the stages use directly.
const STAGE_CODES: [(&str, &str); 3] = [
    ("pipeline/src/run/stage/scan/cursor.rs", "row_damaged"),
    ("pipeline/src/run/stage/scan/cursor.rs", "row_exceeds_memory"),
    ("pipeline/src/run/stage/outcome.rs", "model_panicked"),
];

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the names in the first column of the tables of a page.
fn first_cells(page: &str) -> BTreeSet<String> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `"));
    cells.filter_map(|line| line.split_once("` |")).map(|(name, _)| name.to_owned()).collect()
}

/// Returns the string literals of a text.
fn literals(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

#[test]
fn the_page_of_reject_codes_is_complete() {
    let mut codes = BTreeSet::new();
    for path in ROW_ERRORS {
        let source = read(path);
        let (_, after) = source.split_once("fn code(&self) -> &'static str {").unwrap();
        let body = after.split_once("\n    }").unwrap().0;
        codes.extend(literals(body).map(str::to_owned));
    }
    for (path, code) in STAGE_CODES {
        assert!(read(path).contains(&format!("\"{code}\"")), "{path} has no `{code}`");
        codes.insert(code.to_owned());
    }
    assert_eq!(first_cells(&read("docs/reference/reject-codes.md")), codes);
}

#[test]
fn the_page_of_environment_variables_is_complete() {
    let prefixes = ["LEGENDA_", "ORT_", "HF_", "OTEL_", "CUDA_", "XDG_", "NO_COLOR"];
    let for_tests =
        ["LEGENDA_CRASH_AT", "LEGENDA_CLOCK", "LEGENDA_LEASE_SECONDS", "LEGENDA_UPDATE"];
    let listed = first_cells(&read("docs/reference/environment.md"));
    let mut used = BTreeSet::new();
    for folder in ["schemas/src", "models/src", "pipeline/src", "jobs/src"] {
        for file in rust_files(&repository().join(folder)) {
            let source = fs::read_to_string(file).unwrap();
            // Variables of unit tests do not count.
            let source =
                source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
            let is_name = |name: &&str| {
                prefixes.iter().any(|prefix| name.starts_with(prefix))
                    && name
                        .chars()
                        .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
            };
            used.extend(literals(&source).filter(is_name).map(str::to_owned));
        }
    }
    used.retain(|name| !for_tests.contains(&name.as_str()));
    let missing: Vec<_> = used.difference(&listed).collect();
    assert!(missing.is_empty(), "docs/reference/environment.md does not list {missing:?}");
    let ours = listed.iter().filter(|name| name.starts_with("LEGENDA_"));
    let unknown: Vec<_> = ours.filter(|name| !used.contains(*name)).collect();
    assert!(unknown.is_empty(), "nothing reads {unknown:?}");
}

#[test]
fn every_example_job_names_its_schema() {
    let mut n_jobs = 0;
    for entry in fs::read_dir(repository().join("jobs/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = fs::read_to_string(&path).unwrap();
            let schema = text.lines().find_map(|line| line.strip_prefix("#:schema "));
            let schema =
                schema.unwrap_or_else(|| panic!("{} has no `#:schema` line", path.display()));
            let schema = path.parent().unwrap().join(schema);
            assert!(schema.ends_with("docs/job.schema.json"), "{}", schema.display());
            assert!(fs::metadata(&schema).is_ok(), "{} does not exist", schema.display());
            n_jobs += 1;
        }
    }
    assert!(n_jobs >= 5, "only {n_jobs} jobs");
}

#[test]
fn releases_have_the_pinned_runtime() {
    let source = read("models/src/runtime/fetch.rs");
    let workflow = read(".github/workflows/release.yml");
    let pinned = |line: &str, key: &str| {
        let value = line.trim().strip_prefix(key)?.trim_end_matches(['"', ',', ';']);
        Some(value.trim_start_matches([' ', '=', ':', '"']).to_owned())
    };
    let version: Vec<String> =
        source.lines().filter_map(|line| pinned(line, "pub(super) const VERSION: &str")).collect();
    assert_eq!(version.len(), 1);
    for name in [".github/workflows/release.yml", "Containerfile", "docs/cuda.md", "README.md"] {
        assert!(read(name).contains(&version[0]), "{name} does not name {}", version[0]);
    }
    let mut digests: Vec<String> =
        source.lines().filter_map(|line| pinned(line, "sha256")).collect();
    digests.retain(|digest| digest.len() == 64);
    assert_eq!(digests.len(), 3);
    for digest in digests {
        assert!(workflow.contains(&digest), "release.yml does not name {digest}");
    }
}
