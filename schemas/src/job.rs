//! The job file: source, model, task and output.
//!
//! Parsing is strict: unknown keys and wrong types are errors that name the key. Checks that need the
//! table or the model (missing columns, templates, unsupported tasks) are in the other crates; they also
//! run before any row is read.

mod answer;
mod column_type;
mod embedding;
mod generation;
mod incremental;
mod misspelled;
mod output;
mod reuse;
mod schedule;
mod sidecar_extensions;
mod source;
mod strings;
mod task;
mod written;

use std::collections::BTreeMap;

pub use answer::{AnswerColumn, AnswerOptions, AnswerSchema};
pub use column_type::{ColumnType, ColumnTypeError};
pub use embedding::{EmbeddingOptions, Pooling};
pub use generation::GenerationOptions;
pub use incremental::Incremental;
pub use output::{Format, Output, RejectsMode, SidecarExtension, SidecarMode, Sidecars};
pub use reuse::Reuse;
pub use schedule::{CatchUp, Hook, HookKind, Hooks, Schedule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use sidecar_extensions::SidecarExtensions;
pub use source::{Columns, OnBadFile, Source, SourceFormat};
pub use task::{LongAudio, Task, TaskKind};

use crate::{
    precision::PrecisionChoice,
    units::{ByteSize, ErrorBudget},
};

/// The version of the job file format that this crate reads.
pub const JOB_VERSION: u32 = 1;

/// An error in a job file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// The text is not TOML, or a key is unknown or has a wrong type; the message shows the line.
    #[error("{problem}")]
    Syntax {
        /// The message of the TOML parser, with line and column.
        problem: String,
    },
    /// A key from the file or `--set` is unknown or has a wrong type.
    #[error("`{key}`: {problem}")]
    Key {
        /// The path of the key, such as `model.slots`.
        key: String,
        /// The error.
        problem: String,
    },
    /// A value has the right type but is invalid.
    #[error("`{key}` {problem}")]
    Value {
        /// The path of the key.
        key: &'static str,
        /// The error and the expected value.
        problem: String,
    },
    /// An override is not `key=value`.
    #[error("invalid override `--set {text}`: expected `key=value`, such as `model.slots=4`")]
    Override {
        /// The input.
        text: String,
    },
}

/// A job file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The version of the file format: 1.
    #[serde(default = "job_version")]
    pub version: u32,
    /// The task to run on every row.
    pub task: Task,
    /// The table to read.
    pub source: Source,
    /// The model to run.
    #[serde(default)]
    pub model: ModelChoice,
    /// Decoding options.
    #[serde(default)]
    pub generation: GenerationOptions,
    /// The form of the answers. Default: any text.
    #[serde(default, skip_serializing_if = "AnswerOptions::is_default")]
    pub answer: AnswerOptions,
    /// Embedding options.
    #[serde(default)]
    pub embedding: EmbeddingOptions,
    /// Limits on resources and rows.
    #[serde(default)]
    pub limits: Limits,
    /// Reuse of answers for identical inputs.
    #[serde(default, skip_serializing_if = "Reuse::is_default")]
    pub reuse: Reuse,
    /// The output.
    pub output: Output,
    /// The schedule for `legenda schedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// The hooks that `legenda schedule` runs after a run.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
}

fn job_version() -> u32 {
    JOB_VERSION
}

/// The model and how to run it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelChoice {
    /// The model: `legenda-tiny` (embedded), a directory relative to the job file, or a model on the
    /// Hugging Face Hub: `hf://owner/name`, `hf://owner/name@revision`, or a short name of `legenda models`.
    pub bundle: String,
    /// The precision of the weights: `fp32`, `fp16`, `q8`, `int8`, `uint8`, `q4`, `q4f16`, `bnb4`, or a
    /// table with one precision per graph. Default: the first of these that the model has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<PrecisionChoice>,
    /// The device to run on.
    pub device: Device,
    /// Which form of the model's graphs runs.
    pub graphs: GraphForm,
    /// The number of ONNX Runtime threads. Default: one per core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// The number of slots: rows that are generated concurrently. Default: derived from the memory limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<usize>,
    /// The maximum number of tokens of a row, prompt and answer together. Default: the context length of
    /// the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<usize>,
}

impl Default for ModelChoice {
    fn default() -> Self {
        Self {
            bundle: "legenda-tiny".to_owned(),
            precision: None,
            device: Device::Auto,
            graphs: GraphForm::Rewritten,
            threads: None,
            slots: None,
            context_tokens: None,
        }
    }
}

/// A form of the graphs of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GraphForm {
    /// Rewritten for speed where that is possible and a test at load gives the same results.
    #[default]
    Rewritten,
    /// As published.
    Published,
}

