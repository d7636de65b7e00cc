//! Typed answers: a form in the job, columns in the output.

use std::fs;

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Field, TimeUnit},
};
use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, image_table, png,
    references::{questions, with_bundle},
    text_column, texts, write_table,
};
use serde_json::Value;

/// A column of each type.
const COLUMNS: &str = r#"
[answer.columns]
category = ["invoice", "receipt", "no \"other\""]
day = "date"
is_paid = "bool"
note = "string(12)?"
price = "decimal(6, 2)"
share = "float32"
small = "uint8"
tags = "list<string(6), 3>"
time = "timestamp"
"#;

/// Random weights write long texts; this is enough for every column.
const LIMIT: &str = "[generation]\nmax_new_tokens = 180\n";

/// Writes a table of questions and a job of a tiny bundle.
fn job_of(place: &Workplace, bundle: &str, answer: &str) {
    let (questions, _) = questions("llama");
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    write_table(&place.path("table.parquet"), &texts(&questions), 4);
    place.write("job.toml", &format!("{TEXT_JOB}{LIMIT}{answer}{}", with_bundle("", bundle)));
}

fn field<'r>(rows: &'r RecordBatch, name: &str) -> &'r Field {
    rows.schema_ref().field_with_name(name).unwrap()
}

#[test]
fn columns_have_the_declared_types_and_the_values_of_the_answer() {
    for bundle in ["llama", "mistral", "gpt2"] {
        let place = Workplace::new();
        job_of(&place, bundle, COLUMNS);
        let checked = place.run(&["check", "job.toml"]).expect(0).stdout;
        for line in [
            "answers    category dictionary: invoice | receipt | no \"other\"",
            "answers    note string: up to 12 characters, null",
            "answers    price decimal(6, 2)",
            "answers    tags list<string>: up to 3 items: up to 6 characters",
        ] {
            assert!(checked.contains(line), "{line}\n{checked}");
        }
        let _whole = place.run(&["run", "job.toml"]).expect(0);
        let rows = place.answers("out");
        let types = [
            ("category", DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into())),
            ("day", DataType::Date32),
            ("is_paid", DataType::Boolean),
            ("note", DataType::Utf8),
            ("price", DataType::Decimal128(6, 2)),
            ("share", DataType::Float32),
            ("small", DataType::UInt8),
            ("time", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        ];
        for (name, expected) in types {
            assert_eq!(field(&rows, name).data_type(), &expected, "{name}");
            assert_eq!(field(&rows, name).is_nullable(), name == "note", "{name}");
        }
        assert!(matches!(field(&rows, "tags").data_type(), DataType::List(_)));
        let names: Vec<&str> =
            rows.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
        let at = names.iter().position(|name| *name == "answer").unwrap();
        assert_eq!(names[at + 1..at + 3], ["category", "day"]);
        assert_eq!(names[at + 10], "legenda_status");

        let answers = text_column(&rows, "answer");
        let notes = text_column(&rows, "note");
        let tags = rows.column_by_name("tags").unwrap().as_list::<i32>();
        let paid = rows.column_by_name("is_paid").unwrap().as_boolean();
        for (row, answer) in answers.iter().enumerate() {
            let answer: Value = serde_json::from_str(answer.as_ref().unwrap()).unwrap();
            assert_eq!(answer["note"].as_str(), notes[row].as_deref());
            assert_eq!(answer["is_paid"].as_bool(), Some(paid.value(row)));
            assert_eq!(answer["tags"].as_array().unwrap().len(), tags.value(row).len());
            let category = answer["category"].as_str().unwrap();
            assert!(["invoice", "receipt", "no \"other\""].contains(&category));
        }
        let reasons = text_column(&rows, "legenda_finish_reason");
        assert!(reasons.iter().flatten().all(|reason| reason == "stop" || reason == "length"));
    }
}

