//! The job file: what to read, which model to ask, what to ask it, where the answers go.
//!
//! Strict by intent: unknown keys and wrong types are errors that name the key. What needs the
//! table or the model to judge (missing columns, a template, a task the model cannot do) is checked
//! by the crates that know them, still before a row is read.

mod column_type;
mod embedding;
mod generation;
mod incremental;
mod misspelt;
mod output;
mod reuse;
mod schedule;
mod source;
mod strings;
mod task;

use std::collections::BTreeMap;

pub use column_type::{ColumnType, ColumnTypeError};
pub use embedding::{EmbeddingOptions, Pooling};
pub use generation::GenerationOptions;
pub use incremental::Incremental;
pub use output::{Format, Output, RejectsPlace, SidecarExtension, SidecarMode, Sidecars};
pub use reuse::Reuse;
pub use schedule::{CatchUp, Hook, HookKind, Hooks, Schedule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use source::{Columns, OnBadFile, Source, SourceFormat};
pub use task::{LongAudio, Task, TaskKind};

use crate::{
    precision::PrecisionChoice,
    units::{ByteSize, ErrorBudget},
};

/// The version of the job file's format that this crate reads.
pub const JOB_VERSION: u32 = 1;

/// Why a job file is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// The text is no TOML, or a key is unknown or of a wrong type; the message shows the line.
    #[error("{message}")]
    Syntax {
        /// What the TOML reader says, with line and column.
        message: String,
    },
    /// A key, from the file or from `--set`, has a wrong name or type.
    #[error("`{key}`: {message}")]
    Key {
        /// The path of the key, such as `model.slots`.
        key: String,
        /// What is wrong with it.
        message: String,
    },
    /// A value is of the right type but cannot be meant.
    #[error("`{key}` {problem}")]
    Value {
        /// The path of the key.
        key: &'static str,
        /// What is wrong, and what to write.
        problem: String,
    },
    /// An override that is not `key=value`.
    #[error(
        "`--set {text}` is no override: write `--set key=value`, such as `--set model.slots=4`"
    )]
    Override {
        /// What was given.
        text: String,
    },
}

/// A job, as its file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The version of this format: 1.
    #[serde(default = "job_version")]
    pub version: u32,
    /// What is asked of every row.
    pub task: Task,
    /// The table to read.
    pub source: Source,
    /// The model to ask.
    #[serde(default)]
    pub model: ModelChoice,
    /// How answers are decoded.
    #[serde(default)]
    pub generation: GenerationOptions,
    /// How embeddings are made.
    #[serde(default)]
    pub embedding: EmbeddingOptions,
    /// What a run may use, and what a row may be.
    #[serde(default)]
    pub limits: Limits,
    /// Which answers need not be computed.
    #[serde(default, skip_serializing_if = "Reuse::is_default")]
    pub reuse: Reuse,
    /// Where the answers go.
    pub output: Output,
    /// When `legenda schedule` runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Whom `legenda schedule` tells how it went.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
}

fn job_version() -> u32 {
    JOB_VERSION
}

/// The model to ask and where it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelChoice {
    /// `legenda-tiny` (embedded), a directory, relative to the job file, or a model of the Hugging
    /// Face Hub: `hf://owner/name`, `hf://owner/name@revision`.
    pub bundle: String,
    /// How the weights of its graphs are stored: `fp32`, `fp16`, `q8`, `int8`, `uint8`, `q4`,
    /// `q4f16`, `bnb4`, or a table with one for each graph; default: the first of these that the
    /// model has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<PrecisionChoice>,
    /// Where it runs.
    pub device: Device,
    /// Threads of ONNX Runtime; default: one per core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Rows that are generated together; default: chosen from the memory limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<usize>,
    /// Tokens a row may have, prompt and answer together; default: what the model can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<usize>,
}

impl Default for ModelChoice {
    fn default() -> Self {
        Self {
            bundle: "legenda-tiny".to_owned(),
            precision: None,
            device: Device::Auto,
            threads: None,
            slots: None,
            context_tokens: None,
        }
    }
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// CUDA when its provider loads, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA, or an error.
    Cuda,
}

impl Device {
    /// Returns the name used in job files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// What a run may use, and what a row may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The memory of the process.
    pub memory: ByteSize,
    /// How many rows may be rejected before the run stops: a share (`"5%"`) or a number of rows;
    /// default: half of the rows of a run of at least 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_budget: Option<ErrorBudget>,
    /// The most pixels of an image; larger ones are rejected before they are decoded.
    pub image_pixels: u64,
    /// The most bytes of an image or a sound.
    pub media_bytes: ByteSize,
    /// The longest sound, in seconds.
    pub audio_seconds: f64,
    /// The most bytes of a prompt's text.
    pub text_bytes: ByteSize,
    /// What becomes of rows with a damaged image. Damaged audio is rejected.
    #[serde(skip_serializing_if = "DamagedMedia::is_default")]
    pub damaged_media: DamagedMedia,
}

