//! Malformed and extreme tables: every row is answered or rejected, and the run completes.

use std::{fs, sync::Arc};

use arrow::array::{
    ArrayRef, AsArray, BinaryArray, DictionaryArray, FixedSizeListBuilder, Int32Array, Int64Array,
    LargeListBuilder, LargeStringBuilder, ListArray, ListBuilder, MapBuilder, RecordBatch,
    StringArray, StringBuilder, StringViewBuilder, StructArray, UInt64Array,
    types::{Int32Type, UInt8Type, UInt64Type},
};
use arrow::compute::take_record_batch;
use legenda_tests::{
    CommandResult, IMAGE_JOB, TEXT_JOB, Workplace, image_table, png, text_column, texts,
    write_table,
};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};

fn run(place: &Workplace, table: &RecordBatch, group_rows: usize, more: &[&str]) -> CommandResult {
    write_table(&place.path("table.parquet"), table, group_rows);
    place.write("job.toml", TEXT_JOB);
    place.run(&[&["run", "job.toml", "--set", "generation.max_new_tokens=1"], more].concat())
}

fn counts(ended: &CommandResult, rows: usize, answers: usize, rejects: usize) {
    let line = format!("rows_in {rows} == answers {answers} + rejects {rejects}");
    assert!(ended.stdout.contains(&line), "no `{line}` in:\n{}", ended.stdout);
}

#[test]
fn a_table_without_rows_completes_immediately() {
    let place = Workplace::new();
    let ended = run(&place, &texts(&[]), 10, &[]).expect(0);
    counts(&ended, 0, 0, 0);
    let file = fs::File::open(place.path("table.parquet")).unwrap();
    let reader = parquet::file::reader::SerializedFileReader::new(file).unwrap();
    let metadata = parquet::file::reader::FileReader::metadata(&reader);
    assert_eq!(metadata.num_row_groups(), 0, "expected no row groups");
}

#[test]
fn thousands_of_single_row_groups_are_planned() {
    let place = Workplace::new();
    let ended = run(&place, &texts(&vec!["dog?"; 10_000]), 1, &["--limit", "6"]).expect(0);
    counts(&ended, 6, 6, 0);
    let told = place.run(&["check", "job.toml"]).expect(0).stdout;
    assert!(told.contains("10000 rows"), "{told}");
}

#[test]
fn ids_may_be_null_or_duplicate() {
    let place = Workplace::new();
    let ids: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("a"), None]));
    let questions: ArrayRef = Arc::new(StringArray::from(vec!["dog?"; 4]));
    let table = RecordBatch::try_from_iter([("id", ids), ("question", questions)]).unwrap();
    let ended = run(&place, &table, 10, &[]).expect(0);
    counts(&ended, 4, 4, 0);
    let carried = text_column(&place.answers("out"), "id");
    assert_eq!(carried, [Some("a".to_owned()), None, Some("a".to_owned()), None]);
}

#[test]
fn null_empty_and_oversized_texts_are_rejected_alone() {
    let place = Workplace::new();
    let long = "word ".repeat(20_000);
    let huge = "x".repeat(2 << 20);
    let questions =
        [Some("dog?"), None, Some(""), Some(" \n\t"), Some(&long), Some(&huge), Some("a\0b?")];
    let ids = StringArray::from_iter_values((0..questions.len()).map(|row| format!("row-{row}")));
    let columns: [(&str, ArrayRef); 2] =
        [("id", Arc::new(ids)), ("question", Arc::new(StringArray::from(questions.to_vec())))];
    let ended = run(&place, &RecordBatch::try_from_iter(columns).unwrap(), 10, &[]).expect(0);
    counts(&ended, 7, 2, 5);
    let codes = text_column(&place.rejects("out"), "legenda_code");
    let codes: Vec<&str> = codes.iter().map(|code| code.as_deref().unwrap()).collect();
    let expected = ["row_empty", "row_empty", "row_empty", "prompt_too_long", "text_too_long"];
    assert_eq!(codes, expected);
}

/// Writes a table, then replaces each of `markers` by invalid UTF-8.
fn write_damaged(place: &Workplace, table: &RecordBatch, by_dictionary: bool, markers: &[&str]) {
    let properties = WriterProperties::builder().set_dictionary_enabled(by_dictionary).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, table.schema(), Some(properties)).unwrap();
    writer.write(table).unwrap();
    writer.close().unwrap();
    for marker in markers {
        let places = bytes.windows(marker.len()).enumerate();
        let found = places.filter(|(_, window)| *window == marker.as_bytes()).map(|(at, _)| at);
        let found: Vec<usize> = found.collect();
        assert!(!found.is_empty());
        found.iter().for_each(|at| bytes[*at] = 0xFF);
    }
    let mut file = fs::File::create(place.path("table.parquet")).unwrap();
    std::io::Write::write_all(&mut file, &bytes).unwrap();
}

