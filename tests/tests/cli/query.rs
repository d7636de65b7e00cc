//! `source.query` selects rows by SQL before their media are read.

use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, image_table, png, text_column, texts, write_table,
};

fn with_query(job: &str, query: &str) -> String {
    job.replace("[source]", &format!("[source]\nquery = \"{query}\""))
}

fn ids(names: &[&str]) -> Vec<Option<String>> {
    names.iter().map(|&name| Some(name.to_owned())).collect()
}

/// Creates a table of twelve texts in row groups of three; spans hold at most four rows.
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
fn only_rows_selected_by_the_query_are_answered() {
    let place = workplace();
    let query = "SELECT id FROM source WHERE question LIKE '%two?' OR id = 'row-11'";
    place.write("job.toml", &with_query(TEXT_JOB, query));
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 5 == answers 5 + rejects 0"), "{}", ended.stdout);
    let chosen = text_column(&place.answers("out"), "id");
    assert_eq!(chosen, ids(&["row-1", "row-4", "row-7", "row-10", "row-11"]));
}

#[test]
fn a_limit_counts_the_rows_selected_by_the_query() {
    let place = workplace();
    place.write("job.toml", &with_query(TEXT_JOB, "SELECT * FROM source WHERE id >= 'row-4'"));
    let ended = place.run(&["run", "job.toml", "--limit", "2"]).expect(0);
    assert!(ended.stdout.contains("rows_in 2 == answers 2 + rejects 0"), "{}", ended.stdout);
    assert_eq!(text_column(&place.answers("out"), "id"), ids(&["row-4", "row-5"]));
    // The limit grows within a span.
    let ended = place.run(&["run", "job.toml", "--limit", "3"]).expect(0);
    assert!(ended.stdout.contains("rows_in 3 == answers 3 + rejects 0"), "{}", ended.stdout);
    assert!(ended.stdout.contains("2 rows were committed by earlier runs"), "{}", ended.stdout);
    let ended = place.run(&["run", "job.toml"]).expect(0);
    let in_all = text_column(&place.answers("out"), "id");
    let rows_in = format!("rows_in {} == answers {0} + rejects 0", in_all.len());
    assert!(ended.stdout.contains(&rows_in), "{}", ended.stdout);
    assert!(ended.stdout.contains("3 rows were committed by earlier runs"), "{}", ended.stdout);
    let at_once = place.run(&["run", "job.toml", "--set", "output.path=whole"]).expect(0);
    assert!(at_once.stdout.contains(&rows_in), "{}", at_once.stdout);
    let sorted = |output: &str| {
        let mut ids = text_column(&place.answers(output), "id");
        ids.sort();
        ids
    };
    assert_eq!(sorted("out"), sorted("whole"));
    assert!(place.run(&["run", "job.toml"]).expect(0).stdout.contains("0 rows in"));
    assert!(place.run(&["verify", "out"]).expect(0).stdout.contains("verified"));
}

#[test]
fn rejects_of_a_query_keep_their_row_numbers() {
    let place = Workplace::new();
    let mut cells: Vec<Option<Vec<u8>>> = (0..9).map(|shade| Some(png(shade))).collect();
    cells[1] = Some(b"not chosen, and no picture".to_vec());
    cells[6] = Some(b"chosen, but no picture".to_vec());
    write_table(&place.path("table.parquet"), &image_table(&cells), 4);
    place.write("job.toml", &with_query(IMAGE_JOB, "SELECT * FROM source WHERE id > 'row-4'"));
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 4 == answers 3 + rejects 1"), "{}", ended.stdout);
    assert_eq!(text_column(&place.answers("out"), "id"), ids(&["row-5", "row-7", "row-8"]));
    assert_eq!(text_column(&place.rejects("out"), "id"), ids(&["row-6"]));
}

#[test]
fn a_query_that_selects_no_rows_succeeds() {
    let place = workplace();
    place.write("job.toml", &with_query(TEXT_JOB, "SELECT * FROM source WHERE id = 'none'"));
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 0 == answers 0 + rejects 0"), "{}", ended.stdout);
}

#[test]
fn a_different_query_is_a_different_job() {
    let place = workplace();
    place.write("job.toml", &with_query(TEXT_JOB, "SELECT * FROM source WHERE id = 'row-2'"));
    drop(place.run(&["run", "job.toml"]).expect(0));
    place.write("job.toml", &with_query(TEXT_JOB, "SELECT * FROM source WHERE id = 'row-3'"));
    place.run(&["run", "job.toml"]).expect(2).stderr_contains(&["source.query"]);
}

