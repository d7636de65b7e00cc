//! A published multimodal bundle that hears, run by the real binary.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use legenda_tests::{
    Workplace,
    references::{media, rows, with_bundle},
    text_column, write_table,
};
use serde_json::Value;

const JOB: &str = r#"
version = 1
[task]
kind = "answer"
prompt = "{{ question }}"
[source]
paths = ["table.parquet"]
columns = { id = "id", audio = "sound" }
[output]
path = "out"
columns = ["id"]
span_rows = 4
[generation]
max_new_tokens = 24
"#;

/// Returns the file of a row's one sound; `None` of a row without one.
fn sound(row: &Value) -> Option<Vec<u8>> {
    row["audios"][0][0].as_str().map(media)
}

#[test]
fn questions_about_sounds_and_questions_alone_are_answered_in_one_table() {
    for name in ["ultravox", "voxtral"] {
        let one_file = |row: &Value| {
            let sounds = row["audios"].as_array().unwrap();
            sounds.iter().all(|files| files.as_array().unwrap().len() == 1) && sounds.len() < 2
        };
        let rows = rows(name, |row| one_file(row));
        assert!(rows.len() >= 8 && rows.iter().any(|row| sound(row).is_none()));

        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let questions = rows.iter().map(|row| text(row, "text"));
        let sounds: Vec<Option<Vec<u8>>> = rows.iter().map(sound).collect();
        let ids = StringArray::from_iter_values((0..rows.len()).map(|row| format!("row-{row}")));
        let columns: [(&str, ArrayRef); 3] = [
            ("id", Arc::new(ids)),
            ("question", Arc::new(StringArray::from_iter_values(questions))),
            ("sound", Arc::new(BinaryArray::from_iter(sounds))),
        ];
        let place = Workplace::new();
        write_table(&place.path("table.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 5);
        place.write("job.toml", &format!("{}slots = 3\n", with_bundle(JOB, name)));
        let ended = place.run(&["run", "job.toml"]).expect(0);
        let counts = format!("rows_in {n} == answers {n} + rejects 0", n = rows.len());
        assert!(ended.stdout.contains(&counts), "{}", ended.stdout);

        let expected: Vec<Option<String>> =
            rows.iter().map(|row| Some(text(row, "answer"))).collect();
        assert_eq!(text_column(&place.answers("out"), "answer"), expected, "{name}");
    }
}
