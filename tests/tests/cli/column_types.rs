//! Columns of every type are carried to every output format.

use std::{fs::File, path::Path, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, BooleanArray, Date32Array,
        Date64Array, Decimal32Array, Decimal64Array, Decimal128Array, Decimal256Array,
        DictionaryArray, DurationMillisecondArray, FixedSizeBinaryArray, FixedSizeListArray,
        Float16Array, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array,
        IntervalDayTimeArray, IntervalMonthDayNanoArray, IntervalYearMonthArray, LargeBinaryArray,
        LargeListArray, LargeListViewArray, LargeStringArray, ListArray, ListViewArray, MapArray,
        NullArray, PrimitiveArray, RecordBatch, RunArray, StringArray, StringViewArray,
        StructArray, Time32MillisecondArray, Time32SecondArray, Time64MicrosecondArray,
        Time64NanosecondArray, TimestampMicrosecondArray, TimestampMillisecondArray,
        TimestampNanosecondArray, TimestampSecondArray, UInt8Array, UInt16Array, UInt32Array,
        UInt64Array, UnionArray,
    },
    buffer::{NullBuffer, OffsetBuffer, ScalarBuffer},
    compute::{cast, concat_batches},
    datatypes::{
        DataType, Field, Int8Type, Int16Type, Int32Type, IntervalDayTime, IntervalMonthDayNano,
        Schema, TimeUnit, UInt16Type, UnionFields, i256,
    },
    ipc::{
        reader::FileReader,
        writer::{FileWriter, StreamWriter},
    },
};
use half::f16;
use legenda_tests::{TEXT_JOB, Workplace, text_column, write_table};
use serde_json::Value;

pub(crate) fn field(name: &str, data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new(name, data_type, true))
}

