//! Published multimodal bundles that take audio, and some also images, run by the real binary.

use legenda_tests::{
    Workplace,
    references::{Files, ask, media, rows},
    text_column,
};
use serde_json::Value;

/// Returns the single image of each row, or `None`.
fn images(rows: &[Value]) -> Files {
    rows.iter().map(|row| row["images"][0].as_str().map(media)).collect()
}

/// Returns the single audio file of each row, or `None`.
fn audio_files(rows: &[Value]) -> Files {
    rows.iter().map(|row| row["audios"][0][0].as_str().map(media)).collect()
}

#[test]
fn rows_with_and_without_media_are_answered_in_one_table() {
    for (name, sees) in [("ultravox", false), ("voxtral", false), ("gemma3n", true), ("phi4", true)]
    {
        let has_files_of_one_row = |row: &Value| {
            let n_in = |value: &Value| value.as_array().map_or(0, Vec::len);
            n_in(&row["images"]) < 2 && n_in(&row["audios"]) < 2 && n_in(&row["audios"][0]) < 2
        };
        let rows = rows(name, has_files_of_one_row);
        let audio_files = audio_files(&rows);
        assert!(rows.len() >= 8 && audio_files.iter().any(Option::is_none));
        let mut media = vec![("audio", audio_files)];
        if sees {
            media.push(("image", images(&rows)));
            assert!((0..rows.len()).any(|row| media.iter().all(|(_, files)| files[row].is_some())));
        }

        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let questions = rows.iter().map(|row| text(row, "text")).collect();
        let place = Workplace::new();
        let ended = ask(&place, name, "answer", questions, media).expect(0);
        let counts = format!("rows_in {n} == answers {n} + rejects 0", n = rows.len());
        assert!(ended.stdout.contains(&counts), "{name}: {}", ended.stdout);

        let expected: Vec<Option<String>> =
            rows.iter().map(|row| Some(text(row, "answer"))).collect();
        assert_eq!(text_column(&place.answers("out"), "answer"), expected, "{name}");
    }
}
