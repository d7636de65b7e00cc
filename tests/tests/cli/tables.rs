//! Text tables: values reach prompts and answers unchanged, and errors name what cannot be read.

use std::{fs, io::Write, path::Path};

use arrow::{array::RecordBatch, compute::cast, datatypes::DataType};
use legenda_tests::{TEXT_JOB, Workplace, text_column, texts, write_table};

/// Returns a job that generates one token per row, so that a thousand rows are fast.
fn job(path: &str, prompt: &str) -> String {
    format!(
        "version = 1\n[task]\nkind = \"generate\"\nprompt = \"{prompt}\"\n[source]\npaths = [\"{path}\"]\n\
         [generation]\nmax_new_tokens = 1\n[output]\npath = \"out-{path}\"\n"
    )
}

fn shown(rows: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let cells = cast(rows.column_by_name(column).unwrap(), &DataType::Utf8).unwrap();
    let named = RecordBatch::try_from_iter_with_nullable([("cells", cells, true)]).unwrap();
    text_column(&named, "cells")
}

fn put(path: &Path, bytes: &[u8]) {
    fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

/// Cells of several types that occur only after the first thousand rows.
const LATE: [&str; 6] = ["1.5", "14695981039346656037", "1.10", "007", "-0.5", "1e400"];

#[test]
fn late_cells_are_carried_and_prompted_as_written() {
    let place = Workplace::new();
    for (idx, late) in LATE.iter().enumerate() {
        let cell = |row: usize| if row == 1050 { (*late).to_owned() } else { row.to_string() };
        let rows = 0..1100;
        let as_text = |row| format!("{{\"n\": \"{}\"}}\n", cell(row));
        let as_number = |row| format!("{{\"n\": {}}}\n", cell(row));
        let csv: String = rows.clone().map(|row| format!("{}\n", cell(row))).collect();
        place.write("a.jsonl", &rows.clone().map(as_text).collect::<String>());
        place.write("b.csv", &format!("n\n{csv}"));
        place.write("c.jsonl", &rows.clone().map(as_number).collect::<String>());
        let mut digests = Vec::new();
        for name in ["a.jsonl", "b.csv", "c.jsonl"] {
            if name == "c.jsonl" && *late == "007" {
                continue;
            }
            place.write("job.toml", &job(name, "{{ n }}"));
            let output = format!("output.path=out-{idx}-{name}");
            let run = place.run(&["run", "job.toml", "--set", &output]).expect(0);
            assert!(run.stdout.contains("rows_in 1100 == answers 1100"), "{late}: {}", run.stdout);
            let answers = place.answers(&format!("out-{idx}-{name}"));
            let cells = shown(&answers, "n");
            assert_eq!(cells[1050].as_deref(), Some(*late), "{name}");
            let same = |one: &str| one == "7" || one == "7.0";
            assert!(cells[7].as_deref().is_some_and(same), "{name}: {:?}", cells[7]);
            digests.push(text_column(&answers, "legenda_input_sha256"));
        }
        // The prompts equal those of a text column.
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{late}");
    }
}

#[test]
fn unparsable_rows_are_rejected() {
    let place = Workplace::new();
    let deep = format!("{{\"q\": \"deep\", \"x\": {}{}}}", "[".repeat(30_000), "]".repeat(30_000));
    let lines = [
        r#"{"q": "one \ud842\udfb7", "x": {}, "m": {"a": 1}}"#,
        &deep,
        r#"{"q": "two \ud842", "x": {}, "m": "text"}"#,
        r#"{"q": "three", "x": {}, "m": [1.10]}"#,
    ];
    place.write("t.jsonl", &lines.join("\n"));
    place.write("job.toml", &job("t.jsonl", "{{ q }}"));
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("rows_in 4 == answers 2 + rejects 2"), "{}", run.stdout);
    let answers = place.answers("out-t.jsonl");
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(text_column(&answers, "q"), [some("one \u{20bb7}"), some("three")]);
    assert_eq!(text_column(&answers, "x"), [some("{}"), some("{}")]);
    assert_eq!(text_column(&answers, "m"), [some("{\"a\": 1}"), some("[1.10]")]);
    let messages = text_column(&place.rejects("out-t.jsonl"), "legenda_message");
    let messages: Vec<String> = messages.into_iter().flatten().collect();
    assert!(
        messages[0].contains("line 2: JSON is nested more than 128 levels deep"),
        "{messages:?}"
    );
    assert!(messages[1].contains("line 3: column `q`: unpaired surrogate"), "{messages:?}");
}

