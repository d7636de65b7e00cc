//! Spans: contiguous row ranges of one input file, the unit of commit.

use serde::{Deserialize, Serialize};

use crate::sha256_hex;

/// An input file at the time of planning.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceObject {
    /// The absolute path or URL.
    pub path: String,
    /// The size.
    pub size_bytes: u64,
    /// The modification time in Unix nanoseconds; with the size, it identifies a changed file.
    pub modified_ns: u64,
    /// The ETag of this version in an object store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// A contiguous row range of one row group of one input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The file.
    pub object: SourceObject,
    /// The index of the row group.
    pub row_group: usize,
    /// The first row, relative to the row group.
    pub row_start: usize,
    /// The number of rows.
    pub n_rows: usize,
    /// The row of the file at `row_start`, for messages.
    pub file_row_start: u64,
}

/// The name of a span, used in the file name of its part and as the key of its ledger entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpanId(String);

/// The maximum number of characters of the file name in the name of a span.
const STEM_CHARS_MAX: usize = 40;
/// The number of hex digits of the digest in the name of a span: 64 bits, so that the collision probability
/// among a million spans is below 1e-7.
const DIGEST_CHARS: usize = 16;

impl Span {
    /// Returns the name of the span for a job with `fingerprint`.
    ///
    /// The names of the spans of one file sort in row order. The digest covers the whole identity, so a
    /// changed file or another job gives another name.
    #[must_use]
    pub fn id(&self, fingerprint: &Fingerprint) -> SpanId {
        let stem: String = std::path::Path::new(&self.object.path)
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' })
            .take(STEM_CHARS_MAX)
            .collect();
        let numbers = [
            self.object.size_bytes,
            self.object.modified_ns,
            self.row_group as u64,
            self.row_start as u64,
            self.n_rows as u64,
        ]
        .map(u64::to_le_bytes)
        .concat();
        let etag = self.object.etag.as_deref().unwrap_or_default();
        let digest = sha256_hex([
            self.object.path.as_bytes(),
            etag.as_bytes(),
            &numbers,
            fingerprint.as_str().as_bytes(),
        ]);
        SpanId(format!(
            "{stem}-g{:05}-r{:09}-{}",
            self.row_group,
            self.row_start,
            &digest[..DIGEST_CHARS]
        ))
    }

    /// Returns the row of the file at `position` in the row group; `position` must be in the span.
    #[must_use]
    pub fn file_row(&self, position: usize) -> u64 {
        self.file_row_start + (position - self.row_start) as u64
    }
}

impl SpanId {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the file name of the span's ledger entry, `<span>.json`.
    #[must_use]
    pub fn ledger_name(&self) -> String {
        format!("{}.json", self.0)
    }
}

impl std::fmt::Display for SpanId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The digest of everything in a job that determines its answers (see [`crate::job::Job::identity`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Creates a fingerprint from `parts`.
    #[must_use]
    pub fn from_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self(sha256_hex(parts))
    }

    /// Returns the digest as hex.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Fingerprint, SourceObject, Span};

    fn span(size_bytes: u64, row_start: usize) -> Span {
        let object = SourceObject {
            path: "/data/a b.parquet".into(),
            size_bytes,
            modified_ns: 7,
            etag: None,
        };
        Span { object, row_group: 2, row_start, n_rows: 10, file_row_start: 30 }
    }

    #[test]
    fn the_name_contains_the_position_and_changes_with_the_identity() {
        let job = Fingerprint::from_parts([b"job".as_slice()]);
        let name = span(1, 20).id(&job);
        assert!(name.as_str().starts_with("a_b-g00002-r000000020-"), "{name}");
        assert_eq!(name, span(1, 20).id(&job));
        assert_ne!(name, span(2, 20).id(&job));
        assert_ne!(name, span(1, 20).id(&Fingerprint::from_parts([b"other".as_slice()])));
    }
}
