//! `legenda eval` scores the answers of an output against a reference.

use std::sync::Arc;

use arrow::array::{ArrayRef, ListBuilder, RecordBatch, StringArray, StringBuilder};
use legenda_tests::{TEXT_JOB, Workplace, text_column, write_table};
use serde_json::Value;

/// Twelve questions. The reference contains the model's own answers, except for two wrong ones; one
/// row cannot be answered.
fn workplace() -> Workplace {
    let place = Workplace::new();
    let questions: Vec<String> =
        (0..11).map(|n| format!("What is {n} plus one?")).chain([String::new()]).collect();
    put(&place, &questions, &vec![vec![String::new()]; 12]);
    place.write("job.toml", TEXT_JOB);
    let told = place.run(&["run", "job.toml"]).expect(0);
    assert!(told.stdout.contains("answers 11 + rejects 1"), "{}", told.stdout);
    let answers = text_column(&place.answers("out"), "answer");
    let right = answers.iter().flatten().enumerate().map(|(row, answer)| {
        if row < 2 { vec!["zzz".to_owned()] } else { vec!["other".to_owned(), answer.clone()] }
    });
    let right: Vec<Vec<String>> = right.chain([vec!["never given".to_owned()]]).collect();
    put(&place, &questions, &right);
    let told = place.run(&["run", "job.toml", "--overwrite"]).expect(0);
    assert!(told.stdout.contains("answers 11 + rejects 1"), "{}", told.stdout);
    place
}

fn put(place: &Workplace, questions: &[String], right: &[Vec<String>]) {
    let ids = StringArray::from_iter_values((0..questions.len()).map(|row| format!("row-{row}")));
    let mut lists = ListBuilder::new(StringBuilder::new());
    for texts in right {
        texts.iter().for_each(|text| lists.values().append_value(text));
        lists.append(true);
    }
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(ids)),
        ("question", Arc::new(StringArray::from_iter_values(questions))),
        ("right", Arc::new(lists.finish())),
    ];
    write_table(&place.path("table.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 50);
}

#[test]
fn answers_are_scored_and_rejects_count_as_wrong() {
    let place = workplace();
    let told = place.run(&["eval", "out", "--reference", "right", "--json"]).expect(0);
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!((told["rows"].as_u64(), told["unanswered"].as_u64()), (Some(12), Some(1)));
    let score = |metric: &str| {
        let scores = told["scores"].as_array().unwrap();
        let one = scores.iter().find(|one| one["metric"] == metric).unwrap();
        one["score"].as_f64().unwrap()
    };
    // Nine of twelve are right.
    assert!((score("exact_match") - 0.75).abs() < 1e-9, "{told}");
    assert!((score("token_f1") - 0.75).abs() < 1e-9, "{told}");
    let shown = place.run(&["eval", "out", "--reference", "right"]).expect(0);
    assert!(shown.stdout.contains("12 rows, 1 unanswered"), "{}", shown.stdout);
    assert!(shown.stdout.contains("0.7500"), "{}", shown.stdout);
}

#[test]
fn two_outputs_are_compared_row_by_row() {
    let place = workplace();
    // The same model, limited to one token.
    let short = ["run", "job.toml", "--set", "output.path=short", "--set"];
    let short = place.run(&[&short[..], &["generation.max_new_tokens=1"]].concat()).expect(0);
    assert!(short.stdout.contains("answers 11"), "{}", short.stdout);
    for id in [&[][..], &["--id", "id"]] {
        let asked = ["eval", "out", "--reference", "right", "--compare", "short"];
        let told = place.run(&[&asked[..], id].concat()).expect(0);
        assert!(told.stdout.contains("12 rows in both; unanswered: 1 and 1"), "{}", told.stdout);
        assert!(told.stdout.contains("short minus out"), "{}", told.stdout);
    }
    // Rows that only one output has are reported.
    let few = ["run", "job.toml", "--limit", "5", "--set", "output.path=few"];
    assert!(place.run(&few).expect(0).stdout.contains("rows_in 5"));
    let compared = ["eval", "few", "--reference", "right", "--compare", "out"];
    let told = place.run(&compared).expect(0).stdout;
    assert!(told.contains("not compared: 0 rows only in few, 7 rows only in out"), "{told}");
    place
        .run(&["eval", "out", "--reference", "none"])
        .expect(2)
        .stderr_contains(&["has no column `none`", "`right`"]);
}
