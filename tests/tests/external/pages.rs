//! The pages of `legenda schedule` and the reports of runs: readable for everyone, on every screen.

use legenda_tests::{npm::package, python::run_script, repository};

use crate::browser::has_browser;

/// The version of axe-core, which finds what keeps people from reading a page.
const AXE_VERSION: &str = "4.14.1";

#[test]
fn pages_are_accessible_and_keep_focus_and_token() {
    if has_browser() {
        let axe = package("axe-core", AXE_VERSION);
        let shots = repository().join("target/pages");
        let arguments = [axe.to_string_lossy(), shots.to_string_lossy()];
        println!("{}", run_script("pages/check.py", &[&arguments[0], &arguments[1]]));
    }
}