#[test]
fn invalid_utf8_costs_its_row() {
    let words: Vec<String> = (0..12).map(|row| format!("what is marker{row:02}?")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // Values in data pages, and in a dictionary, which is read as a whole.
    for by_dictionary in [false, true] {
        let place = Workplace::new();
        write_damaged(&place, &texts(&words), by_dictionary, &["marker05", "marker06", "marker11"]);
        place.write("job.toml", TEXT_JOB);
        let ended = place.run(&["run", "job.toml"]).expect(0);
        counts(&ended, 12, 9, 3);
        let rejects = place.rejects("out");
        let rows = rejects.column_by_name("legenda_row").unwrap().as_primitive::<UInt64Type>();
        let mut rows = rows.values().to_vec();
        rows.sort_unstable();
        assert_eq!(rows, [5, 6, 11]);
        let codes = text_column(&rejects, "legenda_code");
        assert!(codes.iter().all(|code| code.as_deref() == Some("text_not_utf8")), "{codes:?}");
        let message = text_column(&rejects, "legenda_message")[0].clone().unwrap();
        assert!(message.contains("`question`"), "{message}");
        // The reject keeps the valid columns of the row.
        assert!(text_column(&rejects, "id").contains(&Some("row-6".to_owned())));
        assert_eq!(text_column(&rejects, "question"), [None, None, None]);
        // The other rows keep their carried columns.
        let mut answered: Vec<String> =
            text_column(&place.answers("out"), "id").into_iter().flatten().collect();
        answered.sort();
        let mut expected: Vec<String> = (0..12)
            .filter(|row| ![5, 6, 11].contains(row))
            .map(|row| format!("row-{row}"))
            .collect();
        expected.sort();
        assert_eq!(answered, expected);
        let carried = text_column(&place.answers("out"), "question");
        assert!(carried.iter().flatten().all(|text| text.starts_with("what is marker")));
        assert!(place.run(&["verify", "out"]).expect(0).stdout.contains("verified"));
    }
}

#[test]
fn invalid_utf8_in_lists_structs_and_maps_costs_its_row() {
    let marked = |column: &str, row: usize| format!("{column} marker{row:02}");
    let (mut lists, mut maps) = (
        ListBuilder::new(StringBuilder::new()),
        MapBuilder::new(None, StringBuilder::new(), LargeStringBuilder::new()),
    );
    let mut large = LargeListBuilder::new(StringViewBuilder::new());
    let mut fixed = FixedSizeListBuilder::new(StringBuilder::new(), 2);
    for row in 0..12 {
        lists.values().append_value("first");
        lists.values().append_value(marked("list", row));
        lists.append(row != 3);
        large.values().append_value(marked("large", row));
        large.append(true);
        fixed.values().append_value(marked("fixed", row));
        fixed.values().append_null();
        fixed.append(true);
        maps.keys().append_value("key");
        maps.values().append_value(marked("map", row));
        maps.append(true).unwrap();
    }
    let names = StringArray::from_iter_values((0..12).map(|row| marked("struct", row)));
    let sizes = Int64Array::from_iter_values(0..12);
    let nested: [(&str, ArrayRef); 3] =
        [("name", Arc::new(names)), ("size", Arc::new(sizes)), ("tags", Arc::new(lists.finish()))];
    let nested = StructArray::from(RecordBatch::try_from_iter(nested).unwrap());
    let plain = texts(&["dog?"; 12]);
    let columns: [(&str, ArrayRef); 6] = [
        ("id", plain.column(0).clone()),
        ("question", plain.column(1).clone()),
        ("nested", Arc::new(nested)),
        ("large", Arc::new(large.finish())),
        ("fixed", Arc::new(fixed.finish())),
        ("map", Arc::new(maps.finish())),
    ];
    let table = RecordBatch::try_from_iter(columns).unwrap();
    let markers =
        ["struct marker02", "list marker04", "large marker05", "fixed marker08", "map marker11"];
    for by_dictionary in [false, true] {
        let place = Workplace::new();
        write_damaged(&place, &table, by_dictionary, &markers);
        place.write("job.toml", TEXT_JOB);
        let ended = place.run(&["run", "job.toml"]).expect(0);
        counts(&ended, 12, 7, 5);
        let rejects = place.rejects("out");
        let messages = text_column(&rejects, "legenda_message");
        for (message, column) in messages.iter().zip(["nested", "nested", "large", "fixed", "map"])
        {
            let message = message.as_ref().unwrap();
            assert!(
                message.contains(&format!("column `{column}`: the text is not valid UTF-8")),
                "{message}"
            );
        }
        let rows = rejects.column_by_name("legenda_row").unwrap().as_primitive::<UInt64Type>();
        assert_eq!(rows.values().to_vec(), [2, 4, 5, 8, 11]);
        // The other rows keep their carried columns.
        let answers = place.answers("out");
        let intact = UInt64Array::from(vec![0, 1, 3, 6, 7, 9, 10]);
        let expected = take_record_batch(&table, &intact).unwrap();
        assert_eq!(text_column(&answers, "id"), text_column(&expected, "id"));
        for name in ["nested", "large", "fixed", "map"] {
            assert_eq!(&answers[name], &expected[name], "{name}");
        }
        assert!(place.run(&["verify", "out"]).expect(0).stdout.contains("verified"));
    }
}

#[test]
fn columns_of_unsupported_types_are_refused_by_name() {
    let place = Workplace::new();
    let words: DictionaryArray<Int32Type> = ["dog?", "cat?"].into_iter().collect();
    let numbers: DictionaryArray<Int32Type> =
        DictionaryArray::new(Int32Array::from(vec![0, 1]), Arc::new(Int32Array::from(vec![7, 8])));
    let lists = ListArray::from_iter_primitive::<UInt8Type, _, _>([Some([Some(1)]), Some([None])]);
    let job = TEXT_JOB.replace("id = \"id\", ", "");
    place.write("job.toml", &job);
    let table = RecordBatch::try_from_iter([("question", Arc::new(words) as ArrayRef)]).unwrap();
    write_table(&place.path("table.parquet"), &table, 10);
    counts(&place.run(&["run", "job.toml", "--set", "output.path=words"]).expect(0), 2, 2, 0);
    let columns: [(ArrayRef, &str); 2] = [(Arc::new(numbers), "Int32"), (Arc::new(lists), "List")];
    for (column, kind) in columns {
        let table = RecordBatch::try_from_iter([("question", column)]).unwrap();
        write_table(&place.path("table.parquet"), &table, 10);
        let ended = place.run(&["run", "job.toml"]).expect(2);
        ended.stderr_contains(&["source.columns.text", "`question`", kind]);
    }
}

#[test]
fn files_with_different_schemas_are_merged_or_refused_before_a_row_is_read() {
    let place = Workplace::new();
    fs::create_dir(place.path("tables")).unwrap();
    let good = texts(&["dog?"]);
    write_table(&place.path("tables/a.parquet"), &good, 10);
    place.write("job.toml", &TEXT_JOB.replace("table.parquet", "tables"));
    // A column missing from the second file is null there.
    let without = good.project(&[0]).unwrap();
    write_table(&place.path("tables/b.parquet"), &without, 10);
    counts(&place.run(&["run", "job.toml"]).expect(0), 2, 1, 1);
    // A column has a different type there.
    let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"row-0"]));
    let drifted =
        RecordBatch::try_from_iter([("id", bytes), ("question", Arc::clone(good.column(1)))]);
    write_table(&place.path("tables/b.parquet"), &drifted.unwrap(), 10);
    let ended = place.run(&["run", "job.toml"]).expect(2);
    ended.stderr_contains(&["`id`", "b.parquet", "Binary", "Utf8"]);
}

