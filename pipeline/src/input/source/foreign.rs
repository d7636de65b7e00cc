//! Detection of unsupported file formats, with remedies.

use legenda_schemas::job::SourceFormat;

use super::compressed::is_compressed;

/// An unsupported format with its remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub(super) kind: &'static str,
    pub(super) remedy: &'static str,
}

impl Foreign {
    /// Returns whether the file has `format` after all, and may be damaged.
    pub(super) fn is(self, format: SourceFormat) -> bool {
        match format {
            SourceFormat::Parquet => self.kind == PARQUET,
            SourceFormat::Arrow => [ARROW_FILE, ARROW_STREAM].contains(&self.kind),
            _ => false,
        }
    }
}

const PARQUET: &str = "a Parquet file";
const ARROW_FILE: &str = "an Arrow IPC (Feather) file";
const ARROW_STREAM: &str = "an Arrow IPC stream";

/// The number of leading bytes needed to detect a format.
pub(super) const HEAD_BYTES: usize = 512;

const TO_CSV: &str = "save the sheet as CSV";
const UNPACK: &str = "decompress it, or recompress it with gzip or zstd";
const TO_PARQUET: &str =
    "convert it to Parquet, for example with `polars.read_ipc(FILE).write_parquet(NEW)`";
const SET_ARROW: &str = "set `source.format = \"arrow\"`";
const EXPORT: &str = "export its rows as Parquet, CSV or JSON Lines";

/// Magic bytes of file formats.
const MAGICS: [(&[u8], Foreign); 19] = [
    (
        b"version https://git-lfs",
        Foreign {
            kind: "a Git LFS pointer, not the file itself",
            remedy: "fetch the file with `git lfs pull`",
        },
    ),
    (b"\xd0\xcf\x11\xe0", Foreign { kind: "an Excel workbook", remedy: TO_CSV }),
    (b"ARROW1", Foreign { kind: ARROW_FILE, remedy: SET_ARROW }),
    (b"FEA1", Foreign { kind: "a Feather file", remedy: TO_PARQUET }),
    (b"\xff\xff\xff\xff", Foreign { kind: ARROW_STREAM, remedy: SET_ARROW }),
    (b"BZh", Foreign { kind: "compressed by bzip2", remedy: UNPACK }),
    (b"\xfd7zXZ\0", Foreign { kind: "compressed by xz", remedy: UNPACK }),
    (b"7z\xbc\xaf\x27\x1c", Foreign { kind: "a 7z archive", remedy: UNPACK }),
    (b"Rar!", Foreign { kind: "a RAR archive", remedy: UNPACK }),
    (b"SQLite format 3\0", Foreign { kind: "an SQLite database", remedy: EXPORT }),
    (b"ORC", Foreign { kind: "an ORC file", remedy: EXPORT }),
    (b"Obj\x01", Foreign { kind: "an Avro file", remedy: EXPORT }),
    (b"\x89HDF\r\n", Foreign { kind: "an HDF5 file", remedy: EXPORT }),
    (b"\x93NUMPY", Foreign { kind: "a NumPy array", remedy: EXPORT }),
    (b"%PDF-", Foreign { kind: "a PDF document", remedy: EXPORT }),
    (b"\xff\xfe", Foreign { kind: "text in UTF-16", remedy: TO_UTF8 }),
    (b"\xfe\xff", Foreign { kind: "text in UTF-16", remedy: TO_UTF8 }),
    (b"\x80\x04\x95", Foreign { kind: "a Python pickle", remedy: EXPORT }),
    (b"PAR1", Foreign { kind: PARQUET, remedy: "set `source.format = \"parquet\"`" }),
];

const TO_UTF8: &str = "convert it to UTF-8, for example with `iconv -f UTF-16 -t UTF-8`";

