//! The tiny bundles and their reference answers (`tests/references`), run as jobs of the real
//! binary.

use std::{fs, path::PathBuf, sync::Arc};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use serde_json::Value;

use crate::{CommandResult, Workplace, repository, write_table};

/// The job section that limits answers to the length of the reference answers.
pub const REFERENCE_LENGTH: &str = "[generation]\nmax_new_tokens = 24\n";

/// Returns the path of a bundle folder, or of a file in or next to it.
#[must_use]
pub fn bundle(name: &str) -> PathBuf {
    repository().join("tests/references/bundles").join(name)
}

/// Reads an image or audio file.
#[must_use]
pub fn media(name: &str) -> Vec<u8> {
    fs::read(repository().join("tests/references/media").join(name)).unwrap()
}

/// Returns the rows under `key` of a reference for which `keeps` is true.
#[must_use]
pub fn rows_under(key: &str, name: &str, keeps: impl Fn(&Value) -> bool) -> Vec<Value> {
    let text = fs::read_to_string(bundle(&format!("{name}.json"))).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    reference[key].as_array().unwrap().iter().filter(|row| keeps(row)).cloned().collect()
}

/// Returns the rows of a reference for which `keeps` is true.
#[must_use]
pub fn rows(name: &str, keeps: impl Fn(&Value) -> bool) -> Vec<Value> {
    rows_under("rows", name, keeps)
}

/// Returns the questions of a text decoder's reference that have no system message, and their
/// answers.
#[must_use]
pub fn questions(name: &str) -> (Vec<String>, Vec<Option<String>>) {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let rows = rows(name, |row| row["system"].is_null());
    rows.iter().map(|row| (text(row, "text"), Some(text(row, "answer")))).unzip()
}

/// Adds a bundle to a job; keys appended after it belong to `[model]`.
#[must_use]
pub fn with_bundle(job: &str, name: &str) -> String {
    let bundle = toml::Value::from(bundle(name).to_str().unwrap());
    format!("{job}\n[model]\nbundle = {bundle}\n")
}

/// A column of image or audio files.
pub type Files = Vec<Option<Vec<u8>>>;

/// Runs a task of `kind` over `questions` and media columns, three rows at a time. Each column is
/// named after its modality; the answers are written to `out`.
pub fn ask(
    place: &Workplace,
    name: &str,
    kind: &str,
    questions: Vec<String>,
    media: Vec<(&str, Files)>,
) -> CommandResult {
    let roles: String = media.iter().map(|(name, _)| format!(", {name} = \"{name}\"")).collect();
    let job = format!(
        r#"
version = 1
[task]
kind = "{kind}"
prompt = "{{{{ question }}}}"
[source]
paths = ["table.parquet"]
columns = {{ id = "id"{roles} }}
[output]
path = "out"
columns = ["id"]
span_rows = 4
{REFERENCE_LENGTH}"#
    );
    let ids = StringArray::from_iter_values((0..questions.len()).map(|row| format!("row-{row}")));
    let mut columns: Vec<(&str, ArrayRef)> =
        vec![("id", Arc::new(ids)), ("question", Arc::new(StringArray::from(questions)))];
    for (name, files) in media {
        columns.push((name, Arc::new(BinaryArray::from_iter(files))));
    }
    let table = RecordBatch::try_from_iter(columns).unwrap();
    write_table(&place.path("table.parquet"), &table, 5);
    place.write("job.toml", &format!("{}slots = 3\n", with_bundle(&job, name)));
    place.run(&["run", "job.toml"])
}
