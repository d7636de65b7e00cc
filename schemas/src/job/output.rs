//! Where the answers go.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::strings::{OneOrSeveral, some_one_or_several};

/// Where the answers go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// A directory, relative to the job file, or its URL in an object store (`s3://bucket/folder`).
    pub path: String,
    /// The file format of the parts.
    #[serde(default)]
    pub format: Format,
    /// Where rejected rows go.
    #[serde(default)]
    pub rejects: RejectsPlace,
    /// The columns of the input that are carried to the answers; default: all but the media ones.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_one_or_several"
    )]
    #[schemars(with = "Option<OneOrSeveral>")]
    pub columns: Option<Vec<String>>,
    /// A column of the input by whose values answers are put into folders, `column=value`, as Hive does:
    /// a text, a whole number, a boolean or a date, which then stands in the name of its folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_by: Option<String>,
    /// The most rows of a span: what is written together and, after a crash, done again.
    #[serde(default = "default_span_rows")]
    pub span_rows: usize,
    /// Answers beside the pictures and sounds that the source is, on a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<Sidecars>,
}

/// Answers beside the files that they are of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sidecars {
    /// What their names end in.
    pub extension: SidecarExtension,
    /// What becomes of one that is there.
    pub mode: SidecarMode,
    /// What stands between the text that is there and the answer.
    #[serde(default = "default_separator")]
    pub separator: String,
}

fn default_separator() -> String {
    ", ".to_owned()
}

/// What a sidecar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SidecarExtension {
    /// A text: the answer.
    Txt,
    /// A JSON object, whose member `answer` is the answer; others are kept.
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

/// What becomes of a sidecar that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SidecarMode {
    /// It stays as it is.
    Skip,
    /// The answer comes behind what it says.
    Append,
    /// The answer comes before what it says.
    Prepend,
    /// The answer takes the place of what it says.
    Overwrite,
}

fn default_span_rows() -> usize {
    1024
}

/// The file format of the parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Parquet, compressed with Zstandard.
    #[default]
    Parquet,
    /// Arrow IPC files.
    Arrow,
    /// JSON Lines: an object per row; bytes as base64, embeddings as arrays.
    Jsonl,
}

impl Format {
    /// Returns the extension of the parts' file names.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
            Self::Jsonl => "jsonl",
        }
    }
}

/// Where rejected rows go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RejectsPlace {
    /// To `rejects/` in the folder beside the output (`OUT.legenda`), with the original row.
    #[default]
    Separate,
    /// Among the answers, with a null answer.
    Inline,
}
