//! `docs/job.schema.json` and `docs/reference/job-file.md`, generated from the types of the job file.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::page::assert_current;
use crate::job::Job;

/// The sections of a job file, in the order of the page.
const SECTIONS: [&str; 11] = [
    "task",
    "source",
    "model",
    "generation",
    "answer",
    "embedding",
    "limits",
    "output",
    "reuse",
    "schedule",
    "hooks",
];

const HEAD: &str = "\
# Job file

A job is a TOML file with these sections. `[task]`, `[source]` and `[output]` are required. Unknown keys are
errors. Relative paths start at the folder of the job file, unless the table says otherwise.

This page is generated from the JSON Schema of the job file, [job.schema.json](../job.schema.json), which
`legenda schema job` also prints. Editors with TOML support complete and check keys if the first line of the job
names the schema:

```toml
#:schema https://example.com/job.schema.json
```

`--set KEY=VALUE` on the command line overrides any key, such as `--set model.slots=4`.
";

#[test]
fn the_json_schema_of_the_job_file_is_up_to_date() {
    let schema = serde_json::to_string_pretty(&Job::json_schema()).unwrap();
    assert_current("job.schema.json", &(schema + "\n"));
}

#[test]
fn the_page_of_the_job_file_is_up_to_date() {
    let schema = serde_json::to_value(Job::json_schema()).unwrap();
    assert_current("reference/job-file.md", &Page { schema }.text());
}

struct Page {
    schema: Value,
}

impl Page {
    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        let properties = self.schema["properties"].as_object().unwrap();
        let n_tables = properties.keys().filter(|key| *key != "version").count();
        assert_eq!(n_tables, SECTIONS.len(), "add the new section to the page");
        for name in SECTIONS {
            let property = &properties[name];
            self.section(name, property, &mut text);
        }
        text += "\n## Types of values\n\n| type | meaning |\n|---|---|\n";
        for (name, one) in self.definitions() {
            if !one.contains_key("properties") && !is_choice(one) {
                writeln!(
                    text,
                    "| <a id=\"{}\"></a>{name} | {} |",
                    name.to_lowercase(),
                    meaning(one)
                )
                .unwrap();
            }
        }
        text
    }

    /// Returns the named types of the schema.
    fn definitions(&self) -> impl Iterator<Item = (&str, &Map<String, Value>)> {
        let all = self.schema["$defs"].as_object().unwrap();
        all.iter().map(|(name, one)| (name.as_str(), one.as_object().unwrap()))
    }

    /// Writes the table of a section, then those of its subsections.
    fn section(&self, path: &str, schema: &Value, text: &mut String) {
        let (_, section) = self.resolved(schema).unwrap();
        let is_list = schema["type"] == "array";
        let title = if is_list { format!("[[{path}]]") } else { format!("[{path}]") };
        write!(text, "\n## `{title}`\n\n{}\n\n", described(section)).unwrap();
        *text += "| key | type | default | meaning |\n|---|---|---|---|\n";
        let required: Vec<&str> = match &section.get("required") {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let mut subsections = Vec::new();
        for (key, property) in section["properties"].as_object().unwrap() {
            let default = if required.contains(&key.as_str()) {
                "required".to_owned()
            } else {
                default(property)
            };
            let mut about = meaning(property.as_object().unwrap());
            let mut of_type = self.type_name(property);
            if let Some((_, inner)) = self.resolved(property) {
                if is_choice(inner) {
                    for one in inner["oneOf"].as_array().unwrap() {
                        let explanation = meaning(one.as_object().unwrap());
                        about += &format!("<br>`{}`: {explanation}", text_of(&one["const"]));
                    }
                } else if inner.contains_key("properties") {
                    let inner_path = format!("{path}.{key}");
                    of_type = if property["type"] == "array" { "list of tables" } else { "table" }
                        .to_owned();
                    about += &format!(" See `{inner_path}` below.");
                    subsections.push((inner_path, property));
                }
            }
            writeln!(text, "| `{key}` | {of_type} | {default} | {about} |").unwrap();
        }
        for (path, property) in subsections {
            self.section(&path, property, text);
        }
    }

    /// Returns the name and the schema of the named type in a property, also of list items and optional values.
    fn resolved<'a>(&'a self, schema: &'a Value) -> Option<(&'a str, &'a Map<String, Value>)> {
        if let Some(Value::String(link)) = schema.get("$ref") {
            let name = link.rsplit('/').next()?;
            return Some((name, self.schema["$defs"][name].as_object()?));
        }
        if schema["type"] == "array" {
            return self.resolved(&schema["items"]);
        }
        schema["anyOf"].as_array()?.iter().find_map(|one| self.resolved(one))
    }

    fn type_name(&self, schema: &Value) -> String {
        if let Some(Value::String(link)) = schema.get("$ref") {
            let name = link.rsplit('/').next().unwrap_or_default();
            let one = self.schema["$defs"][name].as_object().unwrap();
            if !is_choice(one) {
                return format!("[{name}](#{})", name.to_lowercase());
            }
            return "string".to_owned();
        }
        if let Some(Value::Array(choices)) = schema.get("anyOf") {
            let choices = choices.iter().map(|one| self.type_name(one));
            return choices.filter(|one| one != "null").collect::<Vec<_>>().join(" or ");
        }
        let name = match &schema["type"] {
            Value::Array(names) => text_of(names.iter().find(|name| *name != "null").unwrap()),
            name => text_of(name),
        };
        match name.as_str() {
            "array" => format!("list of {}s", self.type_name(&schema["items"])),
            "object" => format!("table of {}", self.type_name(&schema["additionalProperties"])),
            _ => name,
        }
    }
}

/// Returns whether a type is one of some strings.
fn is_choice(schema: &Map<String, Value>) -> bool {
    let choices = schema.get("oneOf").and_then(Value::as_array);
    choices.is_some_and(|all| all.iter().all(|one| one.get("const").is_some()))
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn described(schema: &Map<String, Value>) -> String {
    schema.get("description").map(text_of).unwrap_or_default()
}

/// Returns the description as the cell of a table.
fn meaning(schema: &Map<String, Value>) -> String {
    described(schema).replace('\n', " ").replace('|', "\\|")
}

fn default(property: &Value) -> String {
    match property.get("default") {
        None | Some(Value::Null | Value::Object(_)) => String::new(),
        Some(Value::Array(items)) if items.is_empty() => "`[]`".to_owned(),
        Some(value) => format!("`{value}`"),
    }
}