/// Returns the format of a file that begins with `head`, if it is known and unsupported.
pub(super) fn by_contents(path: &str, head: &[u8]) -> Option<Foreign> {
    if head.starts_with(b"PK\x03\x04") {
        let is_sheet = ["xlsx", "xlsm", "xlsb", "ods"].contains(&&*extension(path));
        return Some(if is_sheet {
            Foreign { kind: "a spreadsheet", remedy: TO_CSV }
        } else {
            Foreign { kind: "a zip archive", remedy: "unpack it" }
        });
    }
    let text = head.trim_ascii_start();
    let begins =
        |tag: &[u8]| text.len() >= tag.len() && text[..tag.len()].eq_ignore_ascii_case(tag);
    if begins(b"<!doctype html") || begins(b"<html") {
        let remedy = "open it: a server may have returned an error page instead of the file";
        return Some(Foreign { kind: "an HTML page", remedy });
    }
    if begins(b"<?xml") {
        return Some(Foreign { kind: "an XML document", remedy: EXPORT });
    }
    // A text may begin with the letters of a magic: `ORCID,name`.
    let is_text = !head.contains(&0)
        && std::str::from_utf8(head).map_or_else(|error| error.error_len().is_none(), |_| true);
    let is_meant = |magic: &[u8]| {
        head.starts_with(magic) && !(is_text && magic.iter().all(u8::is_ascii_alphanumeric))
    };
    MAGICS.iter().find(|(magic, _)| is_meant(magic)).map(|(_, foreign)| *foreign)
}

/// Returns the format of a file that is not Parquet but was assumed to be because of its extension.
pub(super) fn by_name(path: &str, head: &[u8]) -> Option<Foreign> {
    const GZIPPED: &str = "decompress it: Parquet has its own compression";
    if is_compressed(head) {
        return Some(Foreign { kind: "a compressed file", remedy: GZIPPED });
    }
    let is_text = !head.contains(&0) && !head.is_empty();
    match &*extension(path) {
        "parquet" | "pq" => None,
        _ if is_text && !head.starts_with(b"PAR1") => Some(Foreign {
            kind: "text in a file with an unknown extension",
            remedy: "set `source.format`, for example to \"csv\" or \"jsonl\"",
        }),
        _ => None,
    }
}

/// The format and remedy of a single JSON object instead of a list.
pub(super) const ONE_OBJECT: Foreign = Foreign {
    kind: "one JSON object, not a list of objects",
    remedy: "write one row per line, for example with `jq -c '.data[]' FILE > rows.jsonl`",
};

fn extension(path: &str) -> String {
    path.rsplit_once('.').map_or_else(String::new, |(_, extension)| extension.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::{by_contents, by_name};

    #[test]
    fn files_of_other_kinds_are_named() {
        for (path, head, kind) in [
            ("a.csv", &b"version https://git-lfs.github.com/spec/v1\noid sha256:0"[..], "Git LFS"),
            ("a.xlsx", b"PK\x03\x04rest", "spreadsheet"),
            ("a.csv", b"PK\x03\x04rest", "zip"),
            ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", "Excel"),
            ("a.feather", b"ARROW1\0\0", "Arrow"),
            ("a.csv", b"\xff\xfei\0d\0", "UTF-16"),
            ("a.csv", b"\n<!DOCTYPE HTML><html>", "HTML"),
            ("a.jsonl.bz2", b"BZh91AY&SY\xc3\x28", "bzip2"),
        ] {
            let found = by_contents(path, head).unwrap();
            assert!(found.kind.contains(kind), "{path}: {found:?}");
        }
        for head in ["id,text\n1,a\n", "{\"a\": 1}\n", "", "version,a\n", "Pk\n", "ORCID,name\n"] {
            assert_eq!(by_contents("a.csv", head.as_bytes()), None, "{head}");
        }
        assert!(by_name("notes.txt", b"hello\n").unwrap().remedy.contains("source.format"));
        assert!(by_name("t.parquet.gz", b"\x1f\x8b\x08").unwrap().remedy.contains("decompress"));
        assert_eq!(by_name("t.parquet", b"hello\n"), None);
    }
}
