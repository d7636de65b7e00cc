//! Spans: contiguous row ranges of one input file, the unit of commit.

use serde::{Deserialize, Serialize};

use crate::sha256_hex;

/// One input file as it was when the run was planned.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceObject {
    /// Where it lies: an absolute path, or a URL.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// When it was last changed, in nanoseconds since 1970; with the size it tells a changed file.
    pub modified_ns: u64,
    /// What an object store calls this version of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// A contiguous row range of one row group of one input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The file.
    pub object: SourceObject,
    /// Which row group of the file.
    pub row_group: usize,
    /// The first row, counted within the row group.
    pub row_start: usize,
    /// How many rows.
    pub n_rows: usize,
    /// The row of the file that `row_start` is, for messages.
    pub file_row_start: u64,
}

/// The name of a span: part of its part's file name and the key of its ledger entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpanId(String);

/// Longest piece of a file's own name in a span's name.
const STEM_CHARS_MAX: usize = 40;
/// Hex digits of the digest in a span's name: 64 bits, so that a clash among a million spans has a
/// probability below 1e-7.
const DIGEST_CHARS: usize = 16;

impl Span {
    /// Returns the span's name under the job fingerprint `fingerprint`.
    ///
    /// Names of the spans of one file sort in row order; the digest covers the whole identity, so
    /// a changed file or another job gives another name.
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

    /// Returns which row of the file stands at `position` of the row group, a row of the span.
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

/// The digest of everything about a job that decides its answers (see [`crate::job::Job`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Takes the digest of `parts`.
    #[must_use]
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
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
    fn name_tells_the_place_and_changes_with_the_identity() {
        let job = Fingerprint::of([b"job".as_slice()]);
        let name = span(1, 20).id(&job);
        assert!(name.as_str().starts_with("a_b-g00002-r000000020-"), "{name}");
        assert_eq!(name, span(1, 20).id(&job));
        assert_ne!(name, span(2, 20).id(&job));
        assert_ne!(name, span(1, 20).id(&Fingerprint::of([b"other".as_slice()])));
    }
}
