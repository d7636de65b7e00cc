//! The house stays as the architecture says.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use legenda_tests::{Workplace, files_with_extension, repository, rust_files};

fn manifest(crate_dir: &str) -> toml::Table {
    let path = repository().join(crate_dir).join("Cargo.toml");
    fs::read_to_string(path).unwrap().parse().unwrap()
}

fn dependencies(crate_dir: &str) -> Vec<String> {
    let manifest = manifest(crate_dir);
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table.map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

/// The crates from the top of the house to its ground.
const CRATES: [&str; 5] = ["tests", "jobs", "pipeline", "models", "schemas"];

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

/// The modules of `models` from bottom to top.
const MODELS_LAYERS: [&str; 15] = [
    "tensors",
    "kept",
    "graph",
    "engine",
    "template",
    "hub",
    "config",
    "arch",
    "bundle",
    "preprocess",
    "postprocess",
    "runtime",
    "exec",
    "load",
    // For tests of what uses a model.
    "fake",
];

#[test]
fn modules_of_models_form_layers() {
    assert_layers("models/src", &MODELS_LAYERS);
}

#[test]
fn groups_of_pipeline_form_layers() {
    assert_layers("pipeline/src", &["base", "input", "output", "run", "insight"]);
}

#[test]
fn mod_files_only_declare() {
    assert_mod_files_only_declare("models/src", &[]);
    // Both pages are being rewritten.
    assert_mod_files_only_declare("pipeline/src", &["run/report/mod.rs"]);
    assert_mod_files_only_declare("jobs/src", &["schedule/page/mod.rs"]);
}

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
    // README.md is rewritten by a later change, and this file has the list.
    files.retain(|file| *file != root.join("README.md") && !file.ends_with("tests/tidy.rs"));
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

/// Asserts that each file of a crate imports only from its own top-level module and from those that
/// `layers` lists before it. `lib.rs` and `main.rs` may import all; unit tests, too.
fn assert_layers(crate_src: &str, layers: &[&str]) {
    let src = repository().join(crate_src);
    let rank = |module: &str| layers.iter().position(|layer| *layer == module);
    let mut used = vec![false; layers.len()];
    let mut problems = Vec::new();
    for file in rust_files(&src) {
        let path = file.strip_prefix(&src).unwrap();
        if path == Path::new("lib.rs") || path == Path::new("main.rs") || path.ends_with("tests.rs")
        {
            continue;
        }
        let modules = module_path(path);
        let (name, own) = (path.display(), modules[0].as_str());
        let Some(own_rank) = rank(own) else {
            problems.push(format!("{name}: `{own}` is in no layer"));
            continue;
        };
        used[own_rank] = true;
        for module in imported_modules(&shipped_code(&fs::read_to_string(&file).unwrap()), &modules)
        {
            match rank(&module) {
                Some(other) if other <= own_rank => {}
                Some(_) => problems.push(format!("{name}: `{module}` is above `{own}`")),
                None => problems.push(format!("{name}: `crate::{module}` is not a layer")),
            }
        }
    }
    let missing = layers.iter().zip(&used).filter(|(_, is_used)| !**is_used);
    problems.extend(missing.map(|(layer, _)| format!("{crate_src} has no module `{layer}`")));
    assert!(problems.is_empty(), "imports against the layers:\n{}", problems.join("\n"));
}

/// Returns the modules down to a file: `engine`, `beams` of `engine/beams.rs`.
fn module_path(path: &Path) -> Vec<String> {
    let parts = path.with_extension("");
    let mut modules: Vec<String> =
        parts.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if modules.len() > 1 {
        modules.pop_if(|last| last == "mod");
    }
    modules
}

/// Returns a source without comments and without items for tests alone.
fn shipped_code(source: &str) -> String {
    let mut code = String::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        if line.trim() == "#[cfg(test)]" {
            // rustfmt ends an item at the indent at which it began.
            let indent = line.len() - line.trim_start().len();
            let ends_item = |line: &&str| {
                let rest = line.get(indent..).unwrap_or_default();
                let is_at_indent = !rest.starts_with([' ', '#']);
                is_at_indent && (rest.ends_with(';') || rest.ends_with('}'))
            };
            lines.by_ref().find(ends_item);
            continue;
        }
        code.push_str(line.split_once(" // ").map_or(line, |(code, _)| code));
        code.push('\n');
    }
    code
}