/// What becomes of rows with a damaged image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DamagedMedia {
    /// They are rejected (`media_damaged`).
    #[default]
    Reject,
    /// They are answered from what can be decoded, and marked: `media_damaged` in `legenda_flags`.
    /// Images of which nothing can be decoded are rejected.
    Answer,
}

impl DamagedMedia {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: ByteSize::mib(2048),
            error_budget: None,
            image_pixels: 64_000_000,
            media_bytes: ByteSize::mib(128),
            audio_seconds: 3600.0,
            text_bytes: ByteSize::mib(1),
            damaged_media: DamagedMedia::default(),
        }
    }
}

impl Job {
    /// Reads a job from TOML, with `overrides` (`key=value`, the key a dotted path, the value TOML
    /// or else plain text) taking the place of what the file says.
    ///
    /// # Errors
    ///
    /// [`JobError`] names the first key that is wrong.
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self, JobError> {
        let job: Self = if overrides.is_empty() {
            // Straight from the text, so that the message can show the line.
            toml::from_str(text).map_err(|error| JobError::Syntax {
                message: misspelt::with_suggestion(&error.to_string()),
            })?
        } else {
            let mut table: toml::Table = toml::from_str(text)
                .map_err(|error| JobError::Syntax { message: error.to_string() })?;
            for text in overrides {
                set(&mut table, text)?;
            }
            serde_path_to_error::deserialize(table).map_err(|error| JobError::Key {
                key: error.path().to_string(),
                message: misspelt::with_suggestion(error.inner().to_string().trim()),
            })?
        };
        job.validate()?;
        Ok(job)
    }

    /// Returns the job with `overrides` (as of [`Job::parse`]) in the place of its values.
    ///
    /// # Errors
    ///
    /// [`JobError`] names the first key that is wrong.
    pub fn with(&self, overrides: &[String]) -> Result<Self, JobError> {
        let text = toml::to_string(self)
            .map_err(|error| JobError::Syntax { message: error.to_string() })?;
        Self::parse(&text, overrides)
    }

    fn validate(&self) -> Result<(), JobError> {
        let refuse = |key, problem: String| Err(JobError::Value { key, problem });
        if self.version != JOB_VERSION {
            return refuse("version", format!("is {}: write {JOB_VERSION}", self.version));
        }
        if self.source.paths.is_empty() {
            return refuse("source.paths", "is empty: name at least one file".to_owned());
        }
        if self.source.query.is_none() && !self.source.tables.is_empty() {
            return refuse("source.tables", "is for `source.query` alone: remove it".to_owned());
        }
        if self.source.tables.keys().any(|name| name.eq_ignore_ascii_case("source")) {
            let problem = "has a table named `source`, as the first one is: name it otherwise";
            return refuse("source.tables", problem.to_owned());
        }
        if self.output.sidecars.is_some() && self.task.kind == TaskKind::Embed {
            return refuse("output.sidecars", "is for texts: remove it".to_owned());
        }
        let positive = [
            ("model.slots", self.model.slots),
            ("model.threads", self.model.threads),
            ("model.context_tokens", self.model.context_tokens),
            ("output.span_rows", Some(self.output.span_rows)),
        ];
        for (key, value) in positive {
            if value == Some(0) {
                return refuse(key, "is 0: write a number above 0".to_owned());
            }
        }
        self.generation.validate()?;
        if self.task.long_audio != LongAudio::Sequential
            && let Some(key) = self.generation.sequential_key()
        {
            let problem = "is for `task.long_audio = \"sequential\"` alone: remove it";
            return refuse(key, problem.to_owned());
        }
        if self.limits.audio_seconds.is_nan() || self.limits.audio_seconds <= 0.0 {
            return refuse(
                "limits.audio_seconds",
                format!("is {}: write a duration above 0", self.limits.audio_seconds),
            );
        }
        if self.source.columns.messages.is_some() {
            let key = "source.columns.messages";
            if self.source.columns.text.is_some() {
                return refuse(key, "and `text` both say what is asked: remove one".to_owned());
            }
            if !matches!(self.task.kind, TaskKind::Answer | TaskKind::Generate) {
                return refuse(key, "is for `answer` and `generate` tasks: remove it".to_owned());
            }
        }
        if let Some((key, kinds)) = self.task.useless_key() {
            return refuse(key, format!("is for {kinds} tasks: remove it"));
        }
        let needed = match self.task.kind {
            TaskKind::Caption => {
                self.source.columns.image.is_none().then_some("source.columns.image")
            }
            TaskKind::Transcribe => {
                self.source.columns.audio.is_none().then_some("source.columns.audio")
            }
            TaskKind::Answer | TaskKind::Generate => (self.task.prompt.is_none()
                && !self.source.columns.says_text())
            .then_some("source.columns.text"),
            TaskKind::Embed => None,
        };
        if let Some(key) = needed {
            let kind = self.task.kind.as_str();
            let also = if key.ends_with("text") { ", or give `task.prompt`" } else { "" };
            return refuse(
                key,
                format!("is missing: a `{kind}` task needs it; name the column{also}"),
            );
        }
        if let Some(schedule) = &self.schedule {
            schedule.validate()?;
        }
        self.hooks.validate()?;
        if let Some((key, problem)) = self.reuse.problem() {
            return refuse(key, problem);
        }
        self.validate_embedding()
    }