#[test]
fn declared_types_are_checked_per_row() {
    let place = Workplace::new();
    place.write("t.csv", "id,q,sku\n1,one,7\nx,two,8\n3,three,9\n");
    place.write("job.toml", &job("t.csv", "{{ q }}"));
    let told = place.run(&["check", "job.toml"]).expect(0);
    assert!(told.stdout.contains("schema     id string, q string, sku int64"), "{}", told.stdout);
    let schema = "source.schema={ id = \"int64\", sku = \"string\" }";
    let told = place.run(&["check", "job.toml", "--set", schema]).expect(0);
    assert!(told.stdout.contains("schema     id int64, q string, sku string"), "{}", told.stdout);
    let run = place.run(&["run", "job.toml", "--set", schema]).expect(0);
    assert!(run.stdout.contains("rows_in 3 == answers 2 + rejects 1"), "{}", run.stdout);
    let message = text_column(&place.rejects("out-t.csv"), "legenda_message")[0].clone().unwrap();
    assert_eq!(message, "line 3: column `id`: expected an integer (Int64), got `x`");
    let schema = "source.schema={ ids = \"int64\" }";
    place
        .run(&["check", "job.toml", "--set", schema])
        .expect(2)
        .stderr_contains(&["`ids`", "`sku`"]);
    let schema = "source.schema={ id = \"int65\" }";
    let told = place.run(&["check", "job.toml", "--set", schema]).expect(2);
    told.stderr_contains(&["source.schema.id", "`int65`", "decimal(10, 2)"]);
    write_table(&place.path("t.parquet"), &texts(&["x"]), 10);
    let schema = ["--set", "source.schema={ id = \"int64\" }", "--set", "task.prompt={{ id }}"];
    let paths = ["--set", "source.paths=[\"t.parquet\"]"];
    let told = place.run(&[&["check", "job.toml"][..], &schema, &paths].concat()).expect(2);
    told.stderr_contains(&["source.schema", "t.parquet", "declares its own types"]);
}

#[test]
fn tables_with_any_compression_and_separator_are_read() {
    let place = Workplace::new();
    let rows = ["one", "two, with a comma", "three"];
    let lines: Vec<String> =
        rows.iter().map(|q| serde_json::json!({"id": 7, "question": q}).to_string()).collect();
    let csv = |separator: &str| {
        let record = |q: &&str| format!("7{separator}\"{q}\"\n");
        format!("id{separator}question\n{}", rows.iter().map(record).collect::<String>())
    };
    place.write("a.jsonl", &lines.join("\n"));
    place.write("b.csv", &csv(";"));
    place.write("c.csv", &csv("\t"));
    place.write("d.csv", &csv("|"));
    place.write("e.csv", "id,question,,,\n7,one,,,\n7,\"two, with a comma\",,\n7,three\n");
    place.write("f.json", &format!("[{}]", lines.join(",\n ")));
    put(&place.path("g.jsonl.zst"), &zstd_of(lines.join("\n").as_bytes()));
    let job_of =
        |name: &str| format!("{}[source.columns]\ntext = \"question\"\n", job(name, "{{ text }}"));
    let mut all = Vec::new();
    for name in ["a.jsonl", "b.csv", "c.csv", "d.csv", "e.csv", "f.json", "g.jsonl.zst"] {
        place.write("job.toml", &job_of(name));
        let run = place.run(&["run", "job.toml"]).expect(0);
        assert!(run.stdout.contains("rows_in 3 == answers 3"), "{name}: {}", run.stdout);
        let output = format!("out-{name}");
        let told = place.run(&["verify", &output]).expect(0);
        assert!(told.stdout.contains("rows_in 3"), "{name}: {}", told.stdout);
        let answers = place.answers(&output);
        let names = ["id", "question", "answer", "legenda_input_sha256"];
        all.push(names.map(|column| shown(&answers, column)));
        // Committed rows are not processed again.
        let again = place.run(&["run", "job.toml"]).expect(0);
        assert!(again.stdout.contains("0 rows in"), "{name}: {}", again.stdout);
    }
    assert!(all.iter().all(|columns| *columns == all[0]), "{all:?}");
    // A JSON file next to a table in a folder is not read as one.
    fs::create_dir(place.path("folder")).unwrap();
    place.write("folder/t.csv", &csv(","));
    place.write("folder/info.json", "{\"about\": 1}");
    place.write("job.toml", &job_of("folder"));
    let told = place.run(&["check", "job.toml"]).expect(0);
    assert!(told.stdout.contains("3 rows in 1 file"), "{}", told.stdout);
}