#[test]
fn invalid_queries_are_named() {
    let place = workplace();
    for (query, named) in [
        ("SELECT mood FROM source", "mood"),
        ("SELECT * FROM source WHERE", "sql parser error"),
        ("SELECT DISTINCT id FROM source", "DISTINCT"),
        ("SELECT *, lower(id) AS question FROM source", "question"),
        ("SELECT lower(id) AS question FROM source", "question"),
        ("SELECT * FROM source UNION SELECT * FROM source", "several"),
        ("DROP TABLE source", "DROP"),
    ] {
        place.write("job.toml", &with_query(TEXT_JOB, query));
        for command in ["check", "run"] {
            place.run(&[command, "job.toml"]).expect(2).stderr_contains(&["source.query", named]);
        }
    }
    // Binary columns are not available to queries, so filtering never reads them.
    write_table(&place.path("table.parquet"), &image_table(&[Some(png(1))]), 4);
    place.write("job.toml", &with_query(IMAGE_JOB, "SELECT image FROM source"));
    place.run(&["check", "job.toml"]).expect(2).stderr_contains(&["source.query", "image"]);
}

#[test]
fn computed_columns_can_be_prompted_and_carried() {
    let place = workplace();
    let query = "SELECT id, upper(id) AS name, 'What is ' || split_part(question, ' ', 3) || ' plus one?' AS asked \
                 FROM source WHERE id <> 'row-3'";
    let job = with_query(TEXT_JOB, query)
        .replace("text = \"question\"", "text = \"asked\"")
        .replace("[output]", "[output]\ncolumns = [\"id\", \"name\", \"asked\"]");
    place.write("job.toml", &job);
    drop(place.run(&["run", "job.toml"]).expect(0));
    let answers = place.answers("out");
    let rows: Vec<usize> = (0..12).filter(|row| *row != 3).collect();
    let named = |row: &usize| Some(format!("ROW-{row}"));
    assert_eq!(text_column(&answers, "name"), rows.iter().map(named).collect::<Vec<_>>());
    let asked = vec![Some("What is two plus one?".to_owned()); 11];
    assert_eq!(text_column(&answers, "asked"), asked);
    // Equal answers show that the prompt was the computed column.
    assert_eq!(text_column(&answers, "answer"), vec![Some("three".to_owned()); 11]);
}

/// Creates a workplace with a second table that has a number for every other row.
fn with_second_table() -> Workplace {
    let place = workplace();
    let lines = (0..12).step_by(2).map(|row| format!("row-{row},{}\n", row % 3 + 1));
    place.write("numbers.csv", &format!("id,number\n{}", lines.collect::<String>()));
    let job = with_query(
        TEXT_JOB,
        "SELECT source.*, 'What is two plus ' || CASE n.number WHEN 1 THEN 'one' WHEN 2 THEN 'two' \
         ELSE 'three' END || '?' AS asked FROM source JOIN numbers AS n ON source.id = n.id",
    );
    let job = job
        .replace("text = \"question\"", "text = \"asked\"")
        .replace("[source]", "[source]\ntables = { numbers = \"numbers.csv\" }");
    place.write("job.toml", &job);
    place
}

#[test]
fn a_second_table_is_joined_and_changing_it_changes_the_job() {
    let place = with_second_table();
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 6 == answers 6 + rejects 0"), "{}", ended.stdout);
    let answers = place.answers("out");
    assert_eq!(
        text_column(&answers, "id"),
        ids(&["row-0", "row-2", "row-4", "row-6", "row-8", "row-10"])
    );
    assert_eq!(text_column(&answers, "asked"), text_column(&answers, "question"));
    drop(place.run(&["run", "job.toml"]).expect(0));
    drop(place.run(&["verify", "out"]).expect(0));
    place.write("numbers.csv", "id,number\nrow-1,11\n");
    place.run(&["run", "job.toml"]).expect(2).stderr_contains(&["source.tables"]);
    place.write("numbers.csv", "id,number\nrow-0,1\nrow-0,2\n");
    place.run(&["run", "job.toml", "--overwrite"]).expect(2).stderr_contains(&["more than once"]);
    std::fs::remove_file(place.path("numbers.csv")).unwrap();
    place.run(&["run", "job.toml"]).expect(2).stderr_contains(&["source.tables.numbers"]);
}

#[test]
fn rejects_and_retries_have_the_computed_columns() {
    let place = Workplace::new();
    let cells: Vec<Option<Vec<u8>>> = (0..6).map(|shade| Some(png(shade))).collect();
    write_table(&place.path("a.parquet"), &image_table(&cells), 4);
    write_table(&place.path("b.parquet"), &image_table(&cells), 4);
    let job = with_query(IMAGE_JOB, "SELECT *, upper(id) AS name FROM source WHERE id <> 'row-2'")
        .replace("table.parquet", "*.parquet")
        .replace("[output]", "[limits]\nmedia_bytes = \"8B\"\n[output]");
    place.write("job.toml", &job);
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 10 == answers 0 + rejects 10"), "{}", ended.stdout);
    let of_a_file = ids(&["ROW-0", "ROW-1", "ROW-3", "ROW-4", "ROW-5"]);
    let names = [of_a_file.clone(), of_a_file].concat();
    assert_eq!(text_column(&place.rejects("out"), "name"), names);
    let retry = ["retry", "out", "--set", "limits.media_bytes=\"1MiB\""];
    drop(place.run(&retry).expect(0));
    let mut answered = text_column(&place.answers("out"), "name");
    answered.sort();
    let mut names = names;
    names.sort();
    assert_eq!(answered, names);
    drop(place.run(&["verify", "out"]).expect(0));
}
