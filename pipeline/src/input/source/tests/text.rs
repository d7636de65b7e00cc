//! Text files: no value is changed, whatever the preceding rows contain.

use std::{collections::BTreeMap, io::Write};

use arrow::{array::RecordBatch, datatypes::DataType};
use legenda_schemas::job::SourceFormat;
use serde_json::{Value, json};

use super::{open, read, some, texts, try_open, write};
use crate::input::source::{Listed, SourceTable, cell::template_cell, names::format_of};

#[test]
fn a_later_cell_of_another_type_widens_its_column() {
    let dir = tempfile::tempdir().unwrap();
    let cell =
        |late: &'static str| move |n: usize| if n == 1400 { late.into() } else { n.to_string() };
    let late = [cell("many"), cell("0.5"), cell("9223372036854775808"), cell("007"), cell("")];
    let mut text = "text,number,large,code,null\n".to_owned();
    for n in 0..1500 {
        text.push_str(&late.each_ref().map(|cell| cell(n)).join(","));
        text.push('\n');
    }
    let table = open(&write(dir.path(), "t.csv", text.as_bytes()), SourceFormat::Csv);
    let (rows, problems) = read(&table, 100, 50);
    assert_eq!(problems, Vec::<String>::new());
    let schema = rows.schema();
    let types: Vec<&DataType> = schema.fields().iter().map(|field| field.data_type()).collect();
    use DataType::{Float64, Int64, UInt64, Utf8};
    assert_eq!(types, [&Utf8, &Float64, &UInt64, &Utf8, &Int64]);
    let names = ["text", "number", "large", "code", "null"];
    let shown = names.map(|name| texts(&rows, name)[1400].clone().unwrap_or_default());
    assert_eq!(shown, ["many", "0.5", "9223372036854775808", "007", ""]);
    for name in ["text", "large", "code", "null"] {
        assert_eq!(texts(&rows, name)[1399].as_deref(), Some("1399"));
    }
    let seen = |row| template_cell(&rows, "number", row).unwrap();
    assert_eq!((seen(1399), seen(1400)), (json!(1399), json!(0.5)));
}

/// Reads a table of one file without damaged rows.
fn sound(name: &str, bytes: &[u8], format: SourceFormat) -> RecordBatch {
    let dir = tempfile::tempdir().unwrap();
    let table = open(&write(dir.path(), name, bytes), format);
    let (rows, problems) = read(&table, 3, 2);
    assert_eq!(problems, Vec::<String>::new(), "{name}");
    rows
}

#[test]
fn values_of_json_are_read_as_they_are_written() {
    let lines = [
        r#"{"id": 14695981039346656037, "price": 1.10, "big": 123456789012345678901, "mixed": {"a": 1}}"#,
        r#"{"id": 1, "price": 2.50, "big": -1, "mixed": "text \u00e9", "empty": {}, "list": [1, 2.5]}"#,
        r#"{"id": 2, "price": 3.00, "big": null, "mixed": [1, {"b": 1.10}], "empty": {}, "list": []}"#,
        r#"{"id": 9007199254740993, "mixed": 1.50, "list": [], "deep": {"x": {"y": [{"z": "\ud842\udfb7"}]}}}"#,
        r#"{"id": 3, "mixed": true, "odd": 1e400, "list": null, "deep": {"x": {"y": [{}]}, "w": "w"}}"#,
    ];
    let rows = sound("t.jsonl", lines.join("\n").as_bytes(), SourceFormat::Jsonl);
    let schema = rows.schema();
    let kind = |name: &str| schema.field_with_name(name).unwrap().data_type().clone();
    assert_eq!(kind("id"), DataType::UInt64);
    assert_eq!(kind("price"), DataType::Decimal128(38, 2));
    assert_eq!(kind("big"), DataType::Decimal128(38, 0));
    for (name, expected) in [
        ("id", ["14695981039346656037", "1", "2", "9007199254740993", "3"]),
        ("price", ["1.10", "2.50", "3.00", "", ""]),
        ("big", ["123456789012345678901", "-1", "", "", ""]),
        ("mixed", ["{\"a\": 1}", "text \u{e9}", "[1, {\"b\": 1.10}]", "1.50", "true"]),
        ("empty", ["", "{}", "{}", "", ""]),
        ("odd", ["", "", "", "", "1e400"]),
    ] {
        assert_eq!(texts(&rows, name), some(&expected), "{name}");
    }
    let seen = |name, row| template_cell(&rows, name, row).unwrap();
    assert_eq!(seen("list", 1), json!([1.0, 2.5]));
    assert_eq!(seen("list", 2), json!([]));
    assert_eq!(seen("list", 4), json!(""));
    assert_eq!(seen("deep", 3), json!({"x": {"y": [{"z": "\u{20bb7}"}]}, "w": ""}));
}

