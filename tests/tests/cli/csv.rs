//! `output.format = "csv"`.

use std::{fs, path::Path};

use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, image_table, png, repository, text_column, texts, write_table,
};

/// Returns the records of a CSV file, with `None` for a null; the header is the first.
fn records(text: &str) -> Vec<Vec<Option<String>>> {
    let mut records = vec![Vec::new()];
    let (mut cell, mut is_quoted, mut was_quoted) = (String::new(), false, false);
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if is_quoted && chars.peek() == Some(&'"') => {
                cell.push('"');
                chars.next();
            }
            '"' => (is_quoted, was_quoted) = (!is_quoted, true),
            ',' | '\n' if !is_quoted => {
                let cell = std::mem::take(&mut cell);
                let is_null = cell.is_empty() && !std::mem::take(&mut was_quoted);
                records.last_mut().unwrap().push((!is_null).then_some(cell));
                was_quoted = false;
                if char == '\n' {
                    records.push(Vec::new());
                }
            }
            char => cell.push(char),
        }
    }
    assert_eq!(records.pop(), Some(Vec::new()), "the file does not end with a line feed");
    records
}

/// Returns a column of the parts or rejects in a folder, in the order of the files.
fn cells(dir: &Path, prefix: &str, column: &str) -> Vec<Option<String>> {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .collect();
    paths.sort();
    let mut cells = Vec::new();
    for path in paths {
        assert_eq!(path.extension().unwrap(), "csv");
        let mut rows = records(&fs::read_to_string(path).unwrap());
        let header = rows.remove(0);
        let place = header.iter().position(|name| name.as_deref() == Some(column)).unwrap();
        assert!(rows.iter().all(|row| row.len() == header.len()));
        cells.extend(rows.into_iter().map(|mut row| row.swap_remove(place)));
    }
    cells
}

#[test]
fn csv_output_has_the_rows_of_parquet_output() {
    let place = Workplace::new();
    let images: Vec<_> =
        (0..9_u8).map(|row| Some(if row == 4 { b"junk".to_vec() } else { png(row * 9) })).collect();
    write_table(&place.path("table.parquet"), &image_table(&images), 10);
    place.write("job.toml", IMAGE_JOB);
    let run = |format: &str| {
        let (format, path) = (format!("output.format={format}"), format!("output.path={format}"));
        let args = ["run", "job.toml", "--set", &format, "--set", &path, "--show", "9"];
        place.run(&args).expect(0)
    };
    let (parquet, csv) = (run("parquet"), run("csv"));
    let shown = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.contains("row-")).map(str::to_owned).collect()
    };
    assert_eq!(shown(&parquet.stdout), shown(&csv.stdout));
    assert!(shown(&csv.stdout).len() > 5);
    let (answers, rejects) = (place.answers("parquet"), place.rejects("parquet"));
    for name in ["id", "answer", "legenda_status", "legenda_input_sha256"] {
        assert_eq!(cells(&place.path("csv"), "part-", name), text_column(&answers, name));
    }
    assert_eq!(cells(&place.path("csv"), "part-", "legenda_flags"), vec![Some("[]".to_owned()); 8]);
    let rejected = place.path("csv.legenda/rejects");
    for name in ["id", "legenda_code", "legenda_message"] {
        assert_eq!(cells(&rejected, "rejects-", name), text_column(&rejects, name));
    }
    // base64 of `junk`.
    assert_eq!(cells(&rejected, "rejects-", "image"), [Some("anVuaw==".to_owned())]);
    for command in ["verify", "retry", "verify"] {
        let told = place.run(&[command, "csv"]).expect(0);
        assert!(told.stdout.contains("answers 8 + rejects 1"), "{}", told.stdout);
    }
}

#[test]
fn csv_output_resumes_and_is_a_source() {
    let place = Workplace::new();
    let questions = ["plain", "a, b", "\"quoted\"", "two\r\nlines", "x", "y", "z"];
    write_table(&place.path("table.parquet"), &texts(&questions), 10);
    place.write("job.toml", &TEXT_JOB.replace("[output]", "[output]\nformat = \"csv\""));
    let _first = place.run(&["run", "job.toml", "--limit", "3"]).expect(0);
    let more = place.run(&["run", "job.toml"]).expect(0);
    assert!(more.stdout.contains("3 rows were committed by earlier runs"), "{}", more.stdout);
    let written = cells(&place.path("out"), "part-", "question");
    assert_eq!(written, questions.map(|text| Some(text.to_owned())));
    let again = place.run(&["run", "job.toml"]).expect(0);
    assert!(again.stdout.contains("0 rows in"), "{}", again.stdout);
    place.write(
        "again.toml",
        &TEXT_JOB
            .replace("table.parquet", "out")
            .replace("\"out\"\n", "\"copy\"\ncolumns = [\"id\"]\n"),
    );
    let _copied = place.run(&["run", "again.toml"]).expect(0);
    let ids = (0..7).map(|row| Some(format!("row-{row}"))).collect::<Vec<_>>();
    assert_eq!(text_column(&place.answers("copy"), "id"), ids);
}

#[test]
fn embeddings_are_json_arrays_and_inline_rejects_have_empty_cells() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["one", "", "three"]), 10);
    let bundle = repository().join("tests/references/bundles/minilm");
    let job = TEXT_JOB
        .replace("generate", "embed")
        .replace("[output]", "[output]\nformat = \"csv\"\nrejects = \"inline\"");
    place.write("job.toml", &format!("{job}[model]\nbundle = \"{}\"\n", bundle.display()));
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("rows_in 3 == answers 2 + rejects 1"), "{}", run.stdout);
    let vectors = cells(&place.path("out"), "part-", "embedding");
    let numbers = |cell: &Option<String>| -> Vec<f32> {
        serde_json::from_str(cell.as_deref().unwrap()).unwrap()
    };
    assert!(numbers(&vectors[0]).len() > 8);
    assert_ne!(numbers(&vectors[0]), numbers(&vectors[2]));
    assert_eq!(vectors[1], None);
    let codes = cells(&place.path("out"), "part-", "legenda_reject_code");
    assert_eq!(codes, [None, Some("row_empty".to_owned()), None]);
    // A retry reads the parts and writes them again.
    let _retried = place.run(&["retry", "out"]).expect(0);
    assert_eq!(cells(&place.path("out"), "part-", "embedding"), vectors);
    let _verified = place.run(&["verify", "out"]).expect(0);
}
