//! JSON Lines: one object per row, with a lossless way back to the original types.
//!
//! Types without a JSON equivalent use the closest one: bytes are base64, dictionaries are their values,
//! durations are numbers in their unit, maps with non-text keys are lists of entries, and NaN and infinity
//! are null. The schema, stored beside the files, restores the types.

use std::{
    io::{Cursor, Write},
    sync::Arc,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Float64Array, LargeBinaryArray, LargeStringArray, RecordBatch,
        RecordBatchOptions, StringArray, make_array,
    },
    compute::cast,
    datatypes::{DataType, Field, FieldRef, Float64Type, Schema, SchemaRef},
    error::ArrowError,
    json::{ReaderBuilder, WriterBuilder, writer::LineDelimited},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;

/// The time zone of written timestamps.
const UTC: &str = "+00:00";

/// Writes `rows`: one object per row, members in column order, with explicit nulls.
///
/// # Errors
///
/// The encoder's, for types that JSON cannot represent, and the writer's.
pub(super) fn write_rows(rows: &RecordBatch, out: &mut impl Write) -> Result<(), ArrowError> {
    let writer = WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = writer.build::<_, LineDelimited>(out);
    writer.write(&plain(rows)?)?;
    writer.finish()
}

/// Converts `rows` to types that JSON can represent.
///
/// # Errors
///
/// The encoder's.
pub(super) fn plain(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = Arc::new(plain_schema(&rows.schema()));
    let columns = rows.columns().iter().map(to_plain).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(schema, columns, &options)
}

/// Reads the output of [`write_rows`] for a table of this schema.
///
/// # Errors
///
/// The decoder's.
pub(super) fn read(bytes: Bytes, schema: &SchemaRef) -> Result<Vec<RecordBatch>, ArrowError> {
    let plain = Arc::new(plain_schema(schema));
    let reader = ReaderBuilder::new(plain).with_strict_mode(true).build(Cursor::new(bytes))?;
    let whole = |batch: Result<RecordBatch, ArrowError>| {
        let batch = batch?;
        let columns = schema.fields().iter().zip(batch.columns());
        let columns = columns.map(|(field, column)| from_plain(column, field));
        RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?)
    };
    reader.map(whole).collect()
}

fn plain_schema(schema: &Schema) -> Schema {
    Schema::new(schema.fields().iter().map(plain_field).collect::<Vec<_>>())
}

fn plain_field(field: &FieldRef) -> FieldRef {
    let data_type = plain_type(field.data_type());
    // NaN and infinity are written as null.
    let is_nullable = field.is_nullable() || data_type.is_floating();
    Arc::new(Field::new(field.name(), data_type, is_nullable))
}

/// Returns the type that represents `data_type` in JSON.
pub(super) fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Binary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Utf8,
        DataType::LargeBinary => DataType::LargeUtf8,
        DataType::Dictionary(_, values) => plain_type(values),
        // Time zone names are not known here; the instant is the same.
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some(UTC.into())),
        DataType::List(item) => DataType::List(plain_field(item)),
        DataType::LargeList(item) => DataType::LargeList(plain_field(item)),
        DataType::FixedSizeList(item, n) => DataType::FixedSizeList(plain_field(item), *n),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        DataType::Map(entries, _) if !has_text_keys(entries) => {
            DataType::List(plain_field(entries))
        }
        DataType::Map(entries, is_sorted) => DataType::Map(plain_field(entries), *is_sorted),
        DataType::Float16 => DataType::Float32,
        DataType::Duration(_) => DataType::Int64,
        other => other.clone(),
    }
}

/// Returns whether the keys of a map can be object keys.
fn has_text_keys(entries: &Field) -> bool {
    match entries.data_type() {
        DataType::Struct(fields) => {
            fields.first().is_some_and(|key| *plain_field(key).data_type() == DataType::Utf8)
        }
        _ => false,
    }
}

