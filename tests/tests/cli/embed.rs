//! `task.kind = "embed"` through the real binary: texts with a sentence encoder, images with CLIP,
//! audio with CLAP.

use std::fs;

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Float32Type, UInt32Type},
};
use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, image_table, png,
    references::{self, media, with_bundle},
    text_column, texts, write_table,
};
use serde_json::Value;

/// Returns a job that embeds with a bundle.
fn embedding_job(job: &str, name: &str) -> String {
    let job = job.replace("\"generate\"", "\"embed\"").replace("\"caption\"", "\"embed\"");
    with_bundle(&job, name)
}

/// Returns the rows of a reference where `key` is a string, with their embeddings.
fn reference(name: &str, key: &str) -> Vec<(Value, Vec<f32>)> {
    let rows = references::rows(name, |row| row[key].is_string()).into_iter();
    rows.map(|row| (row.clone(), serde_json::from_value(row["embedding"].clone()).unwrap()))
        .collect()
}

fn embeddings(answers: &RecordBatch) -> Vec<Option<Vec<f32>>> {
    let column = answers.column_by_name("embedding").unwrap().as_fixed_size_list();
    let numbers = |row: usize| column.value(row).as_primitive::<Float32Type>().values().to_vec();
    (0..column.len()).map(|row| column.is_valid(row).then(|| numbers(row))).collect()
}

fn assert_near(found: Option<&Vec<f32>>, expected: &[f32], place: &str) {
    let found = found.unwrap_or_else(|| panic!("{place}: no embedding"));
    assert_eq!(found.len(), expected.len(), "{place}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 5e-5, "{place}: {found}, expected {expected}");
    }
}

fn names(rows: &RecordBatch) -> Vec<String> {
    rows.schema().fields().iter().map(|field| field.name().clone()).collect()
}

fn entries(place: &Workplace) -> Vec<std::path::PathBuf> {
    let ledger = place.path("out.legenda/ledger");
    fs::read_dir(ledger).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn text_embeddings_match_the_reference_and_a_run_resumes() {
    let rows: Vec<_> = reference("minilm", "text")
        .into_iter()
        .filter(|(row, _)| row["prompt_name"].is_null())
        .collect();
    let mut questions: Vec<&str> =
        rows.iter().map(|(row, _)| row["text"].as_str().unwrap()).collect();
    questions.insert(2, "   ");
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&questions), 6);
    place.write("job.toml", &embedding_job(TEXT_JOB, "minilm"));
    let ended = place.run(&["run", "job.toml", "--show", "3"]).expect(0);
    assert!(ended.stdout.contains("rows_in 11 == answers 10 + rejects 1"), "{}", ended.stdout);
    assert!(ended.stderr.contains("minilm on cpu (32 dimensions)"), "{}", ended.stderr);
    assert!(ended.stdout.contains("embedding"), "answers are missing: {}", ended.stdout);

    let answers = place.answers("out");
    let expected = [
        "id",
        "question",
        "embedding",
        "legenda_status",
        "legenda_flags",
        "legenda_tokens_prompt",
        "legenda_input_sha256",
    ];
    assert_eq!(names(&answers), expected);
    let schema = answers.schema();
    let DataType::FixedSizeList(item, 32) = schema.field(2).data_type() else {
        panic!("{:?}", schema.field(2));
    };
    assert_eq!(item.data_type(), &DataType::Float32);
    let tokens = answers.column_by_name("legenda_tokens_prompt").unwrap();
    let tokens = tokens.as_primitive::<UInt32Type>();
    // Parts are in the order of their names, so rows are matched by text.
    let asked = text_column(&answers, "question");
    let found = embeddings(&answers);
    for (row, embedding) in &rows {
        let at = asked.iter().position(|text| text.as_deref() == row["text"].as_str()).unwrap();
        assert_near(found[at].as_ref(), embedding, &row["text"].to_string());
        assert_eq!(tokens.value(at) as usize, row["token_ids"].as_array().unwrap().len());
    }
    assert!(text_column(&answers, "legenda_input_sha256").iter().all(Option::is_some));
    let rejects = place.rejects("out");
    assert_eq!(text_column(&rejects, "legenda_code"), [Some("row_empty".to_owned())]);

    // Only uncommitted spans are run again.
    let committed = entries(&place);
    assert!(committed.len() > 2);
    fs::remove_file(&committed[0]).unwrap();
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 11 == answers 10 + rejects 1"), "{}", ended.stdout);
    assert!(ended.stdout.contains("were committed by earlier runs"), "{}", ended.stdout);
    assert_eq!(entries(&place).len(), committed.len());
    let again = place.answers("out");
    assert_eq!(text_column(&again, "question"), asked);
    for (again, before) in embeddings(&again).iter().zip(&found) {
        assert_near(again.as_ref(), before.as_ref().unwrap(), "after the resume");
    }
    // A different pooling is a different job.
    let pooled = ["run", "job.toml", "--set", "embedding.pooling=max"];
    place.run(&pooled).expect(2).stderr_contains(&["embedding.pooling", "--overwrite"]);
}

