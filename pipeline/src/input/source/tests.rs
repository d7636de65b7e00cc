//! Files of other writers are read without changes, however they are split; damage rejects only its row.

mod text;

use std::{
    fs::File,
    io::Write,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    },
    compute::concat_batches,
    datatypes::DataType,
};
use legenda_schemas::job::SourceFormat;
use proptest::prelude::*;

use super::{BytesRead, Listed, ReadRows, SourceError, SourceTable, reader::FileReader};

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    File::create(&path).unwrap().write_all(bytes).unwrap();
    path
}

fn try_open(path: &Path, format: SourceFormat) -> Result<SourceTable, SourceError> {
    SourceTable::open(&[Listed::new(path.to_string_lossy().into_owned(), Some(format))], 1 << 20)
}

fn open(path: &Path, format: SourceFormat) -> SourceTable {
    try_open(path, format).unwrap_or_else(|error| panic!("{error}"))
}

/// Reads a whole table in spans of `span_rows` rows, one at a time.
fn read(table: &SourceTable, span_rows: usize, batch_rows: usize) -> (RecordBatch, Vec<String>) {
    let (mut batches, mut problems) = (Vec::new(), Vec::new());
    let (mut file_rows, mut path) = (0, String::new());
    for span in table.spans(span_rows, None) {
        if path != span.object.path {
            (file_rows, path) = (0, span.object.path.clone());
        }
        assert_eq!(span.file_row_start, file_rows);
        file_rows += span.n_rows as u64;
        let file = table.file(&span.object.path).unwrap();
        let reader = FileReader::open(file, &BytesRead::default()).unwrap();
        assert_eq!(*reader.object(), span.object);
        let rows: Range<usize> = span.row_start..span.row_start + span.n_rows;
        let mut n_rows = 0;
        for read in reader.read(span.row_group, &[rows], None, batch_rows).unwrap() {
            let ReadRows { rows, damaged } = read.unwrap();
            assert!(rows.num_rows() <= batch_rows && rows.num_rows() > 0);
            problems.extend(damaged.iter().map(|one| {
                format!("{}: {}", file_rows_before(&span, n_rows) + one.row, one.problem)
            }));
            n_rows += rows.num_rows();
            batches.push(rows);
        }
        assert_eq!(n_rows, span.n_rows);
    }
    let schema = Arc::clone(&table.files[0].schema);
    (concat_batches(&schema, &batches).unwrap(), problems)
}

fn file_rows_before(span: &legenda_schemas::span::Span, n_rows: usize) -> usize {
    usize::try_from(span.file_row_start).unwrap() + n_rows
}