fn to_plain(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let plain = plain_type(array.data_type());
    if plain == *array.data_type() {
        return Ok(Arc::clone(array));
    }
    match array.data_type() {
        DataType::Binary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            let bytes = cast(array, &DataType::Binary)?;
            let text = |bytes: Option<&[u8]>| bytes.map(|bytes| BASE64_STANDARD.encode(bytes));
            Ok(Arc::new(bytes.as_binary::<i32>().iter().map(text).collect::<StringArray>()))
        }
        DataType::LargeBinary => {
            let text = |bytes: Option<&[u8]>| bytes.map(|bytes| BASE64_STANDARD.encode(bytes));
            Ok(Arc::new(array.as_binary::<i64>().iter().map(text).collect::<LargeStringArray>()))
        }
        DataType::Dictionary(_, values) => to_plain(&cast(array, values)?),
        DataType::Timestamp(..) | DataType::Duration(_) => called(array, plain),
        _ => with_children(array, plain, |child, _| to_plain(child)),
    }
}

fn from_plain(array: &ArrayRef, field: &Field) -> Result<ArrayRef, ArrowError> {
    let wanted = field.data_type();
    if !field.is_nullable() && wanted.is_floating() && array.null_count() > 0 {
        return numbers(array);
    }
    if wanted == array.data_type() {
        return Ok(Arc::clone(array));
    }
    match wanted {
        DataType::Binary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_)
        | DataType::LargeBinary => {
            let text = cast(array, &DataType::LargeUtf8)?;
            let bytes = |text: Option<&str>| text.map(|text| BASE64_STANDARD.decode(text));
            let bytes = text.as_string::<i64>().iter().map(|text| bytes(text).transpose());
            let bytes = bytes.collect::<Result<LargeBinaryArray, _>>();
            let refuse = |error| ArrowError::JsonError(format!("`{}`: {error}", field.name()));
            cast(&bytes.map_err(refuse)?, wanted)
        }
        DataType::Timestamp(..) | DataType::Duration(_) => called(array, wanted.clone()),
        DataType::Dictionary(_, values) => {
            let values = Field::new(field.name(), values.as_ref().clone(), field.is_nullable());
            cast(&from_plain(array, &values)?, wanted)
        }
        _ => with_children(array, wanted.clone(), from_plain),
    }
}

/// Restores NaN from nulls.
fn numbers(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let values = cast(array, &DataType::Float64)?;
    let values = values.as_primitive::<Float64Type>().iter();
    let values = Float64Array::from_iter_values(values.map(|value| value.unwrap_or(f64::NAN)));
    cast(&values, array.data_type())
}

/// Reinterprets the same values as another type.
fn called(array: &ArrayRef, data_type: DataType) -> Result<ArrayRef, ArrowError> {
    Ok(make_array(array.to_data().into_builder().data_type(data_type).build()?))
}