/// Returns a zstd frame of one raw block that holds `bytes`.
fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    let n_bytes = u32::try_from(bytes.len()).unwrap();
    let block = (n_bytes << 3 | 1).to_le_bytes();
    // A single segment with a four-byte content size.
    [&b"\x28\xb5\x2f\xfd\xa0"[..], &n_bytes.to_le_bytes(), &block[..3], bytes].concat()
}

#[test]
fn files_of_unsupported_formats_are_named() {
    let place = Workplace::new();
    place.write("job.toml", TEXT_JOB);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n";
    for (name, bytes, told) in [
        ("t.xlsx", &b"PK\x03\x04 and more"[..], "save the sheet as CSV"),
        ("t.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "save the sheet as CSV"),
        ("t.feather", b"FEA1\0 and more", "convert it to Parquet"),
        ("t.txt", b"just words\n", "source.format"),
        ("t.csv", pointer.as_bytes(), "git lfs pull"),
        ("t.parquet", pointer.as_bytes(), "git lfs pull"),
        ("t.jsonl", pointer.as_bytes(), "git lfs pull"),
        ("t.tar", pointer.as_bytes(), "git lfs pull"),
        ("t.csv.bz2", b"BZh91AY&SY\xc3\x28", "decompress it"),
        ("t.json", b"{\"data\": [{\"a\": 1}]}", "jq"),
        ("t.csv.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03damage", "damaged gzip data"),
    ] {
        put(&place.path(name), bytes);
        let paths = format!("source.paths=[\"{name}\"]");
        place.run(&["run", "job.toml", "--set", &paths]).expect(2).stderr_contains(&[name, told]);
        place.run(&["inspect", name]).expect(2).stderr_contains(&[name, told]);
    }
}

#[cfg(feature = "sql")]
#[test]
fn queries_see_numbers_of_every_size() {
    let place = Workplace::new();
    let lines = "{\"id\": 18446744073709551615, \"price\": 1.10, \"big\": 123456789012345678901}\n\
                 {\"id\": 2, \"price\": 2.50, \"big\": 1}\n";
    place.write("t.jsonl", lines);
    let query = "source.query=SELECT * FROM source WHERE price < 2 AND id > 5";
    place.write("job.toml", &job("t.jsonl", "{{ price }}"));
    let run = place.run(&["run", "job.toml", "--set", query]).expect(0);
    assert!(run.stdout.contains("rows_in 1 == answers 1"), "{}", run.stdout);
    let answers = place.answers("out-t.jsonl");
    assert_eq!(shown(&answers, "price"), [Some("1.10".to_owned())]);
    assert_eq!(shown(&answers, "big"), [Some("123456789012345678901".to_owned())]);
}

#[test]
fn inspect_suggests_conversations_and_no_id_columns() {
    let place = Workplace::new();
    let turn = |text: &str| serde_json::json!([{"role": "user", "content": text}]);
    let lists = ["Hi there", "Who?"].map(|text| {
        format!("{}\n", serde_json::json!({"messages": turn(text), "note": "a few words"}))
    });
    let as_text = ["Hi there", "Who?"].map(|text| {
        format!("{}\n", serde_json::json!({"chat": turn(text).to_string(), "note": "a few words"}))
    });
    for (name, lines, column) in
        [("a.jsonl", lists.concat(), "messages"), ("b.jsonl", as_text.concat(), "chat")]
    {
        place.write(name, &lines);
        let told = place.run(&["inspect", name]).expect(0).stdout;
        assert!(told.contains(&format!("{column}: conversations")), "{told}");
        assert!(told.contains(&format!("messages = \"{column}\"")), "{told}");
        assert!(!told.contains(" text = "), "{told}");
    }
    // Ids longer than the texts are still recognized as ids.
    let rows = |n: usize| format!("00000000-0000-0000-0000-{n:012},Red shoe {n},{n}\n");
    place.write("c.csv", &format!("doc_id,title,n\n{}", (0..9).map(rows).collect::<String>()));
    let told = place.run(&["inspect", "c.csv"]).expect(0).stdout;
    assert!(told.contains("text = \"title\""), "{told}");
    place.write("d.csv", "id,n\na1,1\na2,2\n");
    place.run(&["inspect", "d.csv"]).expect(0).stderr_contains(&["no job proposed"]);
    place.write("e.csv", "id;question\n1;What is it?\n");
    let told = place.run(&["inspect", "e.csv"]).expect(0).stdout;
    assert!(told.contains("text = \"question\""), "{told}");
}
