//! A job as a commented job file.

use std::fmt::Write;

use serde_json::Value;
use toml::Table;

use super::{Job, JobError, ModelChoice, Output, Reuse, Source, Task};

/// The sections of a job file in the order of writing.
const SECTIONS: [&str; 11] = [
    "task",
    "source",
    "model",
    "generation",
    "answer",
    "embedding",
    "limits",
    "reuse",
    "output",
    "schedule",
    "hooks",
];

impl Job {
    /// Returns a job with default options.
    #[must_use]
    pub fn new(task: Task, source: Source, output: Output) -> Self {
        Self {
            version: super::JOB_VERSION,
            task,
            source,
            model: ModelChoice::default(),
            generation: Default::default(),
            answer: Default::default(),
            embedding: Default::default(),
            limits: Default::default(),
            reuse: Reuse::default(),
            output,
            schedule: None,
            hooks: Default::default(),
        }
    }

    /// Writes the job as a job file: every key that differs from its default, each with the description of
    /// the JSON Schema.
    ///
    /// # Errors
    ///
    /// [`JobError::Syntax`] if a value cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String, JobError> {
        let serialise = |job: &Self| {
            Table::try_from(job).map_err(|error| JobError::Syntax { problem: error.to_string() })
        };
        let empty = Self::new(
            Task::new(self.task.kind),
            Source::new(Vec::new()),
            Output::at(String::new()),
        );
        let (table, defaults) = (serialise(self)?, serialise(&empty)?);
        let schema = Self::json_schema();
        let mut text = format!("version = {}\n", self.version);
        for name in SECTIONS {
            let Some(toml::Value::Table(section)) = table.get(name) else { continue };
            let default = defaults.get(name).and_then(toml::Value::as_table);
            let mut changed = without_defaults(section, default);
            // The kind has no default.
            if name == "task" {
                changed.insert("kind".to_owned(), section["kind"].clone());
            }
            if name == "model" {
                changed.insert("bundle".to_owned(), section["bundle"].clone());
            }
            if !changed.is_empty() {
                write_section(
                    name,
                    &changed,
                    described(&schema, &schema["properties"][name]),
                    &schema,
                    &mut text,
                );
            }
        }
        Ok(text)
    }
}

/// Returns the keys of `table` whose values differ from those of `defaults`.
fn without_defaults(table: &Table, defaults: Option<&Table>) -> Table {
    let default = |key: &String| defaults.and_then(|defaults| defaults.get(key));
    let differing = table.iter().filter_map(|(key, value)| match (value, default(key)) {
        (toml::Value::Table(inner), Some(toml::Value::Table(default))) => {
            let inner = without_defaults(inner, Some(default));
            (!inner.is_empty()).then(|| (key.clone(), inner.into()))
        }
        (value, default) if default == Some(value) => None,
        (value, _) => Some((key.clone(), value.clone())),
    });
    differing.collect()
}

/// Writes a section: its values, then its tables.
fn write_section(name: &str, section: &Table, schema: &Value, root: &Value, text: &mut String) {
    // Writing to a string does not fail.
    write!(text, "\n[{name}]\n").ok();
    let (tables, values): (Vec<_>, Vec<_>) =
        section.iter().partition(|(_, value)| value.is_table());
    for (key, value) in values {
        let property = &schema["properties"][key.as_str()];
        if let Some(description) = property["description"].as_str() {
            let sentence = description.split_once(". ").map_or(description, |(first, _)| first);
            let sentence = sentence.split_whitespace().collect::<Vec<_>>().join(" ");
            writeln!(text, "# {}.", sentence.trim_end_matches('.')).ok();
        }
        writeln!(text, "{key} = {value}").ok();
    }
    for (key, value) in tables {
        if let Some(table) = value.as_table() {
            let schema = described(root, &schema["properties"][key.as_str()]);
            write_section(&format!("{name}.{key}"), table, schema, root, text);
        }
    }
}

/// Follows the reference of a schema, which may be one of several alternatives.
fn described<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let alternatives = schema["anyOf"].as_array().into_iter().flatten();
    let found = std::iter::once(schema).chain(alternatives).find_map(|one| one["$ref"].as_str());
    found.and_then(|path| root.pointer(path.strip_prefix('#')?)).unwrap_or(schema)
}

#[cfg(test)]
mod tests {
    use super::{Job, Output, Source, Task};
    use crate::job::{SidecarExtension, SidecarMode, Sidecars, TaskKind};

    #[test]
    fn a_written_job_is_the_same_job() {
        let mut job = Job::new(
            Task {
                prompt: Some("Say \"{{ a }}\"\nnow.".to_owned()),
                ..Task::new(TaskKind::Transcribe)
            },
            Source::new(vec!["a\\b".to_owned(), "c".to_owned()]),
            Output {
                sidecars: Some(Sidecars {
                    extension: vec![SidecarExtension::Txt, SidecarExtension::Srt].into(),
                    mode: SidecarMode::Skip,
                    separator: Sidecars::SEPARATOR.to_owned(),
                }),
                ..Output::at("out".to_owned())
            },
        );
        job.task.timestamps = true;
        job.source.columns.audio = Some("media".to_owned());
        job.generation.max_new_tokens = Some(7);
        let text = job.to_toml().unwrap();
        assert_eq!(Job::parse(&text, &[]).unwrap(), job);
        assert!(text.contains("# The kind of task.\nkind = \"transcribe\"\n"), "{text}");
        assert!(text.contains("\n[source.columns]\n"), "{text}");
        assert!(!text.contains("[limits]") && !text.contains("temperature"), "{text}");
    }
}