/// Rebuilds the nested `array` as `data_type`, with children converted by `make`.
fn with_children(
    array: &ArrayRef,
    data_type: DataType,
    make: impl Fn(&ArrayRef, &Field) -> Result<ArrayRef, ArrowError>,
) -> Result<ArrayRef, ArrowError> {
    let fields: Vec<FieldRef> = match &data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            vec![Arc::clone(item)]
        }
        DataType::Map(entries, _) => vec![Arc::clone(entries)],
        DataType::Struct(fields) => fields.iter().map(Arc::clone).collect(),
        other => return cast(array, other),
    };
    let data = array.to_data();
    let children = data.child_data().iter().zip(&fields).map(|(child, field)| {
        let child = make(&make_array(child.clone()), field)?;
        Ok::<_, ArrowError>(child.to_data())
    });
    let children = children.collect::<Result<Vec<_>, _>>()?;
    Ok(make_array(data.into_builder().data_type(data_type).child_data(children).build()?))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{
            ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
            FixedSizeBinaryArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array,
            LargeBinaryArray, ListArray, RecordBatch, StringArray, StructArray,
            TimestampMicrosecondArray, UInt64Array,
        },
        buffer::{NullBuffer, OffsetBuffer},
        datatypes::{DataType, Field, Int32Type, Schema},
    };
    use proptest::prelude::*;

    use bytes::Bytes;

    use super::{read, write_rows};

    fn write(rows: &RecordBatch) -> Result<Bytes, arrow::error::ArrowError> {
        let mut bytes = Vec::new();
        write_rows(rows, &mut bytes)?;
        Ok(bytes.into())
    }

    fn round_trip(rows: &RecordBatch) -> RecordBatch {
        let read = read(write(rows).unwrap(), &rows.schema()).unwrap();
        arrow::compute::concat_batches(&rows.schema(), &read).unwrap()
    }

    /// Returns a table with a column of each kind of type.
    pub(in crate::output::sink) fn every_type() -> RecordBatch {
        let bytes = BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None, Some(b"")]);
        let fixed = FixedSizeBinaryArray::try_from_iter([b"ab", b"cd", b"ef"].into_iter()).unwrap();
        let offsets = OffsetBuffer::new(vec![0, 2, 2, 3].into());
        let item = Arc::new(Field::new_list_field(DataType::Binary, true));
        let lists = ListArray::new(item, offsets, Arc::new(bytes.clone()), None);
        let item = Arc::new(Field::new_list_field(DataType::Float32, true));
        let numbers = Float32Array::from(vec![0.1, -1e-30, 3.0, 0.0, 7.5, f32::MAX]);
        let nulls = Some(NullBuffer::from(vec![true, false, true]));
        let embeddings = FixedSizeListArray::new(item, 2, Arc::new(numbers), nulls);
        let inner: ArrayRef = Arc::new(LargeBinaryArray::from(vec![Some(&b"x"[..]), None, None]));
        let structs = StructArray::from(vec![(
            Arc::new(Field::new("b", DataType::LargeBinary, true)),
            inner,
        )]);
        let words: DictionaryArray<Int32Type> =
            vec![Some("a"), None, Some("a\nb")].into_iter().collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("z", Arc::new(StringArray::from(vec![Some("\"\u{1f980}\r\n"), None, Some("")]))),
            ("bytes", Arc::new(bytes)),
            ("fixed", Arc::new(fixed)),
            ("lists", Arc::new(lists)),
            ("embedding", Arc::new(embeddings)),
            ("structs", Arc::new(structs)),
            ("words", Arc::new(words)),
            ("truth", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
            ("large", Arc::new(UInt64Array::from(vec![u64::MAX, 0, 1]))),
            ("day", Arc::new(Date32Array::from(vec![0, -1, 20_000]))),
            (
                "time",
                Arc::new(TimestampMicrosecondArray::from(vec![1, -5, 7]).with_timezone("UTC")),
            ),
            (
                "money",
                Arc::new(
                    Decimal128Array::from(vec![-1, 12_345, 0])
                        .with_precision_and_scale(9, 2)
                        .unwrap(),
                ),
            ),
        ];
        let columns = columns.into_iter().map(|(name, column)| (name, column, true));
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    }

    #[test]
    fn every_type_comes_back_as_it_was() {
        let rows = every_type();
        assert_eq!(round_trip(&rows), rows);
        let text = String::from_utf8(write(&rows).unwrap().to_vec()).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.starts_with("{\"z\":"), "{text}");
        let slice = rows.slice(1, 2);
        assert_eq!(round_trip(&slice), slice);
    }

    #[test]
    fn a_number_that_is_none_is_null_where_it_may_be() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("wanted", DataType::Float64, false),
            Field::new("maybe", DataType::Float32, true),
            Field::new("n", DataType::Int32, false),
        ]));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Float64Array::from(vec![f64::NAN, 1.5])),
            Arc::new(Float32Array::from(vec![f32::NAN, f32::INFINITY])),
            Arc::new(Int32Array::from(vec![1, 2])),
        ];
        let back = round_trip(&RecordBatch::try_new(schema, columns).unwrap());
        let text = format!("{back:?}");
        assert!(text.contains("NaN,") && text.contains("1.5,"), "{text}");
        assert_eq!(back.column(1).null_count(), 2);
    }

    proptest! {
        #[test]
        fn numbers_and_texts_keep_every_bit(
            rows in prop::collection::vec(
                (any::<Option<String>>(), any::<f32>(), any::<f64>(), any::<i64>()),
                0..20,
            ),
        ) {
            prop_assume!(rows.iter().all(|row| row.1.is_finite() && row.2.is_finite()));
            let texts: StringArray = rows.iter().map(|row| row.0.as_deref()).collect();
            let columns: [(&str, ArrayRef); 4] = [
                ("text", Arc::new(texts)),
                ("single", Arc::new(Float32Array::from_iter_values(rows.iter().map(|row| row.1)))),
                ("double", Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.2)))),
                (
                    "whole",
                    Arc::new(arrow::array::Int64Array::from_iter_values(rows.iter().map(|row| row.3))),
                ),
            ];
            let rows = RecordBatch::try_from_iter(columns).unwrap();
            prop_assert_eq!(round_trip(&rows), rows);
        }
    }
}