/// Rows of the types found in text files.
fn any_rows() -> impl Strategy<Value = RecordBatch> {
    let text = prop::option::of("[ -~\u{e4}\u{1f980}\r\n\t\",;]{1,20}");
    let row = (text, any::<Option<i64>>(), prop::option::of(-1e9..1e9_f64), any::<Option<bool>>());
    prop::collection::vec(row, 0..60).prop_map(|rows| {
        let texts: StringArray = rows.iter().map(|row| row.0.as_deref()).collect();
        let wholes: Int64Array = rows.iter().map(|row| row.1).collect();
        let numbers: Float64Array = rows.iter().map(|row| row.2).collect();
        let truths: BooleanArray = rows.iter().map(|row| row.3).collect();
        let columns: [(&str, ArrayRef); 4] = [
            ("text", Arc::new(texts)),
            ("whole", Arc::new(wholes)),
            ("number", Arc::new(numbers)),
            ("truth", Arc::new(truths)),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
            .unwrap()
    })
}

/// Compares columns by their displayed values: types of short columns may be inferred differently.
fn assert_same(read: &RecordBatch, written: &RecordBatch) {
    assert_eq!(read.num_rows(), written.num_rows());
    for (field, expected) in written.schema().fields().iter().zip(written.columns()) {
        let Some(actual) = read.column_by_name(field.name()) else {
            // No row has a value to infer the type from.
            assert_eq!(expected.null_count(), expected.len());
            continue;
        };
        let number = |column: &ArrayRef| arrow::compute::cast(column, &DataType::Float64).unwrap();
        if *field.data_type() == DataType::Float64 {
            assert_eq!(number(actual).as_ref(), expected.as_ref());
        } else {
            let text = |column: &ArrayRef| arrow::compute::cast(column, &DataType::Utf8).unwrap();
            assert_eq!(text(actual).as_ref(), text(expected).as_ref(), "{}", field.name());
        }
    }
}

/// Writes CSV with the writer of `csv_core`.
fn csv_of(rows: &RecordBatch, delimiter: u8) -> Vec<u8> {
    let mut writer = csv_core::WriterBuilder::new().delimiter(delimiter).build();
    let mut bytes = vec![0; 1 << 16];
    let mut n_bytes = 0;
    let names: Vec<String> =
        rows.schema().fields().iter().map(|field| field.name().clone()).collect();
    let cells: Vec<ArrayRef> = rows
        .columns()
        .iter()
        .map(|column| arrow::compute::cast(column, &DataType::Utf8).unwrap())
        .collect();
    let cell = |row: usize, column: &ArrayRef| {
        let column = column.as_string::<i32>();
        if column.is_null(row) { String::new() } else { column.value(row).to_owned() }
    };
    let records = (0..rows.num_rows()).map(|row| cells.iter().map(|c| cell(row, c)).collect());
    for record in std::iter::once(names).chain(records) {
        for (idx, cell) in record.iter().enumerate() {
            if idx > 0 {
                n_bytes += writer.delimiter(&mut bytes[n_bytes..]).1;
            }
            n_bytes += writer.field(cell.as_bytes(), &mut bytes[n_bytes..]).2;
        }
        n_bytes += writer.terminator(&mut bytes[n_bytes..]).1;
    }
    bytes.truncate(n_bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn csv_is_read_as_it_was_written(
        rows in any_rows(),
        span_rows in 1_usize..20,
        batch_rows in 1_usize..9,
        name in prop::sample::select(vec!["t.csv", "t.tsv"]),
    ) {
        prop_assume!(rows.num_rows() > 0);
        let bytes = csv_of(&rows, if name.ends_with("tsv") { b'\t' } else { b',' });
        let dir = tempfile::tempdir().unwrap();
        let table = open(&write(dir.path(), name, &bytes), SourceFormat::Csv);
        let (read, problems) = read(&table, span_rows, batch_rows);
        prop_assert_eq!(problems, Vec::<String>::new());
        assert_same(&read, &rows);
    }

    #[test]
    fn json_lines_are_read_as_they_were_written(
        rows in any_rows(),
        span_rows in 1_usize..20,
        batch_rows in 1_usize..9,
    ) {
        prop_assume!(rows.num_rows() > 0);
        let mut bytes = Vec::new();
        let mut writer = arrow::json::LineDelimitedWriter::new(&mut bytes);
        writer.write(&rows).unwrap();
        writer.finish().unwrap();
        drop(writer);
        let dir = tempfile::tempdir().unwrap();
        let table = open(&write(dir.path(), "t.jsonl", &bytes), SourceFormat::Jsonl);
        let (read, problems) = read(&table, span_rows, batch_rows);
        prop_assert_eq!(problems, Vec::<String>::new());
        assert_same(&read, &rows);
    }

    #[test]
    fn shards_are_read_as_they_were_written(
        rows in prop::collection::vec(
            (prop::option::of("[a-z\u{e4}]{0,9}"), prop::collection::vec(any::<u8>(), 0..2000)),
            1..30,
        ),
        span_rows in 1_usize..20,
        batch_rows in 1_usize..9,
        long in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.tar");
        let mut builder = ::tar::Builder::new(File::create(&path).unwrap());
        let folder = if long { "a-folder/".repeat(20) } else { String::new() };
        for (idx, (text, bytes)) in rows.iter().enumerate() {
            let mut add = |extension: &str, bytes: &[u8]| {
                let mut header = ::tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                builder
                    .append_data(&mut header, format!("{folder}{idx:04}.{extension}"), bytes)
                    .unwrap();
            };
            if let Some(text) = text {
                add("txt", text.as_bytes());
            }
            add("JPG", bytes);
        }
        builder.into_inner().unwrap();
        let table = open(&path, SourceFormat::Tar);
        let (read, problems) = read(&table, span_rows, batch_rows);
        prop_assert_eq!(problems, Vec::<String>::new());
        prop_assert_eq!(read.num_rows(), rows.len());
        let keys = read.column_by_name("__key__").unwrap().as_string::<i32>();
        let pictures = read.column_by_name("jpg").unwrap().as_binary::<i32>();
        let texts = read.column_by_name("txt").map(|texts| texts.as_string::<i32>());
        for (idx, (text, bytes)) in rows.iter().enumerate() {
            prop_assert_eq!(keys.value(idx), format!("{folder}{idx:04}"));
            prop_assert_eq!(pictures.value(idx), bytes.as_slice());
            let read = texts.filter(|texts| texts.is_valid(idx)).map(|texts| texts.value(idx));
            prop_assert_eq!(read, text.as_deref());
        }
    }

    #[test]
    fn bytes_of_any_kind_are_errors_or_rejects(
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        text in "[a-z,\"{}:0-9\r\n\\[\\]]{0,600}",
    ) {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [("bytes", bytes.as_slice()), ("text", text.as_bytes())] {
            let path = write(dir.path(), name, bytes);
            for format in [
                SourceFormat::Csv,
                SourceFormat::Jsonl,
                SourceFormat::Tar,
                SourceFormat::OpenaiBatch,
            ] {
                let Ok(table) = try_open(&path, format) else { continue };
                if table.files[0].row_groups.is_empty() {
                    continue;
                }
                let whole = read(&table, 1000, 100);
                // A block that is read by pieces has the same rows.
                prop_assert_eq!(whole, read(&table, 1, 1));
            }
        }
    }
}

fn texts(rows: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let cast = arrow::compute::cast(rows.column_by_name(column).unwrap(), &DataType::Utf8).unwrap();
    cast.as_string::<i32>().iter().map(|cell| cell.map(str::to_owned)).collect()
}

fn some(cells: &[&str]) -> Vec<Option<String>> {
    cells.iter().map(|cell| (!cell.is_empty()).then(|| (*cell).to_owned())).collect()
}

#[test]
fn a_damaged_csv_record_costs_its_row() {
    let dir = tempfile::tempdir().unwrap();
    let text = "\u{feff}id,n,text\r\n007,1,one\r\n\r\n008,2\r\n009,x,\"a\nb\"\r\n\
                010,4,\"open\r\n011,5,\"a\" b\r\n012,6,5\" pipe\r\n013,7,last";
    // Types are inferred from sound rows: rows outside the sample have to fit.
    let path = write(dir.path(), "t.csv", text.as_bytes());
    let table = open(&path, SourceFormat::Csv);
    let (rows, problems) = read(&table, 3, 2);
    assert_eq!(texts(&rows, "id"), some(&["007", "", "009", "", "", "012", "013"]));
    assert_eq!(texts(&rows, "n"), some(&["1", "", "x", "", "", "6", "7"]));
    assert_eq!(texts(&rows, "text"), some(&["one", "", "a\nb", "", "", "5\" pipe", "last"]));
    assert_eq!(
        problems,
        [
            "1: line 4: expected 3 fields, got 2",
            "3: line 7: unexpected text after a closing quote",
            "4: line 8: unexpected text after a closing quote",
        ]
    );
}

#[test]
fn a_quote_that_is_never_closed_costs_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = "a,b\n1,\"open\n".to_owned();
    text.extend((0..3000).map(|n| format!("{n},x\n")));
    // Nowhere in the file, and nowhere near.
    for end in ["", "2,\"closed\"\n"] {
        let path = write(dir.path(), "t.csv", format!("{text}{end}").as_bytes());
        let (rows, problems) = read(&open(&path, SourceFormat::Csv), 500, 100);
        assert_eq!(rows.num_rows(), 3001 + end.lines().count());
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("0: line 2: "), "{problems:?}");
        assert_eq!(texts(&rows, "a")[3000].as_deref(), Some("2999"));
    }
}