#[test]
fn a_row_of_json_that_cannot_be_read_costs_itself() {
    let dir = tempfile::tempdir().unwrap();
    let nested = format!("{{\"a\": {}1{}}}", "[".repeat(30_000), "]".repeat(30_000));
    let lines = [
        r#"{"a": "one", "b": 1}"#,
        r#"{"a": "\ud842", "b": 2}"#,
        r#"{"a": "two", "c": "\udfb7"}"#,
        r#"{"a": "\ud842\u0041"}"#,
        &nested[..15_000],
        r#"{"a": "three", "b": 1.10"#,
        r#"{"a": "four"} trailing"#,
        "{\"a\": \"\u{1}\"}",
        r#"{"a": "five", "b": 3}"#,
    ];
    let path = write(dir.path(), "t.jsonl", lines.join("\n").as_bytes());
    let table = open(&path, SourceFormat::Jsonl);
    // Damaged rows do not affect types.
    assert_eq!(table.files[0].schema.field(1).data_type(), &DataType::Int64);
    let (rows, problems) = read(&table, 4, 3);
    assert_eq!(texts(&rows, "a"), some(&["one", "", "two", "", "", "", "", "", "five"]));
    let expected = [
        "1: line 2: column `a`: unpaired surrogate",
        "2: line 3: column `c`: unpaired surrogate",
        "3: line 4: column `a`: unpaired surrogate",
        "4: line 5: JSON is nested more than 128 levels deep",
        "5: line 6: invalid JSON at byte 25: unexpected end of text",
        "6: line 7: invalid JSON at byte 14: unexpected text after the value",
        "7: line 8: invalid JSON at byte 7: control character in a string",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.starts_with(expected), "{problem}");
    }
}

#[test]
fn an_object_that_is_used_as_a_dictionary_is_text() {
    let lines: Vec<String> = (0..2000).map(|n| format!("{{\"d\": {{\"k{n}\": {n}}}}}")).collect();
    let rows = sound("t.jsonl", lines.join("\n").as_bytes(), SourceFormat::Jsonl);
    assert_eq!(texts(&rows, "d")[1999].as_deref(), Some("{\"k1999\": 1999}"));
}

