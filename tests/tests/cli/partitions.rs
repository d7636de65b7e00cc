//! Answers in Hive-partitioned folders.

use std::{collections::BTreeMap, fs, sync::Arc};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, image_table, png, read_table, text_column, write_table,
};

/// Rows in two languages and some without a language, in spans of four.
fn in_languages(job: &str) -> Workplace {
    let place = Workplace::new();
    let n_rows = 22_u64;
    let languages = (0..n_rows).map(|row| match row % 5 {
        0 | 3 => Some("de"),
        1 => Some("pt/br"),
        2 => Some(""),
        _ => None,
    });
    let ids = StringArray::from_iter_values((0..n_rows).map(|row| format!("row-{row}")));
    let texts = (0..n_rows).map(|row| match row {
        7 => String::new(),
        row => format!("What is {row} plus one?"),
    });
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(ids)),
        ("lang", Arc::new(languages.collect::<StringArray>())),
        ("question", Arc::new(StringArray::from_iter_values(texts))),
    ];
    let table = RecordBatch::try_from_iter_with_nullable(
        columns.map(|(name, column)| (name, column, true)),
    );
    write_table(&place.path("table.parquet"), &table.unwrap(), 10);
    place.write("job.toml", &job.replace("[output]", "[output]\npartition_by = \"lang\""));
    place
}

/// Returns the answers of an output by id, with their partition values.
fn by_folder(place: &Workplace, output: &str) -> BTreeMap<String, (String, Option<String>)> {
    let mut found = BTreeMap::new();
    for folder in fs::read_dir(place.path(output)).unwrap() {
        let folder = folder.unwrap();
        let name = folder.file_name().to_string_lossy().into_owned();
        if !name.starts_with("lang=") {
            assert!(!name.starts_with("part-"), "{name}");
            continue;
        }
        for part in fs::read_dir(folder.path()).unwrap() {
            for rows in read_table(&part.unwrap().path()) {
                assert!(
                    rows.column_by_name("lang").is_none(),
                    "the partition column must not be in the file"
                );
                for (id, answer) in
                    text_column(&rows, "id").into_iter().zip(text_column(&rows, "answer"))
                {
                    let twice = found.insert(id.unwrap(), (name.clone(), answer));
                    assert!(twice.is_none());
                }
            }
        }
    }
    found
}

#[test]
fn answers_are_partitioned_by_a_column() {
    let place = in_languages(TEXT_JOB);
    let told = place.run(&["run", "job.toml", "--show", "3"]).expect(0);
    assert!(told.stdout.contains("rows_in 22 == answers 21 + rejects 1"), "{}", told.stdout);
    let words = |start: &str| {
        let line = told.stdout.lines().find(|line| line.starts_with(start)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(words("id "), ["id", "lang", "question", "answer"]);
    let found = by_folder(&place, "out");
    assert_eq!(found.len(), 21);
    for (id, (folder, answer)) in &found {
        let row: u64 = id.strip_prefix("row-").unwrap().parse().unwrap();
        let expected = ["lang=de", "lang=pt%2Fbr", "lang=", "lang=de"];
        let null = "lang=__HIVE_DEFAULT_PARTITION__";
        let expected = expected.get(usize::try_from(row % 5).unwrap()).unwrap_or(&null);
        assert_eq!(folder, expected);
        assert!(answer.is_some());
    }
    let _whole = place.run(&["verify", "out"]).expect(0);
    // The report and the scores match answers to rows.
    let page = fs::read_to_string(place.path("out.legenda/report.html")).unwrap();
    assert_eq!(page.matches("<article").count(), 22);
    for (id, (_, answer)) in &found {
        let row = id.strip_prefix("row-").unwrap();
        let card = page.split("<article").find(|card| card.contains(&format!("id: {id} ")));
        let card = card.unwrap_or_else(|| panic!("no {id} in {page}"));
        assert!(card.contains(&format!("What is {row} plus one?")), "{card}");
        let answer = answer.clone().unwrap();
        assert!(card.contains(&format!("<p class=\"answer\">{answer}</p>")), "{card}");
    }
    let told = place.run(&["eval", "out", "--reference", "lang", "--json"]).expect(0);
    let scores: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(scores["rows"], 18, "{scores}");

    // Another job can read it as a partitioned table.
    let again = TEXT_JOB
        .replace("\"table.parquet\"", "\"out\"")
        .replace("path = \"out\"", "path = \"next\"\ncolumns = [\"id\", \"lang\"]");
    place.write("next.toml", &again);
    let told = place.run(&["run", "next.toml"]).expect(0);
    assert!(told.stdout.contains("rows_in 21 =="), "{}", told.stdout);
    let next = place.answers("next");
    let languages = text_column(&next, "lang");
    assert_eq!(languages.iter().filter(|lang| lang.as_deref() == Some("pt/br")).count(), 5);

    // A retried reject is written to its partition; a part without a ledger entry is removed.
    let stray = place.path("out/lang=de/part-stray.parquet");
    fs::copy(place.path("table.parquet"), &stray).unwrap();
    let told = place.run(&["verify", "out"]).expect(5);
    assert!(format!("{}{}", told.stdout, told.stderr).contains("part-stray"), "{told:?}");
    let _again = place.run(&["run", "job.toml"]).expect(0);
    assert!(!stray.try_exists().unwrap());
    let _retried = place.run(&["retry", "out"]).expect(0);
    let _whole = place.run(&["verify", "out"]).expect(0);
    // The same job without partitions is a different output.
    let flat = ["run", "job.toml", "--set", "output.partition_by=id"];
    place.run(&flat).expect(2).stderr_contains(&["output.partition_by"]);
    place.write("job.toml", TEXT_JOB);
    let _flat = place.run(&["run", "job.toml", "--overwrite"]).expect(0);
    assert_eq!(fs::read_dir(place.path("out/lang=de")).unwrap().count(), 0);
    assert_eq!(place.answers("out").num_rows(), 21);
}

#[test]
fn partition_values_must_be_valid_folder_names() {
    let place = in_languages(TEXT_JOB);
    for (change, problem) in [
        ("output.partition_by=nothing", "is not carried"),
        ("output.columns=[\"id\"]", "is not carried"),
    ] {
        let refused = place.run(&["check", "job.toml", "--set", change]).expect(2);
        refused.stderr_contains(&["output.partition_by", problem]);
    }
    place.write(
        "picture.toml",
        &IMAGE_JOB.replace("[output]", "[output]\npartition_by = \"image\"\ncolumns = [\"image\"]"),
    );
    write_table(&place.path("table.parquet"), &image_table(&[Some(png(1))]), 10);
    place.run(&["check", "picture.toml"]).expect(2).stderr_contains(&["cannot name folders"]);
}

#[test]
fn partitions_support_every_format_and_inline_rejects() {
    for format in ["jsonl", "arrow"] {
        let place = in_languages(TEXT_JOB);
        let format = format!("output.format={format}");
        let changes = ["run", "job.toml", "--set", &format, "--set", "output.rejects=inline"];
        let _told = place.run(&changes).expect(0);
        let _whole = place.run(&["verify", "out"]).expect(0);
        assert!(place.path("out/lang=pt%2Fbr").is_dir());
        place.run(&["retry", "out"]).expect(2).stderr_contains(&["several"]);
    }
}