/// Returns three rows of every type that Arrow's Parquet writer supports: value, null, value.
fn columns_of_parquet() -> Vec<(&'static str, ArrayRef)> {
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(3), Some(4)]));
    let offsets = || OffsetBuffer::<i32>::new(vec![0, 1, 1, 4].into());
    let nulls = || Some(NullBuffer::from(vec![true, false, true]));
    let item = || field("item", DataType::Int32);
    let pairs = Arc::new(Int32Array::from(vec![1, 2, 3, 4, 5, 6])) as ArrayRef;
    let keys = StringArray::from(vec!["a", "b", "a", "c"]);
    let entries = |keys: ArrayRef| {
        let key = Arc::new(Field::new("keys", keys.data_type().clone(), false));
        StructArray::from(vec![(key, keys), (field("values", DataType::Int32), numbers.clone())])
    };
    let map = |keys: ArrayRef| {
        let entries = entries(keys);
        let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
        MapArray::new(field, offsets(), entries, nulls(), false)
    };
    let words: [Option<&str>; 3] = [Some("x"), None, Some("y")];
    let small: DictionaryArray<Int8Type> = words.into_iter().collect();
    let wide: DictionaryArray<UInt16Type> = words.into_iter().collect();
    let keys_of_values = || PrimitiveArray::<Int32Type>::from(vec![Some(1), None, Some(0)]);
    let of = |values: ArrayRef| DictionaryArray::new(keys_of_values(), values);
    let inner = StructArray::from(vec![
        (field("n", DataType::Int64), Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
        (field("t", DataType::Utf8), Arc::new(StringArray::from(words.to_vec())) as ArrayRef),
    ]);
    let decimal = |precision, scale| {
        let values = Decimal128Array::from(vec![Some(-12_345), None, Some(7)]);
        values.with_precision_and_scale(precision, scale).unwrap()
    };
    let large = i256::from_string(&"9".repeat(76)).unwrap();
    let huge = Decimal256Array::from(vec![Some(large), None, Some(i256::MINUS_ONE)]);
    let bytes = vec![Some(&b"\x00\xff"[..]), None, Some(&b""[..])];
    let uuids = [Some([7_u8; 16]), None, Some([255; 16])];
    let uuids =
        FixedSizeBinaryArray::try_from_sparse_iter_with_size(uuids.into_iter(), 16).unwrap();
    let halves = Float16Array::from(vec![Some(f16::from_f32(1.5)), None, Some(f16::MAX)]);
    vec![
        ("null", Arc::new(NullArray::new(3))),
        ("boolean", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("int8", Arc::new(Int8Array::from(vec![Some(-128), None, Some(127)]))),
        ("int16", Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(1)]))),
        ("int32", Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(1)]))),
        ("int64", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)]))),
        ("uint8", Arc::new(UInt8Array::from(vec![Some(255), None, Some(1)]))),
        ("uint16", Arc::new(UInt16Array::from(vec![Some(u16::MAX), None, Some(1)]))),
        ("uint32", Arc::new(UInt32Array::from(vec![Some(u32::MAX), None, Some(1)]))),
        ("uint64", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, Some(1)]))),
        ("float16", Arc::new(halves)),
        ("float32", Arc::new(Float32Array::from(vec![Some(0.1), None, Some(f32::MAX)]))),
        ("float64", Arc::new(Float64Array::from(vec![Some(0.1), None, Some(f64::MIN)]))),
        (
            "decimal32",
            Arc::new(
                Decimal32Array::from(vec![Some(-5), None, Some(6)])
                    .with_precision_and_scale(9, 2)
                    .unwrap(),
            ),
        ),
        (
            "decimal64",
            Arc::new(
                Decimal64Array::from(vec![Some(-5), None, Some(6)])
                    .with_precision_and_scale(18, 3)
                    .unwrap(),
            ),
        ),
        ("decimal128", Arc::new(decimal(38, 2))),
        ("decimal256", Arc::new(huge.with_precision_and_scale(76, 10).unwrap())),
        ("date32", Arc::new(Date32Array::from(vec![Some(-1), None, Some(20_000)]))),
        ("date64", Arc::new(Date64Array::from(vec![Some(86_400_000), None, Some(-86_400_000)]))),
        ("time32_s", Arc::new(Time32SecondArray::from(vec![Some(1), None, Some(86_399)]))),
        ("time32_ms", Arc::new(Time32MillisecondArray::from(vec![Some(1), None, Some(2)]))),
        ("time64_us", Arc::new(Time64MicrosecondArray::from(vec![Some(1), None, Some(2)]))),
        ("time64_ns", Arc::new(Time64NanosecondArray::from(vec![Some(1), None, Some(2)]))),
        ("timestamp_s", Arc::new(TimestampSecondArray::from(vec![Some(1), None, Some(-2)]))),
        ("timestamp_ms", Arc::new(TimestampMillisecondArray::from(vec![Some(1), None, Some(-2)]))),
        (
            "timestamp_us_zone",
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(1), None, Some(-2)])
                    .with_timezone("Europe/Berlin"),
            ),
        ),
        (
            "timestamp_ns_utc",
            Arc::new(
                TimestampNanosecondArray::from(vec![Some(1), None, Some(-2)]).with_timezone("UTC"),
            ),
        ),
        ("duration", Arc::new(DurationMillisecondArray::from(vec![Some(5), None, Some(-5)]))),
        ("months", Arc::new(IntervalYearMonthArray::from(vec![Some(14), None, Some(-1)]))),
        (
            "days",
            Arc::new(IntervalDayTimeArray::from(vec![
                Some(IntervalDayTime::new(3, 4500)),
                None,
                Some(IntervalDayTime::new(0, 0)),
            ])),
        ),
        ("utf8", Arc::new(StringArray::from(words.to_vec()))),
        ("large_utf8", Arc::new(LargeStringArray::from(words.to_vec()))),
        ("utf8_view", Arc::new(StringViewArray::from(words.to_vec()))),
        ("binary", Arc::new(BinaryArray::from(bytes.clone()))),
        ("large_binary", Arc::new(LargeBinaryArray::from(bytes.clone()))),
        ("binary_view", Arc::new(BinaryViewArray::from(bytes.clone()))),
        ("uuid", Arc::new(uuids.clone())),
        ("list", Arc::new(ListArray::new(item(), offsets(), numbers.clone(), nulls()))),
        (
            "large_list",
            Arc::new(LargeListArray::new(
                item(),
                OffsetBuffer::new(vec![0, 1, 1, 4].into()),
                numbers.clone(),
                nulls(),
            )),
        ),
        ("fixed_list", Arc::new(FixedSizeListArray::new(item(), 2, pairs, nulls()))),
        (
            "list_of_nulls",
            Arc::new(ListArray::new(
                field("item", DataType::Null),
                offsets(),
                Arc::new(NullArray::new(4)),
                nulls(),
            )),
        ),
        ("map", Arc::new(map(Arc::new(keys)))),
        ("map_by_number", Arc::new(map(Arc::new(Int64Array::from(vec![1, 2, 1, 3]))))),
        (
            "map_by_long_text",
            Arc::new(map(Arc::new(LargeStringArray::from(vec!["a", "b", "a", "c"])))),
        ),
        ("struct", Arc::new(inner)),
        ("words_by_int8", Arc::new(small)),
        ("words_by_uint16", Arc::new(wide)),
        ("large_words", Arc::new(of(Arc::new(LargeStringArray::from(vec!["x", "y"]))))),
        ("bytes_by_key", Arc::new(of(Arc::new(BinaryArray::from(vec![&b"x"[..], b"y"]))))),
        ("numbers_by_key", Arc::new(of(Arc::new(Int64Array::from(vec![5, 6]))))),
        ("floats_by_key", Arc::new(of(Arc::new(Float64Array::from(vec![0.5, 6.0]))))),
        ("days_by_key", Arc::new(of(Arc::new(Date32Array::from(vec![5, 6]))))),
        // Dictionaries of fixed-size binary are left out: arrow-rs 59 writes them with lengths
        // among the values.
    ]
}