    /// Returns the prompt template: the job's, or its task's default; empty where a medium is
    /// embedded.
    #[must_use]
    pub fn prompt_template(&self) -> &str {
        match &self.task.prompt {
            Some(prompt) => prompt,
            None if self.task.kind == TaskKind::Embed && self.source.columns.text.is_none() => "",
            None => self.task.kind.default_prompt(),
        }
    }

    /// Returns, key by key, what decides the answers: the task, what is read, how it is decoded,
    /// and the model's `revision`. Devices, slots and limits of memory are left out, because the
    /// same answers follow from any of them.
    ///
    /// # Panics
    ///
    /// Never: every part of a job is a plain JSON value.
    #[must_use]
    pub fn identity(&self, revision: &str) -> BTreeMap<String, serde_json::Value> {
        let value = |part: serde_json::Result<serde_json::Value>| {
            part.expect("a job is made of strings, numbers and lists")
        };
        let mut limits = serde_json::json!({
            "image_pixels": self.limits.image_pixels,
            "media_bytes": self.limits.media_bytes.0,
            "audio_seconds": self.limits.audio_seconds,
            "text_bytes": self.limits.text_bytes.0,
        });
        // As below, what was not said stays out.
        if !self.limits.damaged_media.is_default() {
            limits["damaged_media"] = value(serde_json::to_value(self.limits.damaged_media));
        }
        let mut identity = BTreeMap::from([
            ("task".to_owned(), value(serde_json::to_value(&self.task))),
            ("source.query".to_owned(), value(serde_json::to_value(&self.source.query))),
            ("source.columns".to_owned(), value(serde_json::to_value(&self.source.columns))),
            ("model.bundle".to_owned(), serde_json::Value::from(self.model.bundle.as_str())),
            ("model.revision".to_owned(), serde_json::Value::from(revision)),
            ("model.precision".to_owned(), value(serde_json::to_value(&self.model.precision))),
            ("model.context_tokens".to_owned(), serde_json::json!(self.model.context_tokens)),
            ("generation".to_owned(), value(serde_json::to_value(&self.generation))),
            ("embedding".to_owned(), value(serde_json::to_value(&self.embedding))),
            ("limits".to_owned(), limits),
            ("output.format".to_owned(), value(serde_json::to_value(self.output.format))),
            ("output.rejects".to_owned(), value(serde_json::to_value(self.output.rejects))),
            ("output.columns".to_owned(), value(serde_json::to_value(&self.output.columns))),
            ("output.span_rows".to_owned(), serde_json::json!(self.output.span_rows)),
        ]);
        // What was not said stays out, so that outputs of before the key was there go on.
        if let Some(format) = self.source.format {
            identity.insert("source.format".to_owned(), value(serde_json::to_value(format)));
        }
        if !self.source.schema.is_empty() {
            let types = value(serde_json::to_value(&self.source.schema));
            identity.insert("source.schema".to_owned(), types);
        }
        if let Some(column) = &self.output.partition_by {
            identity.insert("output.partition_by".to_owned(), column.as_str().into());
        }
        if let Some(sidecars) = &self.output.sidecars {
            identity.insert("output.sidecars".to_owned(), value(serde_json::to_value(sidecars)));
        }
        identity
    }

    /// Returns, key by key, what decides the answer to an input that is given, prompt and media: as
    /// [`Job::identity`], without what decides the input, or what is written.
    ///
    /// # Panics
    ///
    /// Never, as there.
    #[must_use]
    pub fn answer_identity(&self, revision: &str) -> BTreeMap<String, serde_json::Value> {
        let asked = Self {
            // Prompts are in the input as they are rendered.
            task: Task { prompt: None, system: None, ..self.task.clone() },
            ..self.clone()
        };
        let mut identity = asked.identity(revision);
        identity.retain(|key, _| {
            matches!(key.as_str(), "task" | "generation" | "embedding" | "limits")
                || (key.starts_with("model.") && key != "model.bundle")
        });
        identity
    }

    /// Returns the JSON Schema of job files, for editors.
    #[must_use]
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }
}

/// Sets one `key=value` in `table`; tables on the way are made.
fn set(table: &mut toml::Table, text: &str) -> Result<(), JobError> {
    let refuse = || JobError::Override { text: text.to_owned() };
    let (path, value) = text.split_once('=').ok_or_else(refuse)?;
    // A value that is no TOML is meant as plain text, so that paths need no quotes.
    let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().filter(|key| !key.is_empty()).ok_or_else(refuse)?;
    let mut inner = table;
    for key in keys {
        let entry = inner.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        inner = entry.as_table_mut().ok_or_else(|| JobError::Key {
            key: path.to_owned(),
            message: format!("`{key}` is a value, not a table"),
        })?;
    }
    inner.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests;
