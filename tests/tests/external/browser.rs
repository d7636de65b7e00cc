//! The page of `legenda schedule` in a real browser, if one is installed.

use std::process::Command;

use legenda_tests::{python::run_script, repository};

/// Returns whether a program is installed.
fn is_installed(name: &str) -> bool {
    let mut command = Command::new(name);
    command.arg("--version").output().is_ok_and(|told| told.status.success())
}

/// Returns whether there is a browser. If `LEGENDA_TEST_BROWSER` is set, as in CI, it is required.
#[expect(clippy::print_stdout, reason = "the harness shows why a test did nothing")]
pub(super) fn has_browser() -> bool {
    let is_wanted = std::env::var_os("LEGENDA_TEST_BROWSER").is_some();
    if is_wanted || ["chromium", "chromedriver", "npm"].into_iter().all(is_installed) {
        return true;
    }
    println!("not tried: no browser and npm (Debian: chromium, chromium-driver, npm)");
    false
}

#[test]
fn the_page_shows_jobs_progress_and_reports() {
    if has_browser() {
        let shots = repository().join("target/browser");
        println!("{}", run_script("servers/browser.py", &[&shots.to_string_lossy()]));
    }
}