#[test]
fn lists_of_objects_are_tables() {
    let objects: Vec<Value> = (0..50)
        .map(|n| json!({"n": n, "text": format!("]}},{{ {n} \"\\"), "o": {"p": [n]}}))
        .collect();
    let list = json!(objects);
    let pretty = serde_json::to_string_pretty(&list).unwrap();
    let objects: Vec<String> =
        objects.iter().map(|object| serde_json::to_string_pretty(object).unwrap()).collect();
    for (name, text) in [
        ("list.json", list.to_string()),
        ("pretty.json", format!("\u{feff}\n{pretty}\n")),
        ("list.jsonl", list.to_string()),
        ("objects.json", objects.join("\n")),
        ("objects.jsonl", objects.join("\n")),
    ] {
        let rows = sound(name, text.as_bytes(), SourceFormat::Jsonl);
        assert_eq!(rows.num_rows(), 50, "{name}");
        assert_eq!(texts(&rows, "n")[49].as_deref(), Some("49"));
        assert_eq!(texts(&rows, "text")[7].as_deref(), Some("]},{ 7 \"\\"));
    }
    assert_eq!(sound("empty.json", b"[]", SourceFormat::Jsonl).num_rows(), 0);
    let dir = tempfile::tempdir().unwrap();
    let text = "[\n{\"a\": 1},\n{\"a\": },\n{\"a\": 2}\n, 5, {\"a\": \"cut";
    let path = write(dir.path(), "t.json", text.as_bytes());
    let (rows, problems) = read(&open(&path, SourceFormat::Jsonl), 9, 9);
    assert_eq!(texts(&rows, "a"), some(&["1", "", "2", "", ""]));
    let lines_named: Vec<&str> = problems.iter().filter_map(|it| it.split(": ").nth(1)).collect();
    assert_eq!(lines_named, ["line 3", "line 5", "line 5"], "{problems:?}");
    for text in ["{\"data\": [{\"a\": 1}]}", "{\n \"id\": {\"0\": 1},\n \"a\": {\"0\": 2}\n}"] {
        let path = write(dir.path(), "t.json", text.as_bytes());
        let (_, problem) = try_open(&path, SourceFormat::Jsonl).unwrap_err().path_and_problem();
        assert!(problem.contains("one JSON object") && problem.contains("jq"), "{problem}");
    }
    let one = sound("one.jsonl", b"{\"messages\": [{\"role\": \"user\"}]}", SourceFormat::Jsonl);
    assert_eq!(one.num_rows(), 1);
}

#[test]
fn separators_and_columns_without_names_are_found() {
    let read = |text: &str| sound("t.csv", text.as_bytes(), SourceFormat::Csv);
    let names = |rows: &RecordBatch| -> Vec<String> {
        rows.schema().fields().iter().map(|field| field.name().clone()).collect()
    };
    for delimiter in [",", ";", "\t", "|"] {
        let text = "id;question\n1;\"a;b\"\n2;\"c\nd, e\"\n3;\"x, y | z\"\n";
        let text = text.replace(';', delimiter);
        let rows = read(&text);
        assert_eq!(names(&rows), ["id", "question"], "{delimiter}");
        assert_eq!(texts(&rows, "id"), some(&["1", "2", "3"]));
    }
    // A separator within texts alone does not count.
    let rows = read("question\na; b\nc; d\n");
    assert_eq!(texts(&rows, "question"), some(&["a; b", "c; d"]));
    let rows = read("a,b\n1;2,3\n4;5,6\n");
    assert_eq!(names(&rows), ["a", "b"]);
    let rows = read("x;y, z;w\n1,5;2,5;3,5\n");
    assert_eq!(names(&rows), ["x", "y, z", "w"]);
    // Spreadsheets write empty trailing cells, or omit them.
    let rows = read("id,question,,,\n1,a,,,\n2,b\n3,c,,,,,\n");
    assert_eq!(names(&rows), ["id", "question"]);
    assert_eq!(texts(&rows, "question"), some(&["a", "b", "c"]));
    let rows = read(",a,\n0,x,\n1,y,z\n");
    assert_eq!(names(&rows), ["column_1", "a", "column_3"]);
    assert_eq!(texts(&rows, "column_3"), some(&["", "z"]));
}

