//! A published multimodal bundle, run by the real binary.

use legenda_tests::{
    Workplace,
    references::{ask, media, rows},
    text_column,
};
use serde_json::Value;

#[test]
fn images_of_all_sizes_are_captioned_and_a_broken_one_is_rejected() {
    let rows = rows("smolvlm", |row| row["images"].as_array().unwrap().len() == 1);
    assert!(rows.len() >= 8);

    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let mut questions: Vec<String> = rows.iter().map(|row| text(row, "text")).collect();
    let mut images: Vec<Option<Vec<u8>>> =
        rows.iter().map(|row| Some(media(row["images"][0].as_str().unwrap()))).collect();
    let expected: Vec<Option<String>> = rows.iter().map(|row| Some(text(row, "answer"))).collect();
    // The broken image is between valid ones.
    let broken = 3;
    questions.insert(broken, "Hello".to_owned());
    let whole = images[0].clone().unwrap();
    images.insert(broken, Some(whole[..whole.len() / 2].to_vec()));

    let place = Workplace::new();
    let ended = ask(&place, "smolvlm", "caption", questions, vec![("image", images)]).expect(0);
    let counts = format!("rows_in {} == answers {} + rejects 1", rows.len() + 1, rows.len());
    assert!(ended.stdout.contains(&counts), "{}", ended.stdout);

    let answers = place.answers("out");
    let answered: Vec<_> = text_column(&answers, "id").into_iter().map(Option::unwrap).collect();
    assert!(!answered.contains(&format!("row-{broken}")));
    // Answers are in table order.
    assert_eq!(text_column(&answers, "answer"), expected);
    let rejects = place.rejects("out");
    assert_eq!(text_column(&rejects, "id"), [Some(format!("row-{broken}"))]);
    assert_eq!(text_column(&rejects, "legenda_code"), [Some("media_damaged".to_owned())]);
}
