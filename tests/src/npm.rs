//! Packages of the npm registry that some tests need. `npm` installs them once.

use std::{path::PathBuf, process::Command};

use crate::repository;

/// Returns the folder of a package in a version.
#[must_use]
pub fn package(name: &str, version: &str) -> PathBuf {
    let home = repository().join("target/npm_of_tests").join(format!("{name}-{version}"));
    let package = home.join("node_modules").join(name);
    if !package.join("package.json").is_file() {
        std::fs::create_dir_all(&home).unwrap();
        let mut command = Command::new("npm");
        command.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
        let ended = command.arg(&home).arg(format!("{name}@{version}")).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    package
}
