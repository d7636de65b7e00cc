//! Suggestions for misspelled keys and enum values in a job file.

use serde_json::Value;

use super::Job;
use crate::suggest::closest;

/// Appends a suggestion to a deserializer's `message` about an unknown key or enum value, if it resembles a
/// known one or is a key of another table.
pub(super) fn with_suggestion(message: &str) -> String {
    let message = message.trim_end();
    let suggestion = suggestion(message).map(|found| format!("\n{found}")).unwrap_or_default();
    format!("{message}{suggestion}")
}

/// Returns a suggestion for a message of `serde::de::Error::unknown_field` or `unknown_variant`, such as
/// "unknown field `x`, expected one of `a`, `b`".
fn suggestion(message: &str) -> Option<String> {
    let (kind, rest) = ["field", "variant"].into_iter().find_map(|kind| {
        let (_, rest) = message.split_once(&format!("unknown {kind} `"))?;
        Some((kind, rest))
    })?;
    let (name, rest) = rest.split_once('`')?;
    let expected = rest.split('`').skip(1).step_by(2);
    if let Some(found) = closest(name, expected) {
        return Some(format!("did you mean `{found}`?"));
    }
    let owners = if kind == "field" { tables_with(name) } else { Vec::new() };
    let owners: Vec<String> = owners.iter().map(|owner| format!("`[{owner}]`")).collect();
    (!owners.is_empty()).then(|| format!("`{name}` is a key of {}", owners.join(" and ")))
}

/// Returns the tables of a job file that have the key `name`.
fn tables_with(name: &str) -> Vec<String> {
    let schema = Job::json_schema();
    let tables = schema["properties"].as_object().into_iter().flatten();
    let has_key = |table: &Value| {
        // An optional table is `anyOf` the table and null.
        let mut refs =
            std::iter::once(table).chain(table["anyOf"].as_array().into_iter().flatten());
        refs.any(|table| {
            let pointer = table["$ref"].as_str().and_then(|name| name.strip_prefix('#'));
            let table = pointer.and_then(|pointer| schema.pointer(pointer));
            table.is_some_and(|table| !table["properties"][name].is_null())
        })
    };
    tables.filter(|(_, table)| has_key(table)).map(|(key, _)| key.clone()).collect()
}
