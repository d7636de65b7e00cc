//! Files with different column types are read as one table.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryArray, Date32Array, Date64Array, Decimal128Array, DictionaryArray,
        Float32Array, Float64Array, Int32Array, Int64Array, LargeStringArray, ListArray, NullArray,
        RecordBatch, StringArray, StringViewArray, StructArray, TimestampMillisecondArray,
        TimestampNanosecondArray, UInt64Array,
    },
    buffer::OffsetBuffer,
    compute::cast,
    datatypes::{DataType, Int8Type},
};
use legenda_tests::{TEXT_JOB, Workplace, text_column, write_table};

use crate::column_types::field;

/// Writes a file of two rows with a question and the column `v`.
fn write_v(place: &Workplace, name: &str, column: Option<ArrayRef>) {
    let questions: ArrayRef = Arc::new(StringArray::from(vec!["one", "two"]));
    let mut columns = vec![("question", questions, true)];
    columns.extend(column.map(|column| ("v", column, true)));
    let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    write_table(&place.path(name), &rows, 10);
}

#[test]
fn files_with_different_column_types_are_one_table() {
    let dictionary: DictionaryArray<Int8Type> = vec![Some("1"), None].into_iter().collect();
    let text =
        |values: [Option<&str>; 2]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
    let list = |name: &str, values: ArrayRef| -> ArrayRef {
        let item = field(name, values.data_type().clone());
        Arc::new(ListArray::new(item, OffsetBuffer::new(vec![0, 1, 2].into()), values, None))
    };
    let one_of = |name: &str, values: ArrayRef| -> ArrayRef {
        Arc::new(StructArray::from(vec![(field(name, values.data_type().clone()), values)]))
    };
    let int32 = || Arc::new(Int32Array::from(vec![Some(1), None])) as ArrayRef;
    let int64 = |value: i64| Arc::new(Int64Array::from(vec![Some(value), None])) as ArrayRef;
    let float = || Arc::new(Float64Array::from(vec![Some(0.5), None])) as ArrayRef;
    let stamp = |value: i64| TimestampMillisecondArray::from(vec![Some(value), None]);
    let fine = |value: i64| TimestampNanosecondArray::from(vec![Some(value), None]);
    let decimal = |value, precision, scale| -> ArrayRef {
        let values = Decimal128Array::from(vec![Some(value), None]);
        Arc::new(values.with_precision_and_scale(precision, scale).unwrap())
    };
    // Name, the columns of two files, the common type, and the first value of each file.
    type Case = (&'static str, ArrayRef, Option<ArrayRef>, &'static str, [&'static str; 2]);
    let cases: Vec<Case> = vec![
        ("null", Arc::new(NullArray::new(2)), Some(text([Some("a"), None])), "Utf8", ["null", "a"]),
        ("missing", int32(), None, "Int32", ["1", "null"]),
        (
            "large",
            text([Some("a"), None]),
            Some(Arc::new(LargeStringArray::from(vec!["b", "c"]))),
            "LargeUtf8",
            ["a", "b"],
        ),
        (
            "view",
            Arc::new(StringViewArray::from(vec!["a", "c"])),
            Some(text([Some("b"), None])),
            "Utf8",
            ["a", "b"],
        ),
        ("dictionary", Arc::new(dictionary), Some(text([Some("b"), None])), "Utf8", ["1", "b"]),
        ("integers", int32(), Some(int64(i64::MAX)), "Int64", ["1", "9223372036854775807"]),
        (
            "unsigned",
            int64(-1),
            Some(Arc::new(UInt64Array::from(vec![u64::MAX, 0]))),
            "Decimal128(20, 0)",
            ["-1", "18446744073709551615"],
        ),
        (
            "floats",
            Arc::new(Float32Array::from(vec![0.25, 0.0])),
            Some(float()),
            "Float64",
            ["0.25", "0.5"],
        ),
        ("small", int64(1 << 53), Some(float()), "Float64", ["9007199254740992.0", "0.5"]),
        ("exact", int64((1 << 53) + 1), Some(float()), "Utf8", ["9007199254740993", "0.5"]),
        (
            "decimals",
            decimal(12_345, 5, 2),
            Some(decimal(12_345, 9, 4)),
            "Decimal128(9, 4)",
            ["123.4500", "1.2345"],
        ),
        (
            "dates",
            Arc::new(Date32Array::from(vec![1, 2])),
            Some(Arc::new(Date64Array::from(vec![86_400_000, 0]))),
            "Date32",
            ["1970-01-02", "1970-01-02"],
        ),
        (
            "units",
            Arc::new(stamp(1)),
            Some(Arc::new(fine(1))),
            "Timestamp(ns)",
            ["1970-01-01T00:00:00.001", "1970-01-01T00:00:00.000000001"],
        ),
        (
            "zones",
            Arc::new(stamp(1).with_timezone("Asia/Tokyo")),
            Some(Arc::new(stamp(2).with_timezone("Europe/Berlin"))),
            "Timestamp(ms, \"UTC\")",
            ["1970-01-01T00:00:00.001Z", "1970-01-01T00:00:00.002Z"],
        ),
        ("texts", int32(), Some(text([Some("x"), None])), "Utf8", ["1", "x"]),
        ("items", list("item", int32()), Some(list("element", int64(7))), "List", ["[1]", "[7]"]),
        (
            "members",
            one_of("a", int32()),
            Some(one_of("b", int32())),
            "Struct",
            ["{a: 1, b: }", "{a: , b: 1}"],
        ),
    ];
    for (name, one, other, expected, values) in cases {
        let place = Workplace::new();
        write_v(&place, "a.parquet", Some(one));
        write_v(&place, "b.parquet", other);
        let job = TEXT_JOB.replace("table.parquet", "*.parquet").replace("id = \"id\", ", "");
        place.write("job.toml", &job);
        let ended = place.run(&["run", "job.toml"]).expect(0);
        assert!(ended.stdout.contains("rows_in 4 == answers 4"), "{name}: {}", ended.stdout);
        let answers = place.answers("out");
        let column = answers.column_by_name("v").unwrap();
        let kind = column.data_type().to_string();
        assert!(kind.starts_with(expected), "{name}: {kind}");
        let options = arrow::util::display::FormatOptions::default().with_null("null");
        let column = match column.data_type() {
            DataType::Timestamp(unit, Some(_)) => {
                cast(column, &DataType::Timestamp(*unit, Some("+00:00".into()))).unwrap()
            }
            _ => column.clone(),
        };
        let options = if expected == "Struct" { options.with_null("") } else { options };
        let shown =
            arrow::util::display::ArrayFormatter::try_new(column.as_ref(), &options).unwrap();
        assert_eq!([shown.value(0).to_string(), shown.value(2).to_string()], values, "{name}");
        place.run(&["verify", "out"]).expect(0).stdout.clear();
    }
}

#[test]
fn values_outside_the_common_type_cost_their_rows_and_incompatible_types_are_reported() {
    let place = Workplace::new();
    // The year 9999 in milliseconds overflows nanoseconds.
    let far = TimestampMillisecondArray::from(vec![253_370_764_800_000, 1]);
    let fine = TimestampNanosecondArray::from(vec![1, 2]);
    write_v(&place, "a.parquet", Some(Arc::new(far)));
    write_v(&place, "b.parquet", Some(Arc::new(fine)));
    let job = TEXT_JOB.replace("table.parquet", "*.parquet").replace("id = \"id\", ", "");
    place.write("job.toml", &job);
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("answers 3 + rejects 1"), "{}", ended.stdout);
    let rejects = place.rejects("out");
    assert_eq!(text_column(&rejects, "legenda_code"), [Some("row_damaged".to_owned())]);
    let message = text_column(&rejects, "legenda_message")[0].clone().unwrap();
    assert!(message.contains("`v`"), "{message}");

    write_v(&place, "b.parquet", Some(Arc::new(BinaryArray::from(vec![&b"x"[..], b"y"]))));
    let args = ["check", "job.toml", "--set", "output.columns=[\"v\"]"];
    place.run(&args).expect(2).stderr_contains(&["`v`", "Binary", "Timestamp"]);
    // A job that does not use the column still runs.
    let args = ["run", "job.toml", "--overwrite", "--set", "output.columns=[\"question\"]"];
    place.run(&args).expect(0).stdout.clear();
}