/// Returns the top-level modules that a file of the module `modules` imports from: what follows
/// `crate::`, or as many `super::` as lead to the crate's root, in `use` trees too.
fn imported_modules(code: &str, modules: &[String]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if !code[..at].ends_with(is_name) && !code[..at].ends_with('$') {
            found.extend(first_names(&code[at + "crate::".len()..]));
        }
    }
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with(is_name) || code[..at].ends_with("::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut n_up = 0;
        while let Some(up) = rest.strip_prefix("super::") {
            (rest, n_up) = (up, n_up + 1);
        }
        if n_up >= modules.len() {
            found.extend(first_names(rest));
        }
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns the first name of a path, or of each branch of a `use` tree.
fn first_names(tree: &str) -> Vec<String> {
    let name = |path: &str| {
        let path = path.trim_start();
        path[..path.find(|c| !is_name(c)).unwrap_or(path.len())].to_owned()
    };
    let Some(branches) = tree.strip_prefix('{') else { return vec![name(tree)] };
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in branches.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&branches[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty() && name != "self");
    names
}

/// Asserts that the `mod.rs` files of a crate hold only declarations of modules, imports and
/// re-exports, except those of `exempt`.
fn assert_mod_files_only_declare(crate_src: &str, exempt: &[&str]) {
    let src = repository().join(crate_src);
    let exempt: Vec<PathBuf> = exempt.iter().map(|path| src.join(path)).collect();
    let mut n_files = 0;
    for file in rust_files(&src) {
        if !file.ends_with("mod.rs") || exempt.contains(&file) {
            continue;
        }
        n_files += 1;
        let source = fs::read_to_string(&file).unwrap();
        let lines = source.lines().map(str::trim);
        let code: Vec<&str> =
            lines.filter(|line| !line.starts_with("//") && !line.starts_with("#[")).collect();
        for item in code.join(" ").split(';').map(str::trim).filter(|item| !item.is_empty()) {
            let bare = match item.strip_prefix("pub") {
                Some(rest) if rest.starts_with('(') => rest.split_once(')').unwrap().1,
                Some(rest) => rest,
                None => item,
            };
            let bare = bare.trim_start();
            let is_declaration =
                bare.strip_prefix("mod ").is_some_and(|name| name.chars().all(is_name));
            assert!(
                is_declaration || bare.starts_with("use "),
                "{} holds more than declarations: `{item}`",
                file.display()
            );
        }
    }
    assert!(n_files > 0, "{crate_src} has no `mod.rs`");
}

#[test]
fn imports_are_found_in_all_forms() {
    let modules = |code: &str, path: &str| {
        let found = imported_modules(&shipped_code(code), &module_path(Path::new(path)));
        found.into_iter().collect::<Vec<_>>().join(" ")
    };
    let nested = "use crate::{\n    arch::{A, b::{C, D}},\n    bundle::{self, E},\n    hub,\n};\n";
    assert_eq!(modules(nested, "x/y.rs"), "arch bundle hub");
    assert_eq!(modules("pub(crate) use crate::arch::A;\n", "x/y.rs"), "arch");
    assert_eq!(modules("fn f() -> crate::arch::A { crate::hub::b() }\n", "x.rs"), "arch hub");
    assert_eq!(modules("use super::{a::B, c};\n", "x.rs"), "a c");
    assert_eq!(modules("use super::a::B;\n", "x/mod.rs"), "a");
    assert_eq!(modules("use super::a::B;\nuse super::super::c::D;\n", "x/y.rs"), "c");
    assert_eq!(modules("use crate::Bundle;\n", "x.rs"), "Bundle", "not a module");
    let exempt = [
        "//! [`crate::a`]\n/// See `crate::b`.\nfn f() {} // crate::c\n",
        "#[cfg(test)]\nmod tests {\n    use crate::a;\n\n    fn f() {\n    }\n}\n",
        "#[cfg(test)]\n#[expect(dead_code)]\nfn f() {\n    crate::a::g();\n}\n",
        "use my_crate::a;\n",
    ];
    for code in exempt {
        assert_eq!(modules(code, "x/y.rs"), "", "{code}");
    }
    let after = "#[cfg(test)]\nmod tests;\nuse crate::a;\n";
    assert_eq!(modules(after, "x/mod.rs"), "a");
}

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
    // What a config names as its processor's class is read before its architecture is known.
    let homes =
        ["models/src/arch", "models/src/config/classes"].map(|home| repository().join(home));
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

#[test]
fn no_test_file_is_left_out() {
    for (folder, mains) in [("tests/tests", 3), ("models/tests", 1)] {
        let folder = repository().join(folder);
        let mut n_mains = 0;
        for kind in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let Ok(main) = fs::read_to_string(kind.join("main.rs")) else { continue };
            n_mains += 1;
            for file in fs::read_dir(&kind).unwrap().map(|entry| entry.unwrap().path()) {
                let Some(name) = file.file_name().unwrap().to_str().unwrap().strip_suffix(".rs")
                else {
                    continue;
                };
                let declared = format!("mod {name};");
                let is_declared = name == "main" || main.lines().any(|line| line == declared);
                assert!(is_declared, "{} is in no test binary", file.display());
            }
        }
        assert_eq!(n_mains, mains, "{}", folder.display());
    }
}

#[test]
fn every_example_job_is_valid() {
    let place = Workplace::new();
    let mut n_jobs = 0;
    for entry in fs::read_dir(repository().join("jobs/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let told = place.run(&["check", &path.to_string_lossy()]).expect(0);
            assert!(told.stdout.contains("valid"), "{}", told.stdout);
            n_jobs += 1;
        }
    }
    assert!(n_jobs >= 5);
}
