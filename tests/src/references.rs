//! The tiny bundles and their stored answers (`tests/references`), as jobs of the real binary.

use std::{fs, path::PathBuf, sync::Arc};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use serde_json::Value;

use crate::{Ended, Workplace, repository, write_table};

/// What a job adds so that its answers are as long as those of the references.
pub const AS_LONG: &str = "[generation]\nmax_new_tokens = 24\n";

/// Returns the folder of a bundle, or a file of it or beside it.
#[must_use]
pub fn bundle(name: &str) -> PathBuf {
    repository().join("tests/references/bundles").join(name)
}

/// Reads a picture or a sound.
#[must_use]
pub fn media(name: &str) -> Vec<u8> {
    fs::read(repository().join("tests/references/media").join(name)).unwrap()
}

/// Returns the rows of a reference that stand under `key` and that `keeps`.
#[must_use]
pub fn rows_under(key: &str, name: &str, keeps: impl Fn(&Value) -> bool) -> Vec<Value> {
    let text = fs::read_to_string(bundle(&format!("{name}.json"))).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    reference[key].as_array().unwrap().iter().filter(|row| keeps(row)).cloned().collect()
}

/// Returns the rows of a reference that `keeps`.
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

/// Adds a bundle to a job; keys that follow are the model's.
#[must_use]
pub fn with_bundle(job: &str, name: &str) -> String {
    let bundle = toml::Value::from(bundle(name).to_str().unwrap());
    format!("{job}\n[model]\nbundle = {bundle}\n")
}

/// The files of a column of pictures or sounds.
pub type Files = Vec<Option<Vec<u8>>>;

/// Asks a bundle `questions` about the files of columns called after their `media`, three rows at a
/// time, as a task of this kind; the answers stand in `out`.
pub fn ask(
    place: &Workplace,
    name: &str,
    kind: &str,
    questions: Vec<String>,
    media: Vec<(&str, Files)>,
) -> Ended {
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
{AS_LONG}"#
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