#[test]
fn arrow_and_json_lines_have_the_values_of_parquet() {
    let place = Workplace::new();
    job_of(&place, "llama", COLUMNS);
    let run = |format: &str| {
        let (format, path) = (format!("output.format={format}"), format!("output.path={format}"));
        let _whole = place.run(&["run", "job.toml", "--set", &format, "--set", &path]).expect(0);
    };
    let parts = |format: &str| {
        let files = fs::read_dir(place.path(format)).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = files.collect();
        files.sort();
        files
    };
    ["parquet", "arrow", "jsonl"].iter().for_each(|format| run(format));
    let parquet = place.answers("parquet");
    let mut n_rows = 0;
    for path in parts("arrow") {
        let file = fs::File::open(path).unwrap();
        for batch in arrow::ipc::reader::FileReader::try_new(file, None).unwrap() {
            let batch = batch.unwrap();
            let same = parquet.slice(n_rows, batch.num_rows());
            for name in ["day", "is_paid", "price", "share", "small", "time", "tags"] {
                assert_eq!(batch.column_by_name(name), same.column_by_name(name), "{name}");
            }
            n_rows += batch.num_rows();
        }
    }
    assert_eq!(n_rows, parquet.num_rows());
    let lines: Vec<Value> = parts("jsonl")
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
        })
        .collect();
    assert_eq!(lines.len(), n_rows);
    for line in lines {
        let answer: Value = serde_json::from_str(line["answer"].as_str().unwrap()).unwrap();
        for name in ["category", "day", "is_paid", "note", "small", "tags"] {
            assert_eq!(line[name], answer[name], "{name}");
        }
    }
    // Another slot count and a second run over the same rows give the same answers.
    let _whole = place
        .run(&["run", "job.toml", "--set", "model.slots=1", "--set", "output.path=one"])
        .expect(0);
    assert_eq!(text_column(&place.answers("one"), "answer"), text_column(&parquet, "answer"));
}

#[test]
fn a_schema_in_a_file_gives_nested_columns() {
    let place = Workplace::new();
    place.write(
        "receipt.json",
        r##"{"type": "object", "required": ["lines"], "properties": {"lines": {"type": "array", "maxItems": 2,
            "items": {"$ref": "#/$defs/line"}}, "total": {"type": ["number", "null"], "minimum": 0}},
            "$defs": {"line": {"type": "object", "required": ["kind"], "properties": {
            "kind": {"enum": ["food", "drink"]}, "n": {"type": "integer", "minimum": 1, "maximum": 9}}}}}"##,
    );
    job_of(&place, "llama", "[answer]\nschema = \"receipt.json\"\n");
    let _whole = place.run(&["run", "job.toml"]).expect(0);
    let rows = place.answers("out");
    let lines = rows.column_by_name("lines").unwrap().as_list::<i32>();
    let answers = text_column(&rows, "answer");
    let mut n_lines = 0;
    for (row, answer) in answers.iter().enumerate() {
        let answer: Value = serde_json::from_str(answer.as_ref().unwrap()).unwrap();
        let values = lines.value(row);
        assert_eq!(answer["lines"].as_array().unwrap().len(), values.len());
        assert!(values.len() <= 2);
        n_lines += values.len();
    }
    assert!(n_lines > 0);
    assert!(field(&rows, "total").is_nullable() && !field(&rows, "lines").is_nullable());

    // The job in the output has the schema itself, so a changed file is a changed job.
    place.write(
        "receipt.json",
        r#"{"type": "object", "properties": {"total": {"type": "number"}}}"#,
    );
    let changed = place.run(&["run", "job.toml"]).expect(2);
    changed.stderr_contains(&["job"]);
    place.write(
        "receipt.json",
        r#"{"type": "object", "properties": {"total": {"type": "number", "not": {}}}}"#,
    );
    let ended = place.run(&["check", "job.toml"]).expect(2);
    ended.stderr_contains(&["receipt.json", "`not` at `#/properties/total` is not supported"]);
}

#[test]
fn the_embedded_model_answers_with_choices_and_patterns() {
    let place = Workplace::new();
    let cells: Vec<_> = (0..5_u8).map(|row| Some(png(row * 40))).collect();
    write_table(&place.path("table.parquet"), &image_table(&cells), 10);
    place.write(
        "job.toml",
        &format!(
            "{IMAGE_JOB}[answer]\nchoices = [\"dark\", \"bright\", \"neither dark nor bright\"]\n"
        ),
    );
    let _whole = place.run(&["run", "job.toml"]).expect(0);
    for answer in text_column(&place.answers("out"), "answer") {
        let answer = answer.unwrap();
        assert!(
            ["dark", "bright", "neither dark nor bright"].contains(&answer.as_str()),
            "{answer}"
        );
    }
    place.write(
        "job.toml",
        &format!("{IMAGE_JOB}[answer]\nregex = \"shade-[0-9]{{2,3}}(, sure)?\"\n"),
    );
    let _whole = place.run(&["run", "job.toml", "--set", "output.path=patterns"]).expect(0);
    for answer in text_column(&place.answers("patterns"), "answer") {
        let answer = answer.unwrap();
        let rest = answer.strip_prefix("shade-").unwrap().trim_end_matches(", sure");
        assert!(
            (2..4).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_digit()),
            "{answer}"
        );
    }
    let columns = "[answer.columns]\nshade = \"uint8\"\nis_dark = \"bool\"\n";
    place.write("job.toml", &format!("{IMAGE_JOB}{columns}"));
    let _whole = place.run(&["run", "job.toml", "--set", "output.path=columns"]).expect(0);
    let rows = place.answers("columns");
    assert_eq!(rows.column_by_name("shade").unwrap().null_count(), 0);
    assert_eq!(field(&rows, "is_dark").data_type(), &DataType::Boolean);
}

