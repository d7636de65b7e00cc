//! Compares generated pages with the committed ones.

use std::{env, fs, io::Write as _, path::Path};

/// If set to 1, pages are written instead of compared.
const UPDATE: &str = "LEGENDA_UPDATE";

/// Asserts that a file in `docs` has the given text.
pub(super) fn assert_current(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if env::var_os(UPDATE).is_some_and(|value| value == "1") {
        fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "docs/{name} is out of date: run this test with {UPDATE}=1");
}
