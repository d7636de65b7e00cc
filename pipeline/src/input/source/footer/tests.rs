use std::{fs::File, io::Write, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Int32Type, Int64Type},
    util::display::{ArrayFormatter, FormatOptions},
};
use bytes::Bytes;
use legenda_schemas::job::SourceFormat;
use parquet::{
    arrow::ArrowWriter,
    data_type::{
        ByteArray, FixedLenByteArray, FixedLenByteArrayType, Int32Type as Int32Column,
        Int64Type as Int64Column, Int96, Int96Type,
    },
    file::{
        metadata::{
            ColumnChunkMetaDataBuilder, FileMetaData, KeyValue, ParquetMetaData,
            ParquetMetaDataBuilder, ParquetMetaDataReader, ParquetMetaDataWriter,
        },
        properties::WriterProperties,
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::parser::parse_message_type,
};

use crate::input::source::{Listed, SourceTable, reader::FileReader};

/// Reads a file as a run does.
fn read(bytes: &[u8]) -> RecordBatch {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.parquet");
    File::create(&path).unwrap().write_all(bytes).unwrap();
    let path = path.to_string_lossy().into_owned();
    let listed = Listed::new(path, Some(SourceFormat::Parquet));
    let table = SourceTable::open(&[listed], u64::MAX).unwrap();
    let reader = FileReader::open(&table.files[0], &table.bytes_read).unwrap();
    let all = 0..table.files[0].row_groups[0].n_rows;
    let rows = reader.read(0, &[all], None, 100).unwrap().next().unwrap().unwrap();
    assert_eq!(rows.damaged, []);
    rows.rows
}

fn shown(rows: &RecordBatch, name: &str) -> Vec<String> {
    let column = rows.column_by_name(name).unwrap();
    let options = FormatOptions::default().with_null("null");
    let shown = ArrayFormatter::try_new(column.as_ref(), &options).unwrap();
    (0..column.len()).map(|row| shown.value(row).to_string()).collect()
}

/// Writes three rows column by column; `pairs` are metadata of the file.
fn write(
    schema: &str,
    pairs: &[(&str, &str)],
    mut write: impl FnMut(usize, &mut SerializedColumnWriter<'_>),
) -> Vec<u8> {
    let pairs =
        pairs.iter().map(|(key, value)| KeyValue::new((*key).to_owned(), (*value).to_owned()));
    let properties = WriterProperties::builder().set_key_value_metadata(Some(pairs.collect()));
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties.build())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut n_written = 0;
    while let Some(mut column) = group.next_column().unwrap() {
        write(n_written, &mut column);
        column.close().unwrap();
        n_written += 1;
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

fn fixed(values: &[&[u8]]) -> Vec<FixedLenByteArray> {
    values.iter().map(|value| ByteArray::from(value.to_vec()).into()).collect()
}

/// A file of a column of numbers without a dictionary, and its rows.
fn numbers() -> (Vec<u8>, RecordBatch) {
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..50));
    let batch = RecordBatch::try_from_iter([("n", values)]).unwrap();
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    (bytes, batch)
}

#[test]
fn offsets_of_dictionary_pages_that_can_be_none_are_left_out() {
    let (bytes, batch) = numbers();
    for offset in [0, 1 << 20, -1] {
        let odd = with_column(&bytes, |chunk| chunk.set_dictionary_page_offset(Some(offset)));
        assert_eq!(read(&odd), batch, "{offset}");
    }
}

/// Returns a file of one column whose entry in the footer is changed.
fn with_column(
    bytes: &[u8],
    change: impl Fn(ColumnChunkMetaDataBuilder) -> ColumnChunkMetaDataBuilder,
) -> Vec<u8> {
    let bytes = Bytes::copy_from_slice(bytes);
    let footer = ParquetMetaDataReader::new().parse_and_finish(&bytes).unwrap();
    let mut builder = footer.into_builder();
    let groups = builder.take_row_groups().into_iter().map(|group| {
        let chunk = change(group.column(0).clone().into_builder()).build().unwrap();
        group.into_builder().set_column_metadata(vec![chunk]).build().unwrap()
    });
    let groups = groups.collect();
    with_footer(&bytes, &builder.set_row_groups(groups).build())
}

fn with_footer(bytes: &[u8], footer: &ParquetMetaData) -> Vec<u8> {
    let end = bytes.len() - 8;
    let length = u32::from_le_bytes(bytes[end..][..4].try_into().unwrap()) as usize;
    let mut odd = bytes[..end - length].to_vec();
    ParquetMetaDataWriter::new(&mut odd, footer).finish().unwrap();
    odd
}

#[test]
fn fields_that_are_none_of_the_format_are_passed_over() {
    let (mut bytes, batch) = numbers();
    const OFFSET: [u8; 4] = [0x92, 0xD1, 0x85, 0x11];
    let zigzag = OFFSET.iter().rev().fold(0_i64, |sum, byte| sum << 7 | i64::from(byte & 0x7F));
    bytes = with_column(&bytes, |chunk| {
        chunk.set_bloom_filter_offset(Some(zigzag / 2)).set_bloom_filter_length(Some(3))
    });
    // The length becomes a list of a struct with a text.
    let at = bytes.windows(4).rposition(|four| four == OFFSET).unwrap() + 4;
    assert_eq!(bytes[at..][..2], [0x15, 6]);
    bytes.splice(at..at + 2, [0x19, 0x1C, 0x18, 1, b'x', 0]);
    let end = bytes.len() - 8;
    let length = u32::from_le_bytes(bytes[end..][..4].try_into().unwrap()) + 4;
    bytes[end..][..4].copy_from_slice(&length.to_le_bytes());
    assert_eq!(read(&bytes), batch);
}

/// A file without rows with one column nested in `n_groups` groups.
fn nested(n_groups: u32) -> Vec<u8> {
    let mut footer = vec![0x15, 2, 0x19, 0xFC];
    let mut n_elements = n_groups + 1;
    while n_elements >= 0x80 {
        footer.push(n_elements.to_le_bytes()[0] | 0x80);
        n_elements >>= 7;
    }
    footer.push(n_elements.to_le_bytes()[0]);
    // Repetition, name, number of children; of the column type, repetition and name.
    (0..n_groups).for_each(|_| footer.extend([0x35, 0, 0x18, 1, b'a', 0x15, 2, 0]));
    footer.extend([0x15, 2, 0x25, 0, 0x18, 1, b'n', 0, 0x16, 0, 0x19, 0x0C, 0]);
    let length = u32::try_from(footer.len()).unwrap().to_le_bytes();
    [b"PAR1", footer.as_slice(), &length, b"PAR1"].concat()
}

#[test]
fn columns_that_are_nested_too_deep_are_an_error() {
    let opened = |n_groups| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.parquet");
        File::create(&path).unwrap().write_all(&nested(n_groups)).unwrap();
        let listed = Listed::new(path.to_string_lossy().into_owned(), Some(SourceFormat::Parquet));
        SourceTable::open(&[listed], u64::MAX).map(|table| table.files[0].schema.fields().len())
    };
    assert_eq!(opened(50).unwrap(), 1);
    for n_groups in [200, 5_000, 1_000_000] {
        let refused = opened(n_groups).unwrap_err();
        let cause = std::error::Error::source(&refused).unwrap().to_string();
        assert!(cause.contains("nested more than 128 levels"), "{n_groups}: {cause}");
    }
}