/// A device to run a model on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// CUDA if its execution provider loads, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA; an error if it is not available.
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

/// Limits on resources and rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The maximum memory of the process.
    pub memory: ByteSize,
    /// The maximum number of rejected rows before the run stops: a percentage (`"5%"`) or a number of
    /// rows (`"200"`). Default: half of the rows, for runs of at least 100 rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_budget: Option<ErrorBudget>,
    /// The maximum number of pixels of an image. Larger images are rejected before decoding.
    pub image_pixels: u64,
    /// The maximum encoded size of an image or audio file.
    pub media_bytes: ByteSize,
    /// The maximum duration of audio in seconds.
    pub audio_seconds: f64,
    /// The maximum size of the text of a prompt.
    pub text_bytes: ByteSize,
    /// The handling of rows with a damaged image. Damaged audio is always rejected.
    #[serde(skip_serializing_if = "DamagedMedia::is_default")]
    pub damaged_media: DamagedMedia,
}

/// The handling of rows with a damaged image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DamagedMedia {
    /// Reject them (`media_damaged`).
    #[default]
    Reject,
    /// Answer them from the decodable part, with the flag `media_damaged` in `legenda_flags`. Images
    /// without any decodable part are rejected.
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
    /// Parses a job from TOML and applies `overrides` (`key=value`; the key is a dotted path, the value is
    /// TOML or else plain text).
    ///
    /// # Errors
    ///
    /// [`JobError`] names the first invalid key.
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self, JobError> {
        let job: Self = if overrides.is_empty() {
            // Directly from the text, so that the error shows the line.
            toml::from_str(text).map_err(|error| JobError::Syntax {
                problem: misspelled::with_suggestion(&error.to_string()),
            })?
        } else {
            let mut table: toml::Table = toml::from_str(text)
                .map_err(|error| JobError::Syntax { problem: error.to_string() })?;
            for text in overrides {
                set(&mut table, text)?;
            }
            serde_path_to_error::deserialize(table).map_err(|error| JobError::Key {
                key: error.path().to_string(),
                problem: misspelled::with_suggestion(error.inner().to_string().trim()),
            })?
        };
        job.validate()?;
        Ok(job)
    }

    /// Returns the job with `overrides` applied, as in [`Job::parse`].
    ///
    /// # Errors
    ///
    /// [`JobError`] names the first invalid key.
    pub fn with_overrides(&self, overrides: &[String]) -> Result<Self, JobError> {
        let text = toml::to_string(self)
            .map_err(|error| JobError::Syntax { problem: error.to_string() })?;
        Self::parse(&text, overrides)
    }

    fn validate(&self) -> Result<(), JobError> {
        let invalid = |key, problem: String| Err(JobError::Value { key, problem });
        if self.version != JOB_VERSION {
            return invalid("version", format!("must be {JOB_VERSION}, got {}", self.version));
        }
        if self.source.paths.is_empty() {
            return invalid("source.paths", "must not be empty".to_owned());
        }
        if self.source.query.is_none() && !self.source.tables.is_empty() {
            return invalid("source.tables", "requires `source.query`".to_owned());
        }
        if self.source.tables.keys().any(|name| name.eq_ignore_ascii_case("source")) {
            let problem = "must not contain the name `source`, which is the main table";
            return invalid("source.tables", problem.to_owned());
        }
        if self.output.sidecars.is_some() && self.task.kind == TaskKind::Embed {
            let problem = "is not supported for `embed` tasks";
            return invalid("output.sidecars", problem.to_owned());
        }
        if let Some(sidecars) = &self.output.sidecars
            && let Some((key, problem)) = sidecars.problem(self.task.timestamps)
        {
            return invalid(key, problem);
        }
        let positive = [
            ("model.slots", self.model.slots),
            ("model.threads", self.model.threads),
            ("model.context_tokens", self.model.context_tokens),
            ("output.span_rows", Some(self.output.span_rows)),
        ];
        for (key, value) in positive {
            if value == Some(0) {
                return invalid(key, "must be above 0, got 0".to_owned());
            }
        }
        self.generation.validate()?;
        if self.task.long_audio != LongAudio::Sequential
            && let Some(key) = self.generation.sequential_key()
        {
            let problem = "requires `task.long_audio = \"sequential\"`";
            return invalid(key, problem.to_owned());
        }
        if self.limits.audio_seconds.is_nan() || self.limits.audio_seconds <= 0.0 {
            return invalid(
                "limits.audio_seconds",
                format!("must be above 0, got {}", self.limits.audio_seconds),
            );
        }
        if self.source.columns.messages.is_some() {
            let key = "source.columns.messages";
            if self.source.columns.text.is_some() {
                return invalid(key, "conflicts with `source.columns.text`: remove one".to_owned());
            }
            if !matches!(self.task.kind, TaskKind::Answer | TaskKind::Generate) {
                let problem = "is only supported for `answer` and `generate` tasks";
                return invalid(key, problem.to_owned());
            }
        }
        if let Some((key, kinds)) = self.task.inapplicable_key() {
            return invalid(key, format!("is only supported for {kinds} tasks"));
        }
        let missing = match self.task.kind {
            TaskKind::Caption => {
                self.source.columns.image.is_none().then_some("source.columns.image")
            }
            TaskKind::Transcribe => {
                self.source.columns.audio.is_none().then_some("source.columns.audio")
            }
            TaskKind::Answer | TaskKind::Generate => (self.task.prompt.is_none()
                && !self.source.columns.has_text())
            .then_some("source.columns.text"),
            TaskKind::Embed => None,
        };
        if let Some(key) = missing {
            let kind = self.task.kind.as_str();
            let unless = if key.ends_with("text") { " without `task.prompt`" } else { "" };
            return invalid(key, format!("is required for `{kind}` tasks{unless}"));
        }
        if let Some(schedule) = &self.schedule {
            schedule.validate()?;
        }
        self.hooks.validate()?;
        if let Some((key, problem)) = self.reuse.problem() {
            return invalid(key, problem);
        }
        self.validate_answer()?;
        self.validate_embedding()
    }

    /// Returns the prompt template: that of the job, else the default of the task. It is empty if images or
    /// audio are embedded.
    #[must_use]
    pub fn prompt_template(&self) -> &str {
        match &self.task.prompt {
            Some(prompt) => prompt,
            None if self.task.kind == TaskKind::Embed && self.source.columns.text.is_none() => "",
            None => self.task.kind.default_prompt(),
        }
    }

    /// Returns everything that determines the answers, by key: the task, the source, the decoding options and
    /// the model's `revision`. Devices, slots and memory limits are left out, because they do not change
    /// answers.
    ///
    /// # Panics
    ///
    /// Never: every part of a job is a plain JSON value.
    #[must_use]
    pub fn identity(&self, revision: &str) -> BTreeMap<String, serde_json::Value> {
        let value =
            |part: serde_json::Result<serde_json::Value>| part.expect("a job is plain JSON");
        let mut limits = serde_json::json!({
            "image_pixels": self.limits.image_pixels,
            "media_bytes": self.limits.media_bytes.0,
            "audio_seconds": self.limits.audio_seconds,
            "text_bytes": self.limits.text_bytes.0,
        });
        // Defaults are left out, as below.
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
        // Defaults are left out, so that outputs from before a key existed can be resumed.
        if let Some(format) = self.source.format {
            identity.insert("source.format".to_owned(), value(serde_json::to_value(format)));
        }
        if !self.source.schema.is_empty() {
            let types = value(serde_json::to_value(&self.source.schema));
            identity.insert("source.schema".to_owned(), types);
        }
        if !self.answer.is_default() {
            identity.insert("answer".to_owned(), value(serde_json::to_value(&self.answer)));
        }
        if let Some(column) = &self.output.partition_by {
            identity.insert("output.partition_by".to_owned(), column.as_str().into());
        }
        if let Some(sidecars) = &self.output.sidecars {
            identity.insert("output.sidecars".to_owned(), value(serde_json::to_value(sidecars)));
        }
        identity
    }

    /// Returns everything that determines the answer to a given input (prompt and media), by key: the part
    /// of [`Job::identity`] that is not about the source or the output.
    ///
    /// # Panics
    ///
    /// Never, as in [`Job::identity`].
    #[must_use]
    pub fn answer_identity(&self, revision: &str) -> BTreeMap<String, serde_json::Value> {
        let without_prompts = Self {
            // The rendered prompts are part of the input.
            task: Task { prompt: None, system: None, ..self.task.clone() },
            ..self.clone()
        };
        let mut identity = without_prompts.identity(revision);
        identity.retain(|key, _| {
            matches!(key.as_str(), "task" | "generation" | "answer" | "embedding" | "limits")
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

/// Applies one `key=value` override to `table`; creates intermediate tables.
fn set(table: &mut toml::Table, text: &str) -> Result<(), JobError> {
    let invalid = || JobError::Override { text: text.to_owned() };
    let (path, value) = text.split_once('=').ok_or_else(invalid)?;
    // A value that is not TOML is plain text, so that paths need no quotes.
    let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().filter(|key| !key.is_empty()).ok_or_else(invalid)?;
    let mut inner = table;
    for key in keys {
        let entry = inner.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        inner = entry.as_table_mut().ok_or_else(|| JobError::Key {
            key: path.to_owned(),
            problem: format!("`{key}` is a value, not a table"),
        })?;
    }
    inner.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests;
