//! ONNX Runtime needs no manual setup, even if several processes need it at once.

use std::process::{Child, Output, Stdio};

use legenda_tests::{TEXT_JOB, Workplace, run_command, texts, write_table};

fn doctor(place: &Workplace) -> Child {
    let mut command = place.command(&["doctor", "--json"]);
    command.env("LEGENDA_CACHE", place.path("cache")).env_remove("ORT_DYLIB_PATH");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
}

#[test]
fn two_processes_with_an_empty_cache_download_once() {
    let place = Workplace::new();
    let children = [doctor(&place), doctor(&place)];
    let outputs: Vec<Output> = children
        .into_iter()
        .map(|child| child.wait_with_output().expect("the binary exits"))
        .collect();
    let mut n_fetches = 0;
    for output in &outputs {
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaints}");
        let found: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("doctor prints JSON");
        assert!(found["onnxruntime"].is_string(), "{found}");
        n_fetches += complaints.matches("Fetching").count();
    }
    // If the Python package is installed, nothing is downloaded.
    assert!(n_fetches <= 1, "each process downloaded the library");
}

/// Files planted in the current directory or the cache are not used.
#[cfg(unix)]
#[test]
fn nothing_in_the_current_directory_is_executed_or_loaded() {
    use std::{fs, os::unix::fs::PermissionsExt};
    let place = Workplace::new();
    let marks = format!("open({:?}, 'a').close()\n", place.path("executed"));
    for module in ["pip", "venv", "site", "sitecustomize", "usercustomize", "onnxruntime/__init__"]
    {
        let file = format!("{module}.py");
        fs::create_dir_all(place.path(&file).parent().unwrap()).unwrap();
        place.write(&file, &marks);
    }
    fs::create_dir_all(place.path("onnxruntime/capi")).unwrap();
    place.write("onnxruntime/capi/libonnxruntime.so.1.31.1", "none");
    for program in ["python3", "nvidia-smi"] {
        place.write(program, &format!("#!/bin/sh\ntouch {:?}\n", place.path("executed")));
        fs::set_permissions(place.path(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!(".::{}", std::env::var("PATH").unwrap());
    let doctor = |cache: &str| {
        let mut command = place.command(&["doctor", "--json"]);
        command.env("PATH", &path).env("PYTHONPATH", ".").env_remove("ORT_DYLIB_PATH");
        run_command(command.env("LEGENDA_CACHE", cache))
    };
    let told = doctor("cache").expect(0);
    assert!(!place.path("executed").try_exists().unwrap(), "{}", told.stdout);
    let told: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    let library = std::path::PathBuf::from(told["library"].as_str().unwrap());
    assert!(!library.starts_with(place.path("onnxruntime")), "{}", library.display());
    if !library.starts_with(place.path("cache")) {
        // The Python package was found.
        return;
    }
    // A modified library is downloaded again; a library that others can write to is not loaded.
    let fetched = fs::read(&library).unwrap();
    let mut file = fs::File::options().append(true).open(&library).unwrap();
    std::io::Write::write_all(&mut file, b"x").unwrap();
    let told = doctor("cache").expect(0);
    assert!(told.stderr.contains("Fetching"), "{}", told.stderr);
    assert!(fs::read(&library).unwrap() == fetched);
    fs::set_permissions(&library, fs::Permissions::from_mode(0o666)).unwrap();
    let mut offline = place.command(&["doctor"]);
    offline.env("LEGENDA_CACHE", "cache").env("LEGENDA_OFFLINE", "1").env_remove("ORT_DYLIB_PATH");
    let refused = run_command(&mut offline);
    assert_ne!(refused.code, Some(0));
    refused.stderr_contains(&["is writable by everyone"]);
}

/// Creates a workplace with an `nvidia-smi` that reports a GPU, and a cache with the library at
/// `library`.
#[cfg(target_os = "linux")]
fn machine_with_a_gpu(library: &str) -> Workplace {
    use std::{fs, os::unix::fs::PermissionsExt};
    let place = Workplace::new();
    fs::create_dir_all(place.path("bin")).unwrap();
    place.write("bin/nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-1)'\n");
    fs::set_permissions(place.path("bin/nvidia-smi"), fs::Permissions::from_mode(0o755)).unwrap();
    let version = place.path("cache/onnxruntime/1.31.1");
    fs::create_dir_all(&version).unwrap();
    std::os::unix::fs::symlink(library, version.join("libonnxruntime.so")).unwrap();
    place
}

#[cfg(target_os = "linux")]
fn with_a_gpu(place: &Workplace, arguments: &[&str]) -> std::process::Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = place.command(arguments);
    command.env("PATH", format!("{}:{path}", place.path("bin").display()));
    command.env("LEGENDA_CACHE", place.path("cache")).env("LEGENDA_OFFLINE", "1");
    command.env_remove("ORT_DYLIB_PATH").env_remove("CUDA_VISIBLE_DEVICES");
    command
}

#[cfg(target_os = "linux")]
#[test]
fn an_unused_gpu_is_reported_with_the_command_to_enable_it() {
    let told = Workplace::new().run(&["doctor", "--json"]).expect(0);
    let told: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    if told["device"] == "cuda" {
        return;
    }
    let library = told["library"].as_str().unwrap();
    if !library.contains("/onnxruntime/1.31.1/") {
        // The cache accepts only the pinned library.
        return;
    }
    let place = machine_with_a_gpu(library);
    let doctor = || -> serde_json::Value {
        let told = run_command(&mut with_a_gpu(&place, &["doctor", "--json"])).expect(0);
        serde_json::from_str(&told.stdout).unwrap()
    };
    let told = doctor();
    assert_eq!(told["gpu"], "NVIDIA H200");
    assert_eq!(told["device"], "cpu");
    let note = told["device_note"].as_str().unwrap();
    let target = format!("--target \"{}\"", place.path("cache/onnxruntime-gpu/1.31.1").display());
    assert!(note.contains("built without CUDA") && note.contains(&target), "{note}");
    assert!(note.contains("onnxruntime-gpu[cuda,cudnn]==1.31.1"), "{note}");

    // A run warns once that it uses the CPU, and its report says why; a job that requires the GPU
    // fails.
    write_table(&place.path("table.parquet"), &texts(&["What is dog in German?"]), 5);
    place.write("job.toml", TEXT_JOB);
    let ran = run_command(&mut with_a_gpu(&place, &["run", "job.toml"])).expect(0);
    assert_eq!(ran.stderr.matches("running on the CPU").count(), 1, "{}", ran.stderr);
    assert!(ran.stdout.contains("device cpu: ONNX Runtime at"), "{}", ran.stdout);
    let report = std::fs::read_to_string(place.path("out.legenda/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["device"], "cpu");
    assert!(report["device_note"].as_str().unwrap().contains(&target));
    for command in ["check", "run"] {
        let wanted = [command, "job.toml", "--set", "model.device=cuda"];
        let refused = run_command(&mut with_a_gpu(&place, &wanted)).expect(2);
        refused.stderr_contains(&["CUDA is not available", &target]);
    }
    // A hidden GPU counts as absent.
    let mut hidden = with_a_gpu(&place, &["doctor", "--json"]);
    let hidden = run_command(hidden.env("CUDA_VISIBLE_DEVICES", "")).expect(0);
    assert!(hidden.stdout.contains("\"gpu\":\"none\"") && !hidden.stdout.contains("device_note"));

    // The library that the suggested command installs takes precedence over the cached one.
    let installed = place.path("cache/onnxruntime-gpu/1.31.1/onnxruntime/capi");
    std::fs::create_dir_all(&installed).unwrap();
    std::os::unix::fs::symlink(library, installed.join("libonnxruntime.so.1.31.1")).unwrap();
    drop(std::fs::File::create(installed.join("libonnxruntime_providers_cuda.so")).unwrap());
    let told = doctor();
    assert!(told["library"].as_str().unwrap().contains("onnxruntime-gpu"), "{told}");
}