#[test]
fn rows_that_the_file_does_not_count_are_those_of_its_row_groups() {
    let (bytes, batch) = numbers();
    let footer = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(bytes.clone()));
    let footer = footer.unwrap();
    let file = footer.file_metadata();
    let file = FileMetaData::new(1, 0, None, None, file.schema_descr_ptr(), None);
    let groups = footer.row_groups().to_vec();
    let footer = ParquetMetaDataBuilder::new(file).set_row_groups(groups).build();
    assert_eq!(read(&with_footer(&bytes, &footer)), batch);
}

#[test]
fn repeated_columns_without_annotation_are_lists() {
    let schema = "message schema {
        repeated int32 numbers;
        optional group phones { repeated group phone { required int64 number; } }
        optional group old (LIST) { repeated int32 element; }
        optional group older (LIST) { repeated group array { optional int32 item; } }
    }";
    let bytes = write(schema, &[], |at, column| {
        match at {
            0 => column.typed::<Int32Column>().write_batch(
                &[1, 2, 3],
                Some(&[1, 1, 0, 1]),
                Some(&[0, 1, 0, 0]),
            ),
            1 => column.typed::<Int64Column>().write_batch(
                &[5, 6],
                Some(&[2, 2, 1, 0]),
                Some(&[0, 1, 0, 0]),
            ),
            2 => column.typed::<Int32Column>().write_batch(
                &[7, 8],
                Some(&[2, 1, 2]),
                Some(&[0, 0, 0]),
            ),
            _ => {
                column.typed::<Int32Column>().write_batch(&[9], Some(&[3, 2, 0]), Some(&[0, 0, 0]))
            }
        }
        .unwrap();
    });
    let rows = read(&bytes);
    assert_eq!(shown(&rows, "numbers"), ["[1, 2]", "[]", "[3]"]);
    let phones = ["{phone: [{number: 5}, {number: 6}]}", "{phone: []}", "null"];
    assert_eq!(shown(&rows, "phones"), phones);
    assert_eq!(shown(&rows, "old"), ["[7]", "[]", "[8]"]);
    assert_eq!(shown(&rows, "older"), ["[{item: 9}]", "[{item: null}]", "null"]);
}

