//! Modules form layers, and `mod.rs` files only declare them.

use std::{collections::BTreeSet, fs, path::Path};

use legenda_tests::{repository, rust_files};

/// The modules of `models` from bottom to top.
const MODELS_LAYERS: [&str; 16] = [
    "tensors",
    "kept",
    "graph",
    "grammar",
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
    for crate_src in ["models/src", "pipeline/src", "jobs/src"] {
        assert_mod_files_only_declare(crate_src);
    }
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
/// re-exports.
fn assert_mod_files_only_declare(crate_src: &str) {
    let src = repository().join(crate_src);
    let mut n_files = 0;
    for file in rust_files(&src) {
        if !file.ends_with("mod.rs") {
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
