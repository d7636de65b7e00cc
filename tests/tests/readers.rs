//! A published multimodal bundle, run by the real binary.

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
kind = "caption"
prompt = "{{ question }}"
[source]
paths = ["table.parquet"]
columns = { id = "id", image = "image" }
[output]
path = "out"
columns = ["id"]
span_rows = 4
[generation]
max_new_tokens = 24
"#;

#[test]
fn pictures_of_all_sizes_are_captioned_and_a_broken_one_is_rejected() {
    let rows = rows("smolvlm", |row| row["images"].as_array().unwrap().len() == 1);
    assert!(rows.len() >= 8);

    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let mut questions: Vec<String> = rows.iter().map(|row| text(row, "text")).collect();
    let mut pictures: Vec<Vec<u8>> =
        rows.iter().map(|row| media(row["images"][0].as_str().unwrap())).collect();
    let expected: Vec<Option<String>> = rows.iter().map(|row| Some(text(row, "answer"))).collect();
    // The broken one stands among the others.
    let broken = 3;
    questions.insert(broken, "Hello".to_owned());
    pictures.insert(broken, pictures[0][..pictures[0].len() / 2].to_vec());
    let ids = StringArray::from_iter_values((0..pictures.len()).map(|row| format!("row-{row}")));
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(ids)),
        ("question", Arc::new(StringArray::from(questions))),
        ("image", Arc::new(BinaryArray::from_iter_values(pictures))),
    ];

    let place = Workplace::new();
    let table = RecordBatch::try_from_iter(columns).unwrap();
    write_table(&place.path("table.parquet"), &table, 5);
    place.write("job.toml", &format!("{}slots = 3\n", with_bundle(JOB, "smolvlm")));
    let ended = place.run(&["run", "job.toml"]).expect(0);
    let counts = format!("rows_in {} == answers {} + rejects 1", rows.len() + 1, rows.len());
    assert!(ended.stdout.contains(&counts), "{}", ended.stdout);

    let answers = place.answers("out");
    let answered: Vec<_> = text_column(&answers, "id").into_iter().map(Option::unwrap).collect();
    assert!(!answered.contains(&format!("row-{broken}")));
    // Answers stand in the order of the table.
    assert_eq!(text_column(&answers, "answer"), expected);
    let rejects = place.rejects("out");
    assert_eq!(text_column(&rejects, "id"), [Some(format!("row-{broken}"))]);
    assert_eq!(text_column(&rejects, "legenda_code"), [Some("media_damaged".to_owned())]);
}