#[test]
fn an_image_of_200_mb_is_rejected_with_its_size_within_the_memory_limit() {
    let place = Workplace::new();
    let mut cells: Vec<Option<Vec<u8>>> = (0..6).map(|shade| Some(png(shade))).collect();
    cells[2] = Some(vec![0xAB; 200_000_000]);
    write_table(&place.path("table.parquet"), &image_table(&cells), 10);
    place.write("job.toml", IMAGE_JOB);
    let ended = place.run(&["run", "job.toml"]).expect(0);
    counts(&ended, 6, 5, 1);
    let message = text_column(&place.rejects("out"), "legenda_message")[0].clone().unwrap();
    assert!(message.contains("200000000"), "{message}");
    let report = fs::read(place.path("out.legenda/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert!(report["peak_memory_bytes"].as_u64() <= report["memory_limit_bytes"].as_u64());
}

#[test]
fn too_deeply_nested_values_cost_their_row() {
    const DEPTH: usize = 30_000;
    let place = Workplace::new();
    let lists = "[".repeat(DEPTH) + &"]".repeat(DEPTH);
    let objects = "{\"a\":".repeat(DEPTH) + "1" + &"}".repeat(DEPTH);
    let rows = [
        "{\"id\": \"first\", \"question\": \"dog?\"}".to_owned(),
        format!("{{\"id\": \"lists\", \"question\": {lists}}}"),
        format!("{{\"id\": \"objects\", \"question\": \"cat?\", \"more\": {objects}}}"),
        format!("{{\"id\": \"open\", \"question\": {}", "[".repeat(DEPTH)),
        format!("{{\"id\": \"text\", \"question\": {}}}", serde_json::json!(lists)),
        "{\"id\": \"last\", \"question\": \"hen?\"}".to_owned(),
    ];
    place.write("t.jsonl", &(rows.join("\n") + "\n"));
    place.write("job.toml", &TEXT_JOB.replace("table.parquet", "t.jsonl"));
    let ended = place.run(&["run", "job.toml", "--set", "limits.text_bytes=100B"]).expect(0);
    counts(&ended, 6, 2, 4);
    let again = place.run(&["run", "job.toml", "--set", "limits.text_bytes=100B"]).expect(0);
    assert!(again.stdout.contains("0 rows in"), "{}", again.stdout);
    // Conversations are JSON within a cell.
    let turn = "[{\"role\": \"user\", \"content\": \"dog?\"}]";
    let cells = [turn, lists.as_str(), objects.as_str()].map(|cell| serde_json::json!(cell));
    let rows = cells.map(|cell| format!("{{\"id\": \"a\", \"question\": {cell}}}\n"));
    place.write("t.jsonl", &rows.concat());
    let job = TEXT_JOB.replace("table.parquet", "t.jsonl").replace("text = ", "messages = ");
    place.write("job.toml", &job);
    counts(&place.run(&["run", "job.toml", "--overwrite"]).expect(0), 3, 1, 2);
    // One line of a batch file.
    let line = |id: &str, content: &str| {
        format!(
            "{{\"custom_id\": \"{id}\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": \
             {{\"model\": \"default\", \"max_tokens\": 2, \"messages\": [{{\"role\": \"user\", \"content\": \
             {content}}}]}}}}\n"
        )
    };
    place.write("batch.jsonl", &[line("good", "\"dog?\""), line("deep", &lists)].concat());
    drop(place.run(&["batch", "batch.jsonl", "--out", "answers.jsonl"]).expect(0));
    let answers = std::fs::read_to_string(place.path("answers.jsonl")).unwrap();
    assert_eq!(answers.lines().count(), 2, "{answers}");
    assert!(answers.contains("\"good\"") && answers.contains("\"deep\""), "{answers}");
}

#[test]
fn oversized_templates_and_queries_are_one_error() {
    const TIMES: usize = 30_000;
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &texts(&["dog?"]), 5);
    let with = |section: &str, key: &str, value: &str| {
        let value = serde_json::json!(value);
        let section = format!("[{section}]\n");
        place
            .write("job.toml", &TEXT_JOB.replace(&section, &format!("{section}{key} = {value}\n")));
    };
    let expressions = [
        format!("{{{{ text{} }}}}", ".a".repeat(TIMES)),
        format!("{{{{ {}1 }}}}", "1+".repeat(TIMES)),
        format!("{{{{ {}1 }}}}", "-".repeat(TIMES)),
        format!("{{{{ {}1 }}}}", "not ".repeat(TIMES)),
        format!("{{{{ text{} }}}}", "|upper".repeat(TIMES)),
        format!("{{{{ {}1{} }}}}", "(".repeat(TIMES), ")".repeat(TIMES)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(TIMES)),
    ];
    for prompt in &expressions {
        with("task", "prompt", prompt);
        let refused = place.run(&["check", "job.toml"]).expect(2);
        let told = refused.stderr;
        assert!(told.contains("`task.prompt`") && told.len() < 2000, "{told}");
    }
    if cfg!(feature = "sql") {
        for term in ["1 + ", "id = 'a' OR ", "NOT id = 'a' AND ", "1 - 2 * "] {
            let query = format!("SELECT * FROM source WHERE {}1 = 1", term.repeat(TIMES / 2));
            with("source", "query", &query);
            let refused = place.run(&["check", "job.toml"]).expect(2);
            assert!(refused.stderr.len() < 2000, "{}", refused.stderr);
            refused.stderr_contains(&["operators"]);
        }
    }
    // Unbounded growth during rendering costs only its row.
    for prompt in [
        "{% set l = ['x' * 900000] * 7000 %}{{ l | join }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}",
        "{% set ns = namespace(l=['x' * 1000]) %}{% for i in range(64) %}{% set ns.l = ns.l + ns.l %}\
         {% endfor %}{{ ns.l | join }}",
        "{{ ('%s' * 100000) | format(*range(100000)) }}",
        "{{ ('x' * 100000) | replace('x', 'y' * 100000) }}",
    ] {
        with("task", "prompt", prompt);
        let ended = place.run(&["run", "job.toml", "--overwrite"]);
        match ended.code {
            Some(0) => counts(&ended, 1, 0, 1),
            code => assert_eq!(code, Some(2), "{prompt}: {}", ended.stderr),
        }
    }
}
