//! A Python environment with the packages that some tests need. `pip` installs them once.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::{binary, repository};

/// An S3 server (which pulls in `cryptography`), table libraries, parsers of subtitles and a browser driver.
const PACKAGES: [&str; 8] = [
    "duckdb-cli==1.5.6",
    "moto[server]==5.1.22",
    "pandas==3.1.1",
    "polars==2.1.0",
    "pyarrow==26.0.1",
    "selenium==4.40.0",
    "srt==3.5.3",
    "webvtt-py==0.6.0",
];

/// Runs a script, named by its path in `tests/`, against the binary and returns its output.
#[must_use]
pub fn run_script(name: &str, arguments: &[&str]) -> String {
    let script = repository().join("tests").join(name);
    run(Command::new(python()).arg(script).arg(binary()).args(arguments))
}

/// Returns the Python with the packages; creates the environment once per process.
fn python() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let home = repository().join("target/python_of_tests");
        let python = home.join("bin/python");
        if !python.is_file() {
            drop(run(Command::new("python3").args(["-m", "venv"]).arg(&home)));
        }
        drop(run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES)));
        python
    })
}

fn run(command: &mut Command) -> String {
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    let complained = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{command:?}\n{said}\n{complained}");
    said.into_owned()
}
