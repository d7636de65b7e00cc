//! Human-readable differences between two jobs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::base::excerpt::shortened;

/// The maximum characters of a value to show.
const SHOWN_CHARS_MAX: usize = 200;

/// Returns each changed value as `task.prompt: "old" -> "new"`.
pub(super) fn differences(
    old: &BTreeMap<String, Value>,
    new: &BTreeMap<String, Value>,
) -> Vec<String> {
    let (old, new) = (leaves(old), leaves(new));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differing = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
    differing
        .map(|key| format!("{key}: {} -> {}", show(old.get(key)), show(new.get(key))))
        .collect()
}

/// Returns the values that are set, by dotted key.
fn leaves(identity: &BTreeMap<String, Value>) -> BTreeMap<String, &Value> {
    fn add<'a>(key: &str, value: &'a Value, leaves: &mut BTreeMap<String, &'a Value>) {
        match value {
            Value::Null => {}
            Value::Object(members) => {
                for (name, value) in members {
                    add(&format!("{key}.{name}"), value, leaves);
                }
            }
            value => {
                leaves.insert(key.to_owned(), value);
            }
        }
    }
    let mut leaves = BTreeMap::new();
    identity.iter().for_each(|(key, value)| add(key, value, &mut leaves));
    leaves
}

fn show(value: Option<&&Value>) -> String {
    let Some(value) = value else { return "not set".to_owned() };
    let shown = value.to_string();
    shortened(&shown, SHOWN_CHARS_MAX).into_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::differences;

    fn identity(value: Value) -> BTreeMap<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_changed_keys_are_listed() {
        let old = identity(json!({
            "task": {"kind": "generate", "prompt": "Say {{ text }}"}, "source.query": null,
            "generation": {"seed": 0, "stop": []}, "model.bundle": "x",
        }));
        let new = identity(json!({
            "task": {"kind": "generate", "prompt": "Tell \"{{ text }}\""}, "source.query": "SELECT",
            "generation": {"seed": 0, "stop": ["x"], "top_k": 4}, "model.bundle": "x",
        }));
        assert_eq!(
            differences(&old, &new),
            [
                "generation.stop: [] -> [\"x\"]",
                "generation.top_k: not set -> 4",
                "source.query: not set -> \"SELECT\"",
                "task.prompt: \"Say {{ text }}\" -> \"Tell \\\"{{ text }}\\\"\"",
            ]
        );
        assert!(differences(&old, &old).is_empty());
    }

    #[test]
    fn long_values_are_shortened() {
        let prompt = |text: &str| identity(json!({"task": {"prompt": text}}));
        let differing = differences(&prompt(&"ü".repeat(500)), &prompt("short"));
        let [differing] = differing.as_slice() else { panic!("{differing:?}") };
        let (old, new) = differing.split_once(" -> ").unwrap();
        assert_eq!(old.chars().count(), "task.prompt: ".len() + 200);
        assert!(old.ends_with('…') && new == "\"short\"", "{differing}");
    }
}