#[test]
fn the_prompt_of_the_model_is_prepended_to_every_text() {
    let rows: Vec<_> = reference("minilm", "prompt_name")
        .into_iter()
        .filter(|(row, _)| row["prompt_name"] == "query")
        .collect();
    let questions: Vec<&str> = rows.iter().map(|(row, _)| row["text"].as_str().unwrap()).collect();
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&questions), 100);
    place.write("job.toml", &embedding_job(TEXT_JOB, "minilm"));
    let args = ["run", "job.toml", "--set", "embedding.prompt_name=query"];
    let ended = place.run(&args).expect(0);
    assert!(ended.stdout.contains("answers 3 + rejects 0"), "{}", ended.stdout);
    let answers = place.answers("out");
    for (found, (row, expected)) in embeddings(&answers).iter().zip(&rows) {
        assert_near(found.as_ref(), expected, &row["text"].to_string());
    }
    let wrong = ["check", "job.toml", "--set", "embedding.prompt_name=poem"];
    place
        .run(&wrong)
        .expect(2)
        .stderr_contains(&["unknown prompt `embedding.prompt_name` = `poem`", "query"]);
}

#[test]
fn images_are_embedded_and_broken_ones_are_rejected() {
    let rows = reference("clip", "image");
    let mut cells: Vec<Option<Vec<u8>>> =
        rows.iter().map(|(row, _)| Some(media(row["image"].as_str().unwrap()))).collect();
    let good = png(7);
    cells.push(Some(good[..good.len() / 2].to_vec()));
    cells.push(None);
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &image_table(&cells), 100);
    place.write("job.toml", &embedding_job(IMAGE_JOB, "clip"));
    let args = ["run", "job.toml", "--set", "output.rejects=inline", "--set", "model.slots=3"];
    let ended = place.run(&args).expect(0);
    let counts = format!("rows_in {} == answers {} + rejects 2", rows.len() + 2, rows.len());
    assert!(ended.stdout.contains(&counts), "{}", ended.stdout);

    let answers = place.answers("out");
    let found = embeddings(&answers);
    let ids = text_column(&answers, "id");
    let row_of = |row: usize| {
        let id = format!("row-{row}");
        ids.iter().position(|found| found.as_deref() == Some(&id)).unwrap()
    };
    for (row, (reference, expected)) in rows.iter().enumerate() {
        assert_near(found[row_of(row)].as_ref(), expected, &reference["image"].to_string());
    }
    let codes = text_column(&answers, "legenda_reject_code");
    let tokens = answers.column_by_name("legenda_tokens_prompt").unwrap();
    for (row, code) in [(rows.len(), "media_damaged"), (rows.len() + 1, "media_missing")] {
        assert_eq!(found[row_of(row)], None);
        assert_eq!(codes[row_of(row)].as_deref(), Some(code));
    }
    assert_eq!(tokens.null_count(), answers.num_rows(), "images must not count as tokens");
}

#[test]
fn audio_is_embedded() {
    let rows = reference("clap", "audio");
    let cells: Vec<Option<Vec<u8>>> =
        rows.iter().map(|(row, _)| Some(media(row["audio"].as_str().unwrap()))).collect();
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &image_table(&cells), 100);
    let job = IMAGE_JOB.replace("image = \"image\"", "audio = \"image\"");
    place.write("job.toml", &embedding_job(&job, "clap"));
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rejects 0"), "{}", ended.stdout);
    let answers = place.answers("out");
    let (found, ids) = (embeddings(&answers), text_column(&answers, "id"));
    for (row, (reference, expected)) in rows.iter().enumerate() {
        let id = format!("row-{row}");
        let at = ids.iter().position(|found| found.as_deref() == Some(&id)).unwrap();
        assert_near(found[at].as_ref(), expected, &reference["audio"].to_string());
    }
}

#[test]
fn invalid_embedding_jobs_fail_before_anything_is_read() {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &image_table(&[Some(png(9))]), 4);
    place.write(
        "caption.toml",
        &embedding_job(IMAGE_JOB, "minilm").replace("\"embed\"", "\"caption\""),
    );
    place
        .run(&["check", "caption.toml"])
        .expect(2)
        .stderr_contains(&["`minilm` does not support `caption`: it generates embeddings"]);
    place.write("image.toml", &embedding_job(IMAGE_JOB, "minilm"));
    place
        .run(&["check", "image.toml"])
        .expect(2)
        .stderr_contains(&["`minilm` does not accept image input"]);
    place.write("llama.toml", &embedding_job(IMAGE_JOB, "llama"));
    place
        .run(&["check", "llama.toml"])
        .expect(2)
        .stderr_contains(&["`llama` does not support `embed`"]);
    place.write("both.toml", &embedding_job(IMAGE_JOB, "clip"));
    let both = ["check", "both.toml", "--set", "source.columns.text=id"];
    place.run(&both).expect(2).stderr_contains(&["one input to embed"]);
}
