//! Reference cases of image geometry, for tests.

/// Returns the cases of `tests/references/geometry.json`, which
/// `tests/references/make_bundles/geometry.py` computes with the references.
pub(super) fn geometry_cases(family: &str) -> Vec<Vec<usize>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/references/geometry.json");
    let all: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    serde_json::from_value(all[family].clone()).unwrap()
}