#[test]
fn a_damaged_json_line_costs_its_row() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{{\"a\": \"{}\"}}\n", "x".repeat(50_000));
    let text = [
        "{\"b\": 1, \"a\": \"one\"}\n",
        "{\"a\": 5, \"c\": [1, 2.5], \"d\": {\"e\": true}}\n",
        "   \n",
        "{\"a\": \"broken\"\n",
        "}\n",
        &long,
        "[1]\n",
        "{\"a\": \"two\"} {\"a\": \"three\"}\n",
        "{\"b\": \"text\", \"a\": \"four\", \"unknown\": 1}\n",
        "{\"b\": {\"x\": 1}}\n",
        "{\"b\": null}",
    ];
    let path = write(dir.path(), "t.jsonl", text.concat().as_bytes());
    let table = open(&path, SourceFormat::Jsonl);
    let names: Vec<&String> = table.files[0].schema.fields().iter().map(|f| f.name()).collect();
    assert_eq!(names, ["b", "a", "c", "d", "unknown"]);
    let (rows, problems) = read(&table, 4, 3);
    assert_eq!(texts(&rows, "b"), some(&["1", "", "", "", "", "", "", "text", "{\"x\": 1}", ""]));
    let expected = some(&["one", "5", "", "", "", "", "", "four", "", ""]);
    assert_eq!(texts(&rows, "a"), expected);
    let problems_shown: Vec<&str> =
        problems.iter().map(|problem| &problem[..problem.len().min(28)]).collect();
    assert_eq!(
        problems_shown,
        [
            "2: line 4: invalid JSON at b",
            "3: line 5: expected a JSON o",
            "4: line 6: the record is lon",
            "5: line 7: expected a JSON o",
            "6: line 8: invalid JSON at b",
        ],
        "{problems:#?}"
    );
}

