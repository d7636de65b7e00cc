//! The page of `legenda schedule` in a real browser, where there is one.

use std::process::Command;

use legenda_tests::{python::run_script, repository};

/// Whether a program is there to be called.
fn is_there(name: &str) -> bool {
    let mut command = Command::new(name);
    command.arg("--version").output().is_ok_and(|told| told.status.success())
}

/// With `LEGENDA_TEST_BROWSER` set, as CI does, the browser must be there.
#[test]
fn the_page_shows_jobs_progress_and_reports() {
    let is_wanted = std::env::var_os("LEGENDA_TEST_BROWSER").is_some();
    if !(is_wanted || is_there("chromium") && is_there("chromedriver")) {
        println!("not tried: no chromium and chromedriver (Debian: chromium, chromium-driver)");
        return;
    }
    let shots = repository().join("target/browser");
    println!("{}", run_script("browser.py", &[&shots.to_string_lossy()]));
}
