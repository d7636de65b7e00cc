//! The output.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::strings::{OneOrMany, optional_one_or_many};

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

/// Sidecar files: answers next to the files that they belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sidecars {
    /// The extension of the sidecars.
    pub extension: SidecarExtension,
    /// The handling of an existing sidecar.
    pub mode: SidecarMode,
    /// The separator between the existing text and the answer.
    #[serde(default = "default_separator")]
    pub separator: String,
}

fn default_separator() -> String {
    ", ".to_owned()
}

/// The extension of a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SidecarExtension {
    /// A text file with the answer.
    Txt,
    /// A JSON object with the answer in the member `answer`; other members are kept.
    Json,
}

impl SidecarExtension {
    /// Returns the extension.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Txt => "txt",
            Self::Json => "json",
        }
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
}

impl Format {
    /// Returns the extension of the part files.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
            Self::Jsonl => "jsonl",
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
