//! Facts as lines or as JSON.

use serde_json::Value;

use crate::console::print;

/// Prints an object as JSON, or as one line per value.
pub(super) fn print_object(object: Vec<(&str, Value)>, json: bool) {
    if json {
        let object: serde_json::Map<String, Value> =
            object.into_iter().map(|(name, value)| (name.replace(' ', "_"), value)).collect();
        print(&Value::Object(object).to_string());
        return;
    }
    for (name, value) in object {
        let value = match value {
            Value::Null => continue,
            Value::String(text) => text,
            Value::Array(parts) => {
                let parts: Vec<String> = parts
                    .iter()
                    .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
                    .collect();
                parts.join(", ")
            }
            other => other.to_string(),
        };
        print(&format!("{name:<14} {value}"));
    }
}
