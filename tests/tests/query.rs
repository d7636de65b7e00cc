//! `source.query` chooses rows by SQL before any of their media is read.
#![cfg(feature = "sql")]

use legenda_tests::{
    PICTURE_JOB, TEXT_JOB, Workplace, pictures, png, text_column, texts, write_table,
};

fn with_query(job: &str, query: &str) -> String {
    job.replace("[source]", &format!("[source]\nquery = \"{query}\""))
}

fn ids(names: &[&str]) -> Vec<Option<String>> {
    names.iter().map(|&name| Some(name.to_owned())).collect()
}

/// Twelve texts in row groups of three; spans hold four rows at most.
fn workplace() -> Workplace {
    let place = Workplace::new();
    let questions: Vec<String> = (0..12)
        .map(|row| format!("What is two plus {}?", ["one", "two", "three"][row % 3]))
        .collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    write_table(&place.path("table.parquet"), &texts(&questions), 3);
    place
}

#[test]
fn only_the_rows_that_a_query_keeps_are_answered() {
    let place = workplace();
    let query = "SELECT id FROM source WHERE question LIKE '%two?' OR id = 'row-11'";
    place.write("job.toml", &with_query(TEXT_JOB, query));
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 5 == answers 5 + rejects 0"), "{}", ended.stdout);
    let chosen = text_column(&place.answers("out"), "id");
    assert_eq!(chosen, ids(&["row-1", "row-4", "row-7", "row-10", "row-11"]));
}

#[test]
fn a_limit_counts_the_rows_that_a_query_keeps() {
    let place = workplace();
    place.write("job.toml", &with_query(TEXT_JOB, "SELECT * FROM source WHERE id >= 'row-4'"));
    let ended = place.run(&["run", "job.toml", "--limit", "2"]).expect(0);
    assert!(ended.stdout.contains("rows_in 2 == answers 2 + rejects 0"), "{}", ended.stdout);
    assert_eq!(text_column(&place.answers("out"), "id"), ids(&["row-4", "row-5"]));
}

#[test]
fn rejects_of_a_query_keep_their_own_rows() {
    let place = Workplace::new();
    let mut cells: Vec<Option<Vec<u8>>> = (0..9).map(|shade| Some(png(shade))).collect();
    cells[1] = Some(b"not chosen, and no picture".to_vec());
    cells[6] = Some(b"chosen, but no picture".to_vec());
    write_table(&place.path("table.parquet"), &pictures(&cells), 4);
    place.write("job.toml", &with_query(PICTURE_JOB, "SELECT * FROM source WHERE id > 'row-4'"));
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 4 == answers 3 + rejects 1"), "{}", ended.stdout);
    assert_eq!(text_column(&place.answers("out"), "id"), ids(&["row-5", "row-7", "row-8"]));
    assert_eq!(text_column(&place.rejects("out"), "id"), ids(&["row-6"]));
}

#[test]
fn a_query_that_keeps_nothing_ends_well() {
    let place = workplace();
    place.write("job.toml", &with_query(TEXT_JOB, "SELECT * FROM source WHERE id = 'none'"));
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 0 == answers 0 + rejects 0"), "{}", ended.stdout);
}

#[test]
fn another_query_is_another_job() {
    let place = workplace();
    place.write("job.toml", &with_query(TEXT_JOB, "SELECT * FROM source WHERE id = 'row-2'"));
    drop(place.run(&["run", "job.toml"]).expect(0));
    place.write("job.toml", &with_query(TEXT_JOB, "SELECT * FROM source WHERE id = 'row-3'"));
    place.run(&["run", "job.toml"]).expect(2).complains_of(&["source.query"]);
}

#[test]
fn queries_that_cannot_choose_rows_are_named() {
    let place = workplace();
    for (query, named) in [
        ("SELECT mood FROM source", "mood"),
        ("SELECT * FROM source WHERE", "fails on"),
        ("SELECT DISTINCT id FROM source", "DISTINCT"),
        ("SELECT lower(question) AS small FROM source", "task.prompt"),
        ("DROP TABLE source", "DROP"),
    ] {
        place.write("job.toml", &with_query(TEXT_JOB, query));
        for command in ["check", "run"] {
            place.run(&[command, "job.toml"]).expect(2).complains_of(&["source.query", named]);
        }
    }
    // Columns of bytes are not there for a query, so filtering never reads them.
    write_table(&place.path("table.parquet"), &pictures(&[Some(png(1))]), 4);
    place.write("job.toml", &with_query(PICTURE_JOB, "SELECT image FROM source"));
    place.run(&["check", "job.toml"]).expect(2).complains_of(&["source.query", "image"]);
}
