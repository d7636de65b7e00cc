//! ONNX Runtime that cannot be found. The test has its own binary because a process can open only
//! one runtime.

use legenda_models::{
    Runtime, RuntimeError, RuntimeOptions,
    runtime::{Attempt, Place},
};

#[test]
fn every_location_is_named_with_a_reason_and_an_install_command() {
    let folder = tempfile::tempdir().unwrap();
    let not_a_library = folder.path().join("libonnxruntime.so");
    std::fs::copy(file!().trim_start_matches("models/"), &not_a_library).unwrap();
    let options = RuntimeOptions {
        dylib_path: Some(not_a_library.clone()),
        binary_dir: Some(folder.path().join("empty")),
        cache_dir: Some(folder.path().join("cache")),
        python: Some("no-such-python".into()),
        offline: true,
        threads: None,
        has_gpu: true,
        profile_dir: None,
    };
    let error = Runtime::open(&options, &|line| panic!("progress while offline: {line}"));
    let error = error.unwrap_err();
    let text = error.to_string();
    let RuntimeError::NotFound { attempts, command } = error else { panic!("{text}") };
    let places: Vec<Place> = attempts.iter().map(|attempt: &Attempt| attempt.place).collect();
    assert_eq!(
        places,
        [Place::Variable, Place::BesideBinary, Place::Cache, Place::Python, Place::Fetch]
    );
    assert_eq!(attempts[0].path, Some(not_a_library));
    assert!(attempts[0].reason.starts_with("failed to load: "), "{}", attempts[0].reason);
    assert!(attempts[3].reason.starts_with("failed to run it: "), "{}", attempts[3].reason);
    assert_eq!(attempts[4].reason, "downloads are disabled");
    let target = folder.path().join("cache/onnxruntime/1.31.1");
    let target = format!("--target \"{}\"", target.display());
    assert_eq!(command, format!("python3 -m pip install {target} onnxruntime==1.31.1"));
    assert_eq!(text.lines().count(), 6, "{text}");
}