/// Rejected rows among the answers have nulls in all columns.
#[test]
fn inline_rejects_have_null_columns() {
    let place = Workplace::new();
    let cells = [Some(png(9)), Some(b"junk".to_vec()), Some(png(99))];
    write_table(&place.path("table.parquet"), &image_table(&cells), 10);
    let columns = "rejects = \"inline\"\n[answer.columns]\nkind = [\"a\", \"b\"]\nn = \"int16\"\n";
    place.write("job.toml", &format!("{IMAGE_JOB}{columns}"));
    let _whole = place.run(&["run", "job.toml"]).expect(0);
    let rows = place.answers("out");
    for name in ["kind", "n"] {
        let column = rows.column_by_name(name).unwrap();
        assert_eq!((column.is_null(0), column.is_null(1), column.is_null(2)), (false, true, false));
    }
}

#[test]
fn an_invalid_form_is_an_error_before_a_row_is_read() {
    let place = Workplace::new();
    for (answer, expected) in [
        ("[answer]\nchoices = []\n", "`answer.choices` must have at least one choice"),
        ("[answer]\nchoices = [\"a\", \"a\"]\n", "`answer.choices` lists `a` twice"),
        ("[answer]\nregex = \"a(\"\n", "unsupported regular expression `a(`"),
        (
            "[answer]\nregex = \"a\"\nchoices = [\"b\"]\n",
            "`answer.regex` conflicts with `answer.choices`",
        ),
        ("[answer]\ncolumns = { x = \"text[]\" }\n", "`answer.columns` `x` has the type `text[]`"),
        ("[answer]\ncolumns = { x = [] }\n", "`x` must have at least one choice"),
        ("[answer]\ncolumns = { answer = \"bool\" }\n", "`answer`, a reserved name"),
        ("[answer]\ncolumns = { legenda_x = \"bool\" }\n", "`legenda_x`, a reserved name"),
        ("[answer]\ncolumns = { question = \"bool\" }\n", "`question` is also a carried column"),
        ("[answer]\ncolumns = { x = \"bool\" }\norder = [\"y\"]\n", "`answer.order` has `y`"),
        ("[answer]\nschema = \"gone.json\"\n", "failed to read `answer.schema`"),
        (
            "[answer.schema]\ntype = \"object\"\nproperties = { x = { type = \"string\", format = \"email\" } }\n",
            "`format` at `#/properties/x`",
        ),
        (
            "[answer.schema]\ntype = \"object\"\nproperties = { x = { type = \"integer\", minimum = 3, maximum = 2 } }\n",
            "`minimum` at `#/properties/x` allows no number",
        ),
    ] {
        job_of(&place, "llama", answer);
        let ended = place.run(&["check", "job.toml"]).expect(2);
        ended.stderr_contains(&[expected]);
        assert!(!place.path("out").try_exists().unwrap());
    }
    job_of(&place, "llama", "[answer]\nchoices = [\"a rather long choice of many tokens\"]\n");
    let ended = place.run(&["run", "job.toml", "--set", "generation.max_new_tokens=3"]).expect(2);
    ended.stderr_contains(&["the shortest typed answer has", "at most 3 are generated"]);
    job_of(&place, "llama", "[answer]\nchoices = [\"a\"]\n");
    let ended = place.run(&["check", "job.toml", "--set", "generation.num_beams=2"]).expect(2);
    ended.stderr_contains(&["`generation.num_beams` must be 1 with `answer`"]);
}

/// The order of the columns is that in which the model writes them.
#[test]
fn columns_are_written_in_the_given_order() {
    let place = Workplace::new();
    let answer = "[answer]\norder = [\"why\", \"verdict\"]\ncolumns = { verdict = \"bool\", why = \"string(9)\", a = \"bool\" }\n";
    job_of(&place, "llama", answer);
    let _whole = place.run(&["run", "job.toml"]).expect(0);
    for answer in text_column(&place.answers("out"), "answer").into_iter().flatten() {
        let places = ["\"why\":", "\"verdict\":", "\"a\":"].map(|key| answer.find(key).unwrap());
        assert!(places.is_sorted(), "{answer}");
    }
}
