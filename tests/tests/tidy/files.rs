//! Every test file is in a test binary, and every example job is valid.

use std::fs;

use legenda_tests::{Workplace, repository};

#[test]
fn no_test_file_is_left_out() {
    for (folder, mains) in [("tests/tests", 4), ("models/tests", 1)] {
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