#[test]
fn annotations_that_fit_no_type_cost_their_column_and_no_digit() {
    let schema = "message schema {
        required int64 id;
        optional fixed_len_byte_array(12) i (INTERVAL);
        optional fixed_len_byte_array(33) d (DECIMAL(77, 2));
        optional group m (MAP) { required int32 a; }
    }";
    let mut large = vec![0_u8; 33];
    large[0] = 0x0F;
    let interval: Vec<u8> = [14_u32, 3, 4500].iter().flat_map(|n| n.to_le_bytes()).collect();
    let bytes = write(schema, &[], |at, column| {
        match at {
            0 => column.typed::<Int64Column>().write_batch(&[1, 2, 3], None, None),
            1 => column.typed::<FixedLenByteArrayType>().write_batch(
                &fixed(&[&interval, &[0; 12]]),
                Some(&[1, 0, 1]),
                None,
            ),
            2 => column.typed::<FixedLenByteArrayType>().write_batch(
                &fixed(&[&large, &[0xFF; 33]]),
                Some(&[1, 0, 1]),
                None,
            ),
            _ => column.typed::<Int32Column>().write_batch(&[4], Some(&[1, 0, 0]), None),
        }
        .unwrap();
    });
    let rows = read(&bytes);
    assert_eq!(rows.column_by_name("id").unwrap().as_primitive::<Int64Type>().values(), &[1, 2, 3]);
    assert_eq!(shown(&rows, "i"), ["P14M3DT4.5S", "null", "PT0S"]);
    // 15 * 2^256, in hundredths.
    let digits = "17368813385597429313535647751303186177990497699846084605918637601186969445990.40";
    assert_eq!(shown(&rows, "d"), [digits, "null", "-0.01"]);
    assert_eq!(shown(&rows, "m"), ["{a: 4}", "null", "null"]);
}

/// The schema that Polars 2.1 embeds for a column `n` of 128-bit integers.
const INT128: &str = "/////3YAAAAEAAAA8v///xQAAAAEAAEAAAAKAAsACAAKAAQA+P///wwAAAAIAAgAAAAEAAEAAAAEAAAA7P///\
    zgAAAAgAAAAGAAAAAECAAAQABIABAAQABEACAAAAAwAAAAAAPT///+AAAAAAQAAAAgACQAEAAgAAQAAAG4A";

#[test]
fn an_embedded_schema_that_cannot_be_read_costs_no_file() {
    let schema = "message root { optional fixed_len_byte_array(16) n; }";
    let values: [i128; 2] = [i128::MIN, 1 << 100];
    let values = values.map(i128::to_le_bytes);
    let write = |embedded: &str| {
        write(schema, &[("ARROW:schema", embedded)], |_, column| {
            let values = fixed(&[&values[0], &values[1]]);
            let column = column.typed::<FixedLenByteArrayType>();
            column.write_batch(&values, Some(&[1, 0, 1]), None).unwrap();
        })
    };
    let expected = [i128::MIN.to_string(), "null".to_owned(), (1_i128 << 100).to_string()];
    assert_eq!(shown(&read(&write(INT128)), "n"), expected);
    for embedded in ["", "no base64 !", "////", &INT128[..40]] {
        let rows = read(&write(embedded));
        assert_eq!(rows.schema().field(0).data_type(), &DataType::FixedSizeBinary(16));
    }
}

#[test]
fn timestamps_of_spark_reach_beyond_the_year_2262() {
    let schema = "message spark_schema { optional int96 t; }";
    // 9999-12-31T23:59:59, as nanoseconds of a Julian day.
    let mut far = Int96::new();
    let ns: u64 = 86_399_000_000_000;
    let parts = ns.to_le_bytes();
    let [low, high] =
        [&parts[..4], &parts[4..]].map(|half| u32::from_le_bytes(half.try_into().unwrap()));
    far.set_data(low, high, 5_373_484);
    let bytes = write(schema, &[("org.apache.spark.version", "3.5.0")], |_, column| {
        column.typed::<Int96Type>().write_batch(&[far], Some(&[1, 0, 0]), None).unwrap();
    });
    assert_eq!(shown(&read(&bytes), "t"), ["9999-12-31T23:59:59", "null", "null"]);
}

#[test]
fn dictionaries_have_keys_that_hold_those_of_every_batch() {
    let words: ArrayRef = Arc::new(StringArray::from_iter_values((0..100).map(|n| format!("{n}"))));
    let kind = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    let words = cast(&words, &kind).unwrap();
    let batch = RecordBatch::try_from_iter([("w", words)]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let rows = read(&bytes);
    assert!(rows.column(0).as_dictionary_opt::<Int32Type>().is_some());
    assert_eq!(shown(&rows, "w")[99], "99");
}