/// Returns three rows of every type that only Arrow IPC supports.
fn columns_of_ipc() -> Vec<(&'static str, ArrayRef)> {
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3, 4]));
    let item = || field("item", DataType::Int32);
    let starts = |values: Vec<i32>| ScalarBuffer::from(values);
    let views = ListViewArray::new(
        item(),
        starts(vec![2, 0, 0]),
        starts(vec![2, 0, 1]),
        numbers.clone(),
        Some(NullBuffer::from(vec![true, false, true])),
    );
    let large_views = LargeListViewArray::new(
        item(),
        ScalarBuffer::from(vec![2_i64, 0, 0]),
        ScalarBuffer::from(vec![2_i64, 0, 1]),
        numbers,
        None,
    );
    let runs: RunArray<Int16Type> = vec![Some("x"), None, Some("y")].into_iter().collect();
    let empty = StructArray::new_empty_fields(3, Some(NullBuffer::from(vec![true, false, true])));
    let with_empty = StructArray::from(vec![
        (field("e", empty.data_type().clone()), Arc::new(empty.clone()) as ArrayRef),
        (field("n", DataType::Int8), Arc::new(Int8Array::from(vec![1, 2, 3])) as ArrayRef),
    ]);
    let kinds = [(0, field("n", DataType::Int32)), (1, field("t", DataType::Utf8))];
    let union = UnionArray::try_new(
        UnionFields::try_new(kinds.iter().map(|(id, _)| *id), kinds.iter().map(|(_, f)| f.clone()))
            .unwrap(),
        ScalarBuffer::from(vec![0_i8, 1, 0]),
        None,
        vec![
            Arc::new(Int32Array::from(vec![Some(5), None, None])),
            Arc::new(StringArray::from(vec![None, Some("a"), None])),
        ],
    );
    let intervals = IntervalMonthDayNanoArray::from(vec![
        Some(IntervalMonthDayNano::new(14, 3, 4_500_000_000)),
        None,
        Some(IntervalMonthDayNano::new(0, 0, -1)),
    ]);
    let negative = Decimal128Array::from(vec![Some(12), None, Some(-3)]);
    vec![
        ("list_view", Arc::new(views)),
        ("large_list_view", Arc::new(large_views)),
        ("runs", Arc::new(runs)),
        ("empty", Arc::new(empty)),
        ("with_empty", Arc::new(with_empty)),
        ("union", Arc::new(union.unwrap())),
        ("interval", Arc::new(intervals)),
        ("negative_scale", Arc::new(negative.with_precision_and_scale(5, -2).unwrap())),
        ("no_items", Arc::new(FixedSizeListArray::new_null(item(), 0, 3))),
    ]
}

