//! The table to read.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ColumnType, Incremental,
    strings::{OneOrSeveral, one_or_several},
};

/// The table to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Files, directories (every file below that is of the format) or glob patterns, relative to the
    /// job file, or URLs of such in object stores (`s3://`, `gs://`, `az://`), or of files (`https://`).
    /// A single one may be written without brackets.
    #[serde(deserialize_with = "one_or_several")]
    #[schemars(with = "OneOrSeveral")]
    pub paths: Vec<String>,
    /// What the files are; default: what their extensions say, and of a directory or pattern with
    /// several the first of Parquet, Arrow, tar, JSON Lines, CSV and media that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<SourceFormat>,
    /// Types of columns of CSV and JSON Lines, such as `{ id = "int64", sku = "string" }`; default: the
    /// narrowest that changes no cell of the table. A cell that is not of the type costs its row.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub schema: BTreeMap<String, ColumnType>,
    /// A SQL query that chooses rows, such as `SELECT * FROM source WHERE lang = 'en'`, and may compute
    /// columns: asked of each file, named `source`, without its columns of bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Further tables that the query may join, by their names in it: a file, folder or pattern, as in
    /// `paths`. When one changes, the job does.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, String>,
    /// Which files are read when earlier runs have written to the same output: `"changed"` (new and
    /// changed ones), `"new"` or `"all"`.
    #[serde(default)]
    pub incremental: Incremental,
    /// What becomes of a file that cannot be read, such as a damaged one: `"skip"` (it is counted and
    /// named) or `"stop"`.
    #[serde(default, skip_serializing_if = "OnBadFile::is_default")]
    pub on_bad_file: OnBadFile,
    /// Whether links are read that lead out of the folders that `paths` name. Without it they are skipped and
    /// counted, but for those to where git-annex (`.git/annex/objects`), DVC (`.dvc/cache`) and the cache of
    /// the Hub (`blobs`) keep the contents of a folder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow_links: bool,
    /// Which column is what.
    #[serde(default)]
    pub columns: Columns,
    /// Folders, relative to the job file, or URLs of folders in stores, that media cells with a path
    /// may lead to, beside the folder of the table's own file. A relative path that is not there is looked
    /// for in them, so that rejects, which lie elsewhere, can be a source.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_several")]
    #[schemars(with = "OneOrSeveral")]
    pub media_dirs: Vec<String>,
    /// Hosts of the web that media cells with a URL may lead to, by HTTPS: `images.example.org`,
    /// `*.example.org` for those below a name, `http://host:8080` for one without encryption. A host
    /// without a port is meant at that of its scheme, 443 or 80. Names that lead to addresses of a private
    /// network are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_several")]
    #[schemars(with = "OneOrSeveral")]
    pub media_hosts: Vec<String>,
}

/// What becomes of a file of the source that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBadFile {
    /// It is skipped, counted and named; the others are read.
    #[default]
    Skip,
    /// Nothing is read.
    Stop,
}

impl OnBadFile {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What the files of a source are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceFormat {
    /// Parquet.
    Parquet,
    /// Arrow IPC: files (also called Feather) and streams.
    Arrow,
    /// WebDataset shards: tar files, which may be compressed by gzip or zstd, whose members of one stem
    /// are a row, with a column for each
    /// extension and `__key__`.
    Tar,
    /// JSON Lines, an object per line, or a list of objects; may be compressed by gzip or zstd.
    Jsonl,
    /// CSV or TSV with a header, separated by commas, semicolons, tabs or `|`; may be compressed by gzip or
    /// zstd.
    Csv,
    /// Pictures and sounds: each file is a row with `path`, `file_name`, `size` and `media`.
    Media,
    /// Batch files of OpenAI's API, with `custom_id`, `url`, `parameters`, `system`, `text`, `images`,
    /// `has_images` and `line`.
    OpenaiBatch,
}

/// Which column of the table is what part of a record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    /// A name for the row, used in messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The text, which templates also see as `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// In the place of `text`, a conversation: a list of `{role, content}`, or such a list as JSON. What
    /// its last message says, which is the user's, templates see as `text`; its system messages go before
    /// that of the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<String>,
    /// The image or images: bytes, `{bytes, path}`, a path or URL, a `data:` URI, base64, or a list of
    /// those. Of WebDataset shards several extensions may be named: `jpg;jpeg;png;webp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The audio: as `image`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<String>,
    /// The seed of the row's draws, in place of `generation.seed`: a whole number, or null for none.
    /// Rows with the same seed and the same input get the same answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
}

impl Columns {
    /// Returns whether a column says the text of a row.
    #[must_use]
    pub fn says_text(&self) -> bool {
        self.text.is_some() || self.messages.is_some()
    }
}
