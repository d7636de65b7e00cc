//! A published multimodal bundle that hears, run by the real binary.

use legenda_tests::{
    Workplace,
    references::{ask, media, rows},
    text_column,
};
use serde_json::Value;

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
        let questions = rows.iter().map(|row| text(row, "text")).collect();
        let table = (questions, rows.iter().map(sound).collect());
        let place = Workplace::new();
        let ended = ask(&place, name, "answer", "audio", table).expect(0);
        let counts = format!("rows_in {n} == answers {n} + rejects 0", n = rows.len());
        assert!(ended.stdout.contains(&counts), "{}", ended.stdout);

        let expected: Vec<Option<String>> =
            rows.iter().map(|row| Some(text(row, "answer"))).collect();
        assert_eq!(text_column(&place.answers("out"), "answer"), expected, "{name}");
    }
}
