//! Crates depend one way, and heavy third-party crates and `unsafe` stay where they belong.

use std::{fs, path::PathBuf};

use legenda_tests::{repository, rust_files};

use crate::CRATES;

fn manifest(crate_dir: &str) -> toml::Table {
    let path = repository().join(crate_dir).join("Cargo.toml");
    fs::read_to_string(path).unwrap().parse().unwrap()
}

fn dependencies(crate_dir: &str) -> Vec<String> {
    let manifest = manifest(crate_dir);
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table.map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

fn package(crate_dir: &str) -> String {
    manifest(crate_dir)["package"]["name"].as_str().unwrap().to_owned()
}

#[test]
fn dependencies_point_one_way() {
    for (floor, crate_dir) in CRATES.iter().enumerate() {
        let below: Vec<String> = CRATES[floor + 1..].iter().map(|dir| package(dir)).collect();
        for dependency in dependencies(crate_dir) {
            let ours = dependency.starts_with("legenda");
            assert!(
                !ours || below.contains(&dependency),
                "`{crate_dir}` may not use `{dependency}`"
            );
        }
    }
}

#[test]
fn heavy_crates_are_named_by_one_crate_only() {
    let homes = [
        ("ort", "models"),
        ("tokenizers", "models"),
        ("rubato", "models"),
        ("parquet", "pipeline"),
        ("symphonia", "pipeline"),
        ("mozjpeg", "pipeline"),
        ("mozjpeg-sys", "pipeline"),
        ("polars", "pipeline"),
        ("polars-arrow", "pipeline"),
        ("sqlparser", "pipeline"),
        ("object_store", "pipeline"),
        ("clap", "jobs"),
        ("indicatif", "jobs"),
        ("axum", "jobs"),
        ("opentelemetry", "jobs"),
        ("croner", "schemas"),
        ("chrono-tz", "schemas"),
    ];
    for (heavy, home) in homes {
        // The tests may make tables of their own.
        for crate_dir in &CRATES[1..] {
            let named = dependencies(crate_dir).iter().any(|name| name == heavy);
            assert!(
                !named || *crate_dir == home,
                "`{crate_dir}` names `{heavy}`, which lives in `{home}`"
            );
        }
    }
}

/// Returns whether a source names a crate (`ort::`), and not one that ends alike (`report::`).
fn names(text: &str, heavy: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(heavy).any(|(at, _)| !text[..at].ends_with(is_part))
}

#[test]
fn heavy_crates_stay_in_their_rooms() {
    let mut files = Vec::new();
    for crate_dir in CRATES {
        files.extend(rust_files(&repository().join(crate_dir).join("src")));
    }
    assert!(files.len() > 30);
    for (heavy, rooms) in [
        ("ort::", ["models/src/runtime"].as_slice()),
        // The Hub, media cells with a URL, webhooks, traces: clients with rules of their own.
        (
            "reqwest::",
            &[
                "models/src/hub",
                "pipeline/src/input/media/web.rs",
                // What the Hub wants to know of who asks.
                "pipeline/src/base/store/open.rs",
                "jobs/src/schedule/hooks.rs",
                "jobs/src/traces.rs",
            ],
        ),
        ("object_store::", &["pipeline/src/base/store"]),
        (
            "polars::",
            &["pipeline/src/input/query/engine.rs", "pipeline/src/input/query/interchange.rs"],
        ),
        ("sqlparser::", &["pipeline/src/input/query/statement.rs"]),
        ("mozjpeg_sys::", &["pipeline/src/input/media/jpeg/libjpeg.rs"]),
        ("axum::", &["jobs/src/schedule/page", "jobs/src/command/schedule.rs"]),
        (
            "rusqlite::",
            &[
                "jobs/src/schedule/history.rs",
                "jobs/src/schedule/record.rs",
                "pipeline/src/run/reuse/store.rs",
            ],
        ),
        ("opentelemetry::", &["jobs/src/traces.rs"]),
        ("croner::", &["schemas/src/cron.rs"]),
    ] {
        let rooms: Vec<PathBuf> = rooms.iter().map(|room| repository().join(room)).collect();
        let named = |file: &PathBuf| names(&fs::read_to_string(file).unwrap(), heavy);
        let is_inside = |file: &&PathBuf| rooms.iter().any(|room| file.starts_with(room));
        let (inside, outside): (Vec<_>, Vec<_>) =
            files.iter().filter(|file| named(file)).partition(is_inside);
        assert!(!inside.is_empty(), "no file of {rooms:?} names `{heavy}`");
        assert!(outside.is_empty(), "{outside:?} name `{heavy}`");
    }
}

/// The modules that may have `unsafe`, each for a need of its own; `CONTRIBUTING.md` lists them too.
const UNSAFE: [&str; 7] = [
    "jobs/src/allocator.rs",
    "jobs/src/leave.rs",
    "models/src/runtime/cuda.rs",
    "models/src/runtime/probe.rs",
    "pipeline/src/input/media/heif.rs",
    "pipeline/src/input/media/jpeg/libjpeg.rs",
    "pipeline/src/input/query/interchange.rs",
];

#[test]
fn unsafe_code_stays_in_its_documented_modules() {
    let mut files = Vec::new();
    for crate_dir in CRATES {
        files.extend(rust_files(&repository().join(crate_dir).join("src")));
    }
    let rules = fs::read_to_string(repository().join("CONTRIBUTING.md")).unwrap();
    for module in UNSAFE {
        assert!(rules.contains(module), "CONTRIBUTING.md does not list `{module}`");
    }
    // The lint `unsafe_code` is denied, so each use has an exception that names it.
    let has_exception =
        |file: &PathBuf| fs::read_to_string(file).unwrap().contains("expect(unsafe_code");
    let mut found: Vec<PathBuf> = files.into_iter().filter(has_exception).collect();
    found.sort();
    assert_eq!(found, UNSAFE.map(|module| repository().join(module)));
}