/// Prepends a question column.
fn table(columns: Vec<(&'static str, ArrayRef)>) -> RecordBatch {
    let questions: ArrayRef = Arc::new(StringArray::from(vec!["one", "two", "three"]));
    let columns = std::iter::once(("question", questions)).chain(columns);
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
        .unwrap()
}

fn write_ipc(path: &Path, rows: &RecordBatch) {
    let mut writer = FileWriter::try_new(File::create(path).unwrap(), &rows.schema()).unwrap();
    writer.write(rows).unwrap();
    writer.finish().unwrap();
}

/// Returns a job that carries every column of `file`.
fn job(file: &str, rows: &RecordBatch) -> String {
    let schema = rows.schema();
    let names: Vec<String> =
        schema.fields().iter().map(|field| format!("{:?}", field.name())).collect();
    let job = TEXT_JOB.replace("table.parquet", file).replace("id = \"id\", ", "");
    job + &format!("columns = [{}]\n", names.join(", "))
}

fn parts(place: &Workplace, out: &str, extension: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(place.path(out)).unwrap().map(|entry| entry.unwrap().path());
    let mut parts: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    parts.sort();
    parts
}

fn ipc_answers(place: &Workplace, out: &str) -> RecordBatch {
    let batches = parts(place, out, "arrow").into_iter().flat_map(|path| {
        FileReader::try_new(File::open(path).unwrap(), None).unwrap().map(Result::unwrap)
    });
    let batches: Vec<RecordBatch> = batches.collect();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn json_answers(place: &Workplace, out: &str) -> Vec<Value> {
    let texts = parts(place, out, "jsonl").into_iter().map(std::fs::read_to_string);
    let texts: Vec<String> = texts.map(Result::unwrap).collect();
    texts
        .iter()
        .flat_map(|text| text.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Runs the job in every output format, with answers and with rejects, and verifies the outputs.
fn run_in_every_format(place: &Workplace) {
    for format in ["parquet", "arrow", "jsonl"] {
        let format_of = format!("output.format={format:?}");
        let path = format!("output.path={format:?}");
        place
            .run(&["run", "job.toml", "--set", &format_of, "--set", &path])
            .expect(0)
            .stdout
            .clear();
        place.run(&["verify", format]).expect(0).stdout.clear();
        let path = format!("output.path=\"{format}-rejects\"");
        // Every row becomes a reject that keeps all its columns.
        let args = ["run", "job.toml", "--set", &format_of, "--set", &path];
        let refuse = ["--set", "limits.text_bytes=1B", "--set", "limits.error_budget=\"100%\""];
        let ended = place.run(&[&args[..], &refuse].concat());
        assert!(
            ended.stdout.contains("answers 0 + rejects 3"),
            "{} {}",
            ended.stdout,
            ended.stderr
        );
        place.run(&["verify", &format!("{format}-rejects")]).expect(0).stdout.clear();
        let retried = place.run(&["retry", &format!("{format}-rejects")]);
        assert!(retried.stdout.contains("rejects 3"), "{} {}", retried.stdout, retried.stderr);
    }
}

#[test]
fn columns_of_every_parquet_type_are_carried_to_every_format() {
    let place = Workplace::new();
    let rows = table(columns_of_parquet());
    write_table(&place.path("table.parquet"), &rows, 2);
    place.write("job.toml", &job("table.parquet", &rows));
    run_in_every_format(&place);

    let answers = place.answers("parquet");
    let ipc = ipc_answers(&place, "arrow");
    assert_eq!(answers.num_rows(), 3);
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        let name = field.name();
        let found = answers.column_by_name(name).unwrap();
        assert_eq!(found, ipc.column_by_name(name).unwrap(), "{name}");
        let kind = field.data_type();
        let is_replaced = matches!(
            kind,
            DataType::Date64
                | DataType::Timestamp(TimeUnit::Second, _)
                | DataType::Time32(TimeUnit::Second)
                | DataType::Dictionary(..)
        );
        let is_interval = matches!(kind, DataType::Interval(_));
        assert!(is_replaced || is_interval || found.data_type() == kind, "{name}");
        if !is_interval {
            assert_eq!(found, &cast(column, found.data_type()).unwrap(), "{name}");
        }
    }
    let date = |name: &str| answers.column_by_name(name).unwrap().as_primitive().clone();
    assert_eq!(date("date64"), Date32Array::from(vec![Some(1), None, Some(-1)]));
    let some = |texts: [&str; 2]| vec![Some(texts[0].to_owned()), None, Some(texts[1].to_owned())];
    assert_eq!(text_column(&answers, "months"), some(["P14M", "P-1M"]));
    assert_eq!(text_column(&answers, "days"), some(["P3DT4.5S", "PT0S"]));
    for name in ["words_by_int8", "words_by_uint16"] {
        let words = answers.column_by_name(name).unwrap();
        assert!(matches!(words.data_type(), DataType::Dictionary(..)), "{name}");
        let words = cast(words, &DataType::Utf8).unwrap();
        assert_eq!(words.as_string(), &StringArray::from(vec![Some("x"), None, Some("y")]));
    }
    let lines = json_answers(&place, "jsonl");
    let shown = |name: &str| lines.iter().map(|line| line[name].to_string()).collect::<Vec<_>>();
    for (name, expected) in [
        ("uint64", ["18446744073709551615", "null", "1"]),
        ("decimal128", ["-123.45", "null", "0.07"]),
        ("date64", ["\"1970-01-02\"", "null", "\"1969-12-31\""]),
        ("duration", ["5", "null", "-5"]),
        ("months", ["\"P14M\"", "null", "\"P-1M\""]),
        ("numbers_by_key", ["6", "null", "5"]),
        ("words_by_int8", ["\"x\"", "null", "\"y\""]),
        ("list", ["[1]", "null", "[null,3,4]"]),
        ("uuid", ["\"BwcHBwcHBwcHBwcHBwcHBw==\"", "null", "\"/////////////////////w==\""]),
        (
            "map_by_number",
            [
                "[{\"keys\":1,\"values\":1}]",
                "null",
                "[{\"keys\":2,\"values\":null},{\"keys\":1,\"values\":3},{\"keys\":3,\"values\":4}]",
            ],
        ),
    ] {
        assert_eq!(shown(name), expected, "{name}");
    }
}

#[test]
fn columns_of_arrow_only_types_are_carried_to_every_format() {
    let place = Workplace::new();
    let mut columns = columns_of_parquet();
    columns.extend(columns_of_ipc());
    let rows = table(columns);
    write_ipc(&place.path("table.arrow"), &rows);
    place.write("job.toml", &job("table.arrow", &rows));
    run_in_every_format(&place);
    let answers = place.answers("parquet");
    let some = |texts: [&str; 2]| vec![Some(texts[0].to_owned()), None, Some(texts[1].to_owned())];
    assert_eq!(text_column(&answers, "interval"), some(["P14M3DT4.5S", "PT-0.000000001S"]));
    assert_eq!(text_column(&answers, "empty"), some(["{}", "{}"]));
    assert_eq!(text_column(&answers, "runs"), some(["x", "y"]));
    let union = text_column(&answers, "union");
    assert!(union[0].as_ref().unwrap().contains('5') && union[1].as_ref().unwrap().contains('a'));
    let scaled = answers.column_by_name("negative_scale").unwrap();
    let expected = Decimal128Array::from(vec![Some(1200), None, Some(-300)]);
    assert_eq!(scaled.as_primitive(), &expected.with_precision_and_scale(7, 0).unwrap());
    let lists = answers.column_by_name("list_view").unwrap().as_list::<i32>().clone();
    assert_eq!(lists.value(0).as_primitive::<Int32Type>().values(), &[3, 4]);
}

#[test]
fn arrow_files_and_streams_are_sources() {
    let place = Workplace::new();
    let rows = table(vec![("id", Arc::new(StringArray::from(vec!["a", "b", "c"])))]);
    let words = |words: [&str; 3]| -> ArrayRef {
        Arc::new(words.into_iter().collect::<DictionaryArray<Int32Type>>())
    };
    let with = |kind: [&str; 3]| {
        let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
        let schema = rows.schema();
        for (field, column) in schema.fields().iter().zip(rows.columns()) {
            columns.push((if field.name() == "id" { "id" } else { "question" }, column.clone()));
        }
        columns.push(("kind", words(kind)));
        RecordBatch::try_from_iter(columns).unwrap()
    };
    // Each batch of a stream replaces the dictionary.
    let batches = [with(["x", "y", "x"]), with(["p", "q", "q"])];
    for (name, is_stream) in [("table.arrow", false), ("data-00000-of-00001.arrow", true)] {
        let file = File::create(place.path(name)).unwrap();
        let schema = batches[0].schema();
        if is_stream {
            let mut writer = StreamWriter::try_new(file, &schema).unwrap();
            batches.iter().for_each(|batch| writer.write(batch).unwrap());
            writer.finish().unwrap();
        } else {
            let mut writer = FileWriter::try_new(file, &schema).unwrap();
            writer.write(&batches[0]).unwrap();
            writer.write(&batches[0]).unwrap();
            writer.finish().unwrap();
        }
        place.write("job.toml", &TEXT_JOB.replace("table.parquet", name));
        let args = ["run", "job.toml", "--overwrite"];
        let ended = place.run(&args).expect(0);
        assert!(ended.stdout.contains("rows_in 6 == answers 6"), "{}", ended.stdout);
        let answers = place.answers("out");
        let kinds = cast(answers.column_by_name("kind").unwrap(), &DataType::Utf8);
        let second = if is_stream { ["p", "q", "q"] } else { ["x", "y", "x"] };
        let expected: Vec<&str> = ["x", "y", "x"].into_iter().chain(second).collect();
        assert_eq!(kinds.unwrap().as_string(), &StringArray::from(expected), "{name}");
    }
    // Damage costs the rows of its batch; an error names a file of another format.
    place.write("no.arrow", "this is no table");
    place.write("job.toml", &TEXT_JOB.replace("table.parquet", "no.arrow"));
    place.run(&["check", "job.toml"]).expect(2).stderr_contains(&["no.arrow", "Arrow IPC"]);
    for (name, n_left_out) in [("table.arrow", 20), ("data-00000-of-00001.arrow", 200)] {
        std::fs::copy(place.path(name), place.path("cut.arrow")).unwrap();
        let cut = File::options().write(true).open(place.path("cut.arrow")).unwrap();
        cut.set_len(cut.metadata().unwrap().len() - n_left_out).unwrap();
        place.write("job.toml", &TEXT_JOB.replace("table.parquet", "cut.arrow"));
        place.run(&["check", "job.toml"]).expect(2).stderr_contains(&["cut.arrow", "truncated"]);
    }
}

#[test]
fn dictionary_columns_are_read_as_text() {
    let place = Workplace::new();
    let questions: DictionaryArray<Int16Type> = vec!["one", "two", "one"].into_iter().collect();
    let bytes: ArrayRef = Arc::new(LargeStringArray::from(vec!["a", "b", "c"]));
    let ids = DictionaryArray::new(PrimitiveArray::<Int32Type>::from(vec![2, 1, 0]), bytes);
    let rows = RecordBatch::try_from_iter([
        ("id", Arc::new(ids) as ArrayRef),
        ("question", Arc::new(questions) as ArrayRef),
    ]);
    write_table(&place.path("table.parquet"), &rows.unwrap(), 10);
    place.write("job.toml", TEXT_JOB);
    let ended = place.run(&["run", "job.toml", "--set", "task.prompt=\"{{ id }} {{ text }}\""]);
    let ended = ended.expect(0);
    assert!(ended.stdout.contains("rows_in 3 == answers 3"), "{}", ended.stdout);
    // Partitioning by a dictionary column names folders after the values.
    let args = ["run", "job.toml", "--overwrite", "--set", "output.partition_by=\"question\""];
    place.run(&args).expect(0).stdout.clear();
    assert!(place.path("out/question=one").is_dir() && place.path("out/question=two").is_dir());
}

#[test]
fn a_table_may_have_only_the_question_column() {
    let place = Workplace::new();
    let schema = Schema::new(vec![Field::new("question", DataType::Utf8, false)]);
    let rows = RecordBatch::try_new(
        Arc::new(schema),
        vec![Arc::new(StringArray::from(vec!["one"])) as ArrayRef],
    );
    write_ipc(&place.path("table.feather"), &rows.unwrap());
    place.write("job.toml", &TEXT_JOB.replace("table.parquet", ".").replace("id = \"id\", ", ""));
    place.run(&["run", "job.toml"]).expect(0).stdout.clear();
}
