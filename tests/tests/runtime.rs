//! ONNX Runtime needs no manual step, also when several processes need it at once.

use std::process::{Child, Output, Stdio};

use legenda_tests::Workplace;

fn doctor(place: &Workplace) -> Child {
    let mut command = place.command(&["doctor", "--json"]);
    command.env("LEGENDA_CACHE", place.path("cache")).env_remove("ORT_DYLIB_PATH");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
}

#[test]
fn two_processes_with_an_empty_cache_fetch_once() {
    let place = Workplace::new();
    let children = [doctor(&place), doctor(&place)];
    let outputs: Vec<Output> =
        children.into_iter().map(|child| child.wait_with_output().expect("it ends")).collect();
    let mut n_fetches = 0;
    for output in &outputs {
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaints}");
        let found: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("doctor prints JSON");
        assert!(found["onnxruntime"].is_string(), "{found}");
        n_fetches += complaints.matches("Fetching").count();
    }
    // Where Python has the package nothing is fetched at all.
    assert!(n_fetches <= 1, "each process fetched for itself");
}