#[test]
fn compressed_files_are_unpacked() {
    let gzip = |bytes: &[u8]| {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let lines: String = (0..100).map(|n| format!("{{\"n\": {n}, \"m\": \"x\"}}\n")).collect();
    let csv = (0..100).map(|n| format!("{n},x\n")).collect::<String>();
    let csv = format!("n,m\n{csv}");
    let (first, second) = lines.split_at(lines.len() / 2);
    for (name, bytes) in [
        ("t.jsonl.gz", gzip(lines.as_bytes())),
        // Concatenated gzip members, as created by `cat` and bgzip.
        ("t.ndjson.gz", [gzip(first.as_bytes()), gzip(second.as_bytes())].concat()),
        ("t.jsonl.zst", [zstd(first.as_bytes()), zstd(second.as_bytes())].concat()),
        ("t.csv.gz", gzip(csv.as_bytes())),
        ("t.tsv.gz", gzip(csv.replace(',', "\t").as_bytes())),
        ("t.csv", gzip(csv.as_bytes())),
    ] {
        let format = format_of(name).unwrap();
        let rows = sound(name, &bytes, format);
        assert_eq!(rows.num_rows(), 100, "{name}");
        assert_eq!(texts(&rows, "n")[99].as_deref(), Some("99"));
    }
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(4);
    builder.append_data(&mut header, "0.txt", &b"text"[..]).unwrap();
    let shard = builder.into_inner().unwrap();
    for (name, bytes) in
        [("t.tar.gz", gzip(&shard)), ("t.tar.zst", zstd(&shard)), ("t.tgz", gzip(&shard))]
    {
        let rows = sound(name, &bytes, format_of(name).unwrap());
        assert_eq!(texts(&rows, "txt"), some(&["text"]), "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [("t.csv.gz", gzip(csv.as_bytes())), ("t.csv.zst", zstd(csv.as_bytes()))] {
        let path = write(dir.path(), name, &bytes[..bytes.len() / 2]);
        let error = try_open(&path, SourceFormat::Csv).unwrap_err().to_string();
        assert!(error.contains("damaged "), "{error}");
    }
}

#[test]
fn chosen_types_hold_or_cost_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let types = |types: &[(&str, &str)]| {
        let parsed = types.iter().map(|(name, kind)| ((*name).to_owned(), kind.parse().unwrap()));
        parsed.collect::<BTreeMap<_, _>>()
    };
    let csv = write(dir.path(), "t.csv", b"id,sku,day\n1,007,2026-11-30\nx,8,\n3,9,soon\n");
    let lines = "{\"id\": 1, \"sku\": 7.50, \"day\": \"2026-11-30\"}\n{\"id\": [], \"sku\": \"8\"}\n\
                 {\"id\": 3, \"sku\": {\"a\": 9}, \"day\": \"soon\"}";
    let lines = write(dir.path(), "t.jsonl", lines.as_bytes());
    for (path, format, skus) in [
        (csv, SourceFormat::Csv, ["007", "8", "9"]),
        (lines, SourceFormat::Jsonl, ["7.50", "8", "{\"a\": 9}"]),
    ] {
        let mut table = open(&path, format);
        table.set_types(&types(&[("id", "int64"), ("sku", "string"), ("day", "date")])).unwrap();
        let (rows, problems) = read(&table, 9, 9);
        assert_eq!(rows.schema().field(0).data_type(), &DataType::Int64);
        assert_eq!(texts(&rows, "sku"), some(&skus));
        assert_eq!(texts(&rows, "day"), some(&["2026-11-30", "", ""]));
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("column `id`: expected"), "{problems:?}");
        assert!(problems[0].contains("expected an integer (Int64)"), "{problems:?}");
        assert!(problems[1].contains("column `day`: expected a date"), "{problems:?}");
        let error = table.set_types(&types(&[("none", "int64")])).unwrap_err().to_string();
        assert!(error.contains("`none`") && error.contains("`id`, `sku`, `day`"), "{error}");
    }
}

#[test]
fn types_of_several_files_change_no_value() {
    let dir = tempfile::tempdir().unwrap();
    let tables = [
        ("a", "{\"n\": 9007199254740993, \"m\": 1, \"o\": \"x\", \"p\": null}\n"),
        ("b", "{\"n\": 2.5, \"m\": 18446744073709551615, \"o\": {\"q\": 1}, \"p\": [1]}\n"),
    ];
    let listed = tables.map(|(name, text)| {
        let path = write(dir.path(), &format!("{name}.jsonl"), text.as_bytes());
        Listed::new(path.to_string_lossy().into_owned(), None)
    });
    let table = SourceTable::open(&listed, 1 << 20).unwrap();
    let (rows, problems) = read(&table, 4, 4);
    assert!(problems.is_empty());
    assert_eq!(texts(&rows, "n"), some(&["9007199254740993", "2.5"]));
    assert_eq!(texts(&rows, "m"), some(&["1", "18446744073709551615"]));
    assert_eq!(texts(&rows, "o"), some(&["x", "{\"q\": 1}"]));
    assert_eq!(template_cell(&rows, "p", 1), Some(json!([1])));
}
