//! Commands that open an output in DuckDB, Polars and pandas.

use std::path::Path;

use legenda_schemas::job::Format;

/// Returns the commands for a file.
pub(crate) fn file(format: Format, path: &Path) -> Vec<String> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    commands(format, &path.to_string_lossy(), Parts::One)
}

/// Returns the commands for the parts in a folder.
pub(crate) fn folder(format: Format, path: &str, is_partitioned: bool) -> Vec<String> {
    commands(format, path, if is_partitioned { Parts::Partitioned } else { Parts::Many })
}

/// The files of a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    One,
    Many,
    /// In folders that encode a column.
    Partitioned,
}

fn commands(format: Format, path: &str, parts: Parts) -> Vec<String> {
    // A pattern in the path itself would match other files.
    if parts != Parts::One && path.contains(['*', '?', '[']) {
        return Vec::new();
    }
    let extension = format.extension();
    let pattern = match parts {
        Parts::One => path.to_owned(),
        Parts::Many => format!("{path}/*.{extension}"),
        Parts::Partitioned => format!("{path}/**/*.{extension}"),
    };
    let is_partitioned = parts == Parts::Partitioned;
    let hive = |option: &str| if is_partitioned { option.to_owned() } else { String::new() };
    let text = python(&pattern);
    let mut commands = Vec::new();
    let reader = match format {
        Format::Parquet => Some("read_parquet"),
        Format::Csv => Some("read_csv"),
        Format::Jsonl => Some("read_json"),
        // Needs an extension.
        Format::Arrow => None,
    };
    if let Some(reader) = reader {
        let option = hive(", hive_partitioning = true");
        let sql = format!("FROM {reader}('{}'{option})", pattern.replace('\'', "''"));
        commands.push(("duckdb", format!("duckdb -c {}", shell(&sql))));
    }
    let option = hive(", hive_partitioning=True");
    let scan = match format {
        Format::Parquet => "scan_parquet",
        Format::Csv => "scan_csv",
        Format::Jsonl => "scan_ndjson",
        Format::Arrow => "scan_ipc",
    };
    // Polars does not read the columns in the names of folders of text formats.
    if !is_partitioned || matches!(format, Format::Parquet | Format::Arrow) {
        let code = format!("import polars; print(polars.{scan}({text}{option}).collect())");
        commands.push(("polars", format!("python3 -c {}", shell(&code))));
    }
    let (reader, option) = match format {
        Format::Parquet => ("read_parquet", ""),
        Format::Csv => ("read_csv", ""),
        Format::Jsonl => ("read_json", ", lines=True"),
        Format::Arrow => ("read_feather", ""),
    };
    let code = match parts {
        Parts::One => Some(format!("import pandas; print(pandas.{reader}({text}{option}))")),
        _ if format == Format::Parquet => {
            Some(format!("import pandas; print(pandas.{reader}({}))", python(path)))
        }
        Parts::Many => Some(format!(
            "import glob, pandas; print(pandas.concat(pandas.{reader}(part{option}) for part in \
             sorted(glob.glob({text}))))"
        )),
        Parts::Partitioned => None,
    };
    commands.extend(code.map(|code| ("pandas", format!("python3 -c {}", shell(&code)))));
    commands.into_iter().map(|(name, command)| format!("open in {name}: {command}")).collect()
}

/// Writes a text as a Python literal: JSON escapes are valid in Python.
fn python(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns a word for a POSIX shell, quoted if that is needed.
pub(crate) fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) { word.to_owned() } else { shell(word) }
}

fn shell(word: &str) -> String {
    // SQL has quotes of its own.
    if word.contains('\'') && !word.contains(['"', '$', '`', '\\', '!']) {
        return format!("\"{word}\"");
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}
