//! The page of `legenda schedule` in a real browser, if one is installed.

use std::process::Command;

use legenda_tests::{python::run_script, repository};

/// Returns whether a program is installed.
fn is_installed(name: &str) -> bool {
    let mut command = Command::new(name);
    command.arg("--version").output().is_ok_and(|told| told.status.success())
}

/// If `LEGENDA_TEST_BROWSER` is set, as in CI, the browser is required.
#[test]
fn the_page_shows_jobs_progress_and_reports() {
    let is_wanted = std::env::var_os("LEGENDA_TEST_BROWSER").is_some();
    if !(is_wanted || is_installed("chromium") && is_installed("chromedriver")) {
        println!("not tried: no chromium and chromedriver (Debian: chromium, chromium-driver)");
        return;
    }
    let shots = repository().join("target/browser");
    println!("{}", run_script("servers/browser.py", &[&shots.to_string_lossy()]));
}
