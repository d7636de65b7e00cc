//! The source: the table to read.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ColumnType, Incremental,
    strings::{OneOrMany, one_or_many},
};

/// The table to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Files, directories (searched recursively) or glob patterns: paths relative to the job file, or URLs
    /// in object stores (`s3://`, `gs://`, `az://`). Single files can also be `https://` URLs. A single
    /// value needs no brackets.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany")]
    pub paths: Vec<String>,
    /// The format of the files. Default: by extension. If a directory or pattern contains several formats,
    /// the first of Parquet, Arrow, tar, JSON Lines, CSV and media.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<SourceFormat>,
    /// The types of CSV and JSON Lines columns, such as `{ id = "int64", sku = "string" }`. Default: the
    /// narrowest type that preserves every cell. A row with a cell of another type is rejected.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub schema: BTreeMap<String, ColumnType>,
    /// A SQL query that selects rows and may compute columns, such as
    /// `SELECT * FROM source WHERE lang = 'en'`. It runs on each file, as the table `source`, without its
    /// binary columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Additional tables for joins in the query, by name: a file, directory or pattern, as in `paths`. A
    /// change of such a table is a change of the job.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, String>,
    /// The files to read when earlier runs wrote to the same output: `"changed"` (new and changed files),
    /// `"new"` or `"all"`.
    #[serde(default)]
    pub incremental: Incremental,
    /// The handling of a file that cannot be read, such as a damaged one: `"skip"` (counted and listed) or
    /// `"stop"`.
    #[serde(default, skip_serializing_if = "OnBadFile::is_default")]
    pub on_bad_file: OnBadFile,
    /// Whether to follow symlinks that lead out of the folders in `paths`. By default they are skipped and
    /// counted, except links into the object stores of git-annex (`.git/annex/objects`), DVC (`.dvc/cache`)
    /// and the Hub cache (`blobs`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow_links: bool,
    /// The roles of columns.
    #[serde(default)]
    pub columns: Columns,
    /// Folders, relative to the job file, or folder URLs in object stores that paths in media cells may point
    /// to, in addition to the folder of the table file. A relative path that does not exist next to the
    /// table is looked up in them, so that rejects, which are stored elsewhere, can be a source.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany")]
    pub media_dirs: Vec<String>,
    /// Web hosts that URLs in media cells may point to, over HTTPS: `images.example.org`, `*.example.org`
    /// for subdomains, `http://host:8080` for unencrypted HTTP. The default port is that of the scheme, 443
    /// or 80. Names that resolve to private addresses are rejected.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany")]
    pub media_hosts: Vec<String>,
}

impl Source {
    /// Returns a source of `paths` with the default options.
    #[must_use]
    pub fn new(paths: Vec<String>) -> Self {
        Self {
            paths,
            format: None,
            schema: BTreeMap::new(),
            query: None,
            tables: BTreeMap::new(),
            incremental: Incremental::default(),
            on_bad_file: OnBadFile::default(),
            follow_links: false,
            columns: Columns::default(),
            media_dirs: Vec::new(),
            media_hosts: Vec::new(),
        }
    }
}

/// The handling of a source file that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBadFile {
    /// Skip it, count it and list it; read the other files.
    #[default]
    Skip,
    /// Stop before reading any row.
    Stop,
}

impl OnBadFile {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The format of source files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceFormat {
    /// Parquet.
    Parquet,
    /// Arrow IPC: files (also called Feather) and streams.
    Arrow,
    /// WebDataset shards: tar files, optionally compressed with gzip or zstd. Members with the same stem are
    /// one row, with one column per extension and `__key__`.
    Tar,
    /// JSON Lines (one object per line) or a JSON array of objects, optionally compressed with gzip or zstd.
    Jsonl,
    /// CSV or TSV with a header, separated by commas, semicolons, tabs or `|`, optionally compressed with
    /// gzip or zstd.
    Csv,
    /// Image and audio files: each file is one row with `path`, `file_name`, `size` and `media`.
    Media,
    /// OpenAI Batch API files, with the columns `custom_id`, `url`, `parameters`, `system`, `text`, `images`,
    /// `has_images` and `line`.
    OpenaiBatch,
}

/// The roles of columns: the parts of a record that they contain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    /// The id of the row, used in messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The text; templates can also use it as `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A conversation, instead of `text`: a list of `{role, content}`, or such a list as JSON. The last
    /// message must be from the user; templates can use its content as `text`. System messages go before
    /// `task.system`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<String>,
    /// The image or images: bytes, `{bytes, path}`, a path or URL, a `data:` URI, base64, or a list of
    /// these. For WebDataset shards, several extensions can be given: `jpg;jpeg;png;webp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The audio, in the same forms as `image`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<String>,
    /// The sampling seed of the row, instead of `generation.seed`: an integer, or null for none. Rows with
    /// the same seed and the same input get the same answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
}

impl Columns {
    /// Returns whether a column contains the text of a row.
    #[must_use]
    pub fn has_text(&self) -> bool {
        self.text.is_some() || self.messages.is_some()
    }
}
