//! The output.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    SidecarExtensions,
    strings::{OneOrMany, optional_one_or_many},
};

/// The output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// The output directory: a path relative to the job file, or a URL in an object store
    /// (`s3://bucket/folder`).
    pub path: String,
    /// The file format of the answers.
    #[serde(default)]
    pub format: Format,
    /// The location of rejected rows.
    #[serde(default)]
    pub rejects: RejectsMode,
    /// The input columns to carry to the answers. Default: all except the media columns.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_one_or_many"
    )]
    #[schemars(with = "Option<OneOrMany>")]
    pub columns: Option<Vec<String>>,
    /// The input column for Hive partitioning: answers go to folders `column=value`. The column must be a
    /// string, an integer, a boolean or a date, and is stored only in the folder name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_by: Option<String>,
    /// The maximum number of rows of a span. A span is committed as a whole and, after a crash, repeated
    /// as a whole.
    #[serde(default = "default_span_rows")]
    pub span_rows: usize,
    /// Sidecar files: answers next to the image and audio files of a local `media` source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<Sidecars>,
}

impl Output {
    /// Returns an output at `path` with the default options.
    #[must_use]
    pub fn at(path: String) -> Self {
        Self {
            path,
            format: Format::default(),
            rejects: RejectsMode::default(),
            columns: None,
            partition_by: None,
            span_rows: default_span_rows(),
            sidecars: None,
        }
    }
}

/// Sidecar files: answers next to the files that they belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sidecars {
    /// The extension of the sidecars, or a list of them.
    pub extension: SidecarExtensions,
    /// The handling of an existing sidecar.
    pub mode: SidecarMode,
    /// The separator between the existing text and the answer.
    #[serde(default = "default_separator")]
    pub separator: String,
}

impl Sidecars {
    /// The separator of existing text and answer, if the job does not set one.
    pub const SEPARATOR: &'static str = ", ";

    /// Returns the problem of the sidecars of a task with or without timestamps, with its key.
    pub(super) fn problem(&self, has_timestamps: bool) -> Option<(&'static str, String)> {
        let subtitles = self.extension.iter().find(|extension| extension.is_subtitles());
        if self.extension.iter().next().is_none() {
            return Some(("output.sidecars.extension", "must not be empty".to_owned()));
        }
        let name = subtitles?.as_str();
        if !has_timestamps {
            let problem = format!("`{name}` requires `task.timestamps = true`");
            return Some(("output.sidecars.extension", problem));
        }
        let replaces = matches!(self.mode, SidecarMode::Skip | SidecarMode::Overwrite);
        let problem = format!("must be \"skip\" or \"overwrite\" for `{name}`");
        (!replaces).then_some(("output.sidecars.mode", problem))
    }
}

fn default_separator() -> String {
    Sidecars::SEPARATOR.to_owned()
}

/// The extension of a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SidecarExtension {
    /// A text file with the answer.
    Txt,
    /// A JSON object with the answer in the member `answer`; other members are kept.
    Json,
    /// Subtitles in SubRip form; requires `task.timestamps`.
    Srt,
    /// Subtitles in WebVTT form; requires `task.timestamps`.
    Vtt,
}

impl SidecarExtension {
    /// Returns the extension.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Txt => "txt",
            Self::Json => "json",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
        }
    }

    /// Returns whether the sidecar has subtitles.
    #[must_use]
    pub fn is_subtitles(self) -> bool {
        matches!(self, Self::Srt | Self::Vtt)
    }
}

/// The handling of an existing sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SidecarMode {
    /// Keep it unchanged.
    Skip,
    /// Append the answer to its text.
    Append,
    /// Prepend the answer to its text.
    Prepend,
    /// Replace its text with the answer.
    Overwrite,
}

fn default_span_rows() -> usize {
    1024
}

/// The file format of the answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Parquet, compressed with Zstandard.
    #[default]
    Parquet,
    /// Arrow IPC files.
    Arrow,
    /// JSON Lines: one object per row; bytes as base64, embeddings as arrays.
    Jsonl,
    /// CSV with a header: lists, structs and embeddings as JSON, bytes as base64, nulls as empty cells.
    Csv,
}

impl Format {
    /// Returns the format of a file with this extension, in any case.
    #[must_use]
    pub fn from_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "parquet" | "pq" => Some(Self::Parquet),
            "arrow" | "feather" | "ipc" => Some(Self::Arrow),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }

    /// Returns the extension of the part files.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
        }
    }
}

/// The location of rejected rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RejectsMode {
    /// In `rejects/` of the folder next to the output (`OUT.legenda`), with the original row.
    #[default]
    Separate,
    /// Among the answers, with a null answer.
    Inline,
}