#[test]
fn files_with_guessed_types_are_made_alike() {
    let dir = tempfile::tempdir().unwrap();
    let listed =
        [("a.jsonl", "{\"n\": 1, \"x\": true}\n"), ("b.jsonl", "{\"n\": 2.5, \"y\": \"b\"}\n")]
            .map(|(name, text)| {
                let path = write(dir.path(), name, text.as_bytes());
                Listed::new(path.to_string_lossy().into_owned(), None)
            });
    let table = SourceTable::open(&listed, 1 << 20).unwrap();
    let (rows, problems) = read(&table, 4, 4);
    assert!(problems.is_empty());
    assert_eq!(rows.schema().field(0).data_type(), &DataType::Float64);
    assert_eq!(texts(&rows, "y"), some(&["", "b"]));
}

#[test]
fn damage_in_a_shard_costs_the_rows_that_it_hits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.tar");
    let mut builder = ::tar::Builder::new(File::create(&path).unwrap());
    for idx in 0..5 {
        for (extension, bytes) in [("txt", &b"text"[..]), ("bin", &[7; 700])] {
            let mut header = ::tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, format!("{idx}.{extension}"), bytes).unwrap();
        }
    }
    let mut bytes = std::fs::read(&path).unwrap();
    builder.into_inner().unwrap();
    assert_eq!(bytes.len(), 5 * 2560);
    bytes = std::fs::read(&path).unwrap();
    let sound = bytes.clone();
    let keys = |bytes: &[u8]| {
        let table = open(&write(dir.path(), "damaged.tar", bytes), SourceFormat::Tar);
        let (rows, problems) = read(&table, 10, 10);
        (texts(&rows, "__key__"), texts(&rows, "txt"), problems)
    };
    // The header of `2.txt`: its other member is found, and the loss is reported.
    bytes[2 * 2560 + 5] ^= 0x55;
    let (names, cells, problems) = keys(&bytes);
    assert_eq!(names, some(&["0", "1", "", "2", "3", "4"]));
    assert_eq!(cells, some(&["text", "text", "", "", "text", "text"]));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("2: damaged header at byte 5120"), "{problems:?}");
    // Invalid UTF-8 in a text.
    bytes = sound.clone();
    bytes[2560 + 512] = 0xff;
    let (names, _, problems) = keys(&bytes);
    assert_eq!(names, some(&["0", "1", "2", "3", "4"]));
    assert!(problems[0].starts_with("1: the member `1.txt` is not valid UTF-8"), "{problems:?}");
    // The end is missing.
    let (names, _, problems) = keys(&sound[..5 * 2560 - 600]);
    assert_eq!(names, some(&["0", "1", "2", "3", "4"]));
    assert!(problems[0].contains("`4.bin` is truncated"), "{problems:?}");
}
