//! Cell values: media, and values for templates.

use arrow::{
    array::{Array, AsArray, ListLikeArray, RecordBatch},
    datatypes::{DataType, Field, Float32Type, Float64Type, Int32Type, Int64Type, UInt64Type},
    util::display::{ArrayFormatter, FormatOptions},
};
use serde_json::Value;

use super::{
    convert::convert,
    shape::{PLAIN, WHOLE_NUMBERS},
};
use crate::input::media::encoded::Encoded;

/// One image or audio of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaCell<'a> {
    /// The encoded bytes.
    Bytes(&'a [u8]),
    /// The encoded bytes as text.
    Encoded(Encoded<'a>),
    /// The path or URL.
    Path(&'a str),
}

impl<'a> MediaCell<'a> {
    /// Classifies a text cell. An empty text is empty media.
    fn from_text(text: &'a str) -> Self {
        match Encoded::from_text(text) {
            _ if text.is_empty() => Self::Bytes(&[]),
            Some(encoded) => Self::Encoded(encoded),
            None => Self::Path(text),
        }
    }

    /// Classifies text in place of bytes, which is never a path.
    fn from_bytes(text: &'a str) -> Self {
        match Self::from_text(text) {
            Self::Path(text) => Self::Encoded(Encoded::Base64(text)),
            cell => cell,
        }
    }
}

/// Returns the media of row `row`: none for null, several for a list.
///
/// The column must satisfy [`super::column::holds_media`]; in a struct `{bytes, path}`, non-null bytes take
/// precedence. Text is a `data:` URI, base64, a path or a URL.
#[must_use]
pub fn media_cells(column: &dyn Array, row: usize) -> Vec<MediaCell<'_>> {
    if column.is_null(row) {
        return Vec::new();
    }
    match column.data_type() {
        DataType::List(_) => list_cells(column.as_list::<i32>(), row),
        DataType::LargeList(_) => list_cells(column.as_list::<i64>(), row),
        DataType::FixedSizeList(..) => list_cells(column.as_fixed_size_list(), row),
        DataType::Struct(_) => {
            let fields = column.as_struct();
            let bytes = fields.column_by_name("bytes").and_then(|bytes| {
                let text = text_cell(bytes.as_ref(), row).map(MediaCell::from_bytes);
                text.or_else(|| media_cells(bytes.as_ref(), row).first().copied())
            });
            let path =
                || media_cells(fields.column_by_name("path")?.as_ref(), row).first().copied();
            bytes.or_else(path).into_iter().collect()
        }
        DataType::Dictionary(..) => dictionary_entry(column, row)
            .map_or_else(Vec::new, |(values, entry)| media_cells(values, entry)),
        DataType::Binary => vec![MediaCell::Bytes(column.as_binary::<i32>().value(row))],
        DataType::LargeBinary => vec![MediaCell::Bytes(column.as_binary::<i64>().value(row))],
        DataType::BinaryView => vec![MediaCell::Bytes(column.as_binary_view().value(row))],
        DataType::FixedSizeBinary(_) => {
            vec![MediaCell::Bytes(column.as_fixed_size_binary().value(row))]
        }
        _ => text_cell(column, row).map(MediaCell::from_text).into_iter().collect(),
    }
}

fn list_cells(list: &impl ListLikeArray, row: usize) -> Vec<MediaCell<'_>> {
    let values = list.values().as_ref();
    list.element_range(row).flat_map(|item| media_cells(values, item)).collect()
}

/// Returns the values of a dictionary and the index of a row. Table columns have 32-bit keys.
fn dictionary_entry(column: &dyn Array, row: usize) -> Option<(&dyn Array, usize)> {
    let dictionary = column.as_dictionary_opt::<Int32Type>()?;
    Some((dictionary.values().as_ref(), dictionary.key(row)?))
}

/// Returns the text of a row of a text column; `None` for null or another type.
#[must_use]
pub fn text_cell(column: &dyn Array, row: usize) -> Option<&str> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::Utf8 => Some(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Some(column.as_string::<i64>().value(row)),
        DataType::Utf8View => Some(column.as_string_view().value(row)),
        DataType::Dictionary(..) => {
            let (values, entry) = dictionary_entry(column, row)?;
            text_cell(values, entry)
        }
        _ => None,
    }
}

/// Returns the template value of a cell of the column `name`, as [`template_value`] does, except that
/// integers stored in a float column stay integers. Returns `None` if the column does not exist.
#[must_use]
pub(crate) fn template_cell(rows: &RecordBatch, name: &str, row: usize) -> Option<Value> {
    let (place, field) = rows.schema_ref().column_with_name(name)?;
    let value = template_value(rows.column(place).as_ref(), row);
    let is_plain = field.metadata().get(WHOLE_NUMBERS).is_some_and(|written| written == PLAIN);
    let whole = value.as_f64().filter(|number| is_plain && number.fract() == 0.0);
    #[expect(clippy::cast_possible_truncation, reason = "a whole number within the range")]
    let whole = whole.filter(|n| n.abs() <= WHOLE_MAX).map(|number| Value::from(number as i64));
    Some(whole.unwrap_or(value))
}

/// The largest integer up to which every integer is exact in a 64-bit float.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Returns the template value of a cell: text, numbers, booleans, lists and structs as themselves, null as
/// an empty text, all others as displayed by Arrow (dates in ISO 8601).
#[must_use]
pub fn template_value(column: &dyn Array, row: usize) -> Value {
    if column.is_null(row) {
        return Value::String(String::new());
    }
    if let Some(text) = text_cell(column, row) {
        return Value::from(text);
    }
    let as_type = |data_type| {
        arrow::compute::cast(&column.slice(row, 1), &data_type).ok().filter(|cast| cast.is_valid(0))
    };
    let list = |list: &dyn Array| {
        Value::Array((0..list.len()).map(|item| template_value(list, item)).collect())
    };
    match column.data_type() {
        DataType::Boolean => Value::from(column.as_boolean().value(row)),
        DataType::Float32 => Value::from(column.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => Value::from(column.as_primitive::<Float64Type>().value(row)),
        DataType::UInt64 => Value::from(column.as_primitive::<UInt64Type>().value(row)),
        DataType::Float16 => {
            as_type(DataType::Float32).map_or(Value::Null, |cast| template_value(cast.as_ref(), 0))
        }
        // Time zone names are not known here, so timestamps are shown in UTC.
        DataType::Timestamp(_, Some(_)) => {
            let field = Field::new_list_field(column.data_type().clone(), true);
            convert(&column.slice(row, 1), &field, &DataType::Utf8)
                .map_or(Value::Null, |text| template_value(text.as_ref(), 0))
        }
        data_type if data_type.is_integer() => as_type(DataType::Int64)
            .map_or(Value::Null, |cast| Value::from(cast.as_primitive::<Int64Type>().value(0))),
        DataType::Dictionary(_, values) => as_type(values.as_ref().clone())
            .map_or(Value::Null, |cast| template_value(cast.as_ref(), 0)),
        DataType::List(_) => list(column.as_list::<i32>().value(row).as_ref()),
        DataType::LargeList(_) => list(column.as_list::<i64>().value(row).as_ref()),
        DataType::FixedSizeList(..) => list(column.as_fixed_size_list().value(row).as_ref()),
        DataType::Struct(fields) => {
            let columns = column.as_struct();
            let entries = fields.iter().zip(columns.columns());
            Value::Object(
                entries
                    .map(|(field, column)| {
                        (field.name().clone(), template_value(column.as_ref(), row))
                    })
                    .collect(),
            )
        }
        _ => ArrayFormatter::try_new(column, &FormatOptions::default())
            .map_or(Value::Null, |formatter| Value::from(formatter.value(row).to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{
            ArrayRef, BinaryArray, BinaryViewArray, Date32Array, DictionaryArray, Int32Array,
            LargeBinaryArray, ListArray, StringArray, StructArray, TimestampSecondArray,
        },
        buffer::OffsetBuffer,
        datatypes::{DataType, Field, Int32Type},
    };
    use serde_json::json;

    use super::{Encoded, MediaCell, media_cells, template_value};

    #[test]
    fn media_come_as_bytes_paths_structs_and_lists() {
        let bytes = MediaCell::Bytes(b"ab");
        assert_eq!(media_cells(&BinaryArray::from(vec![Some(&b"ab"[..]), None]), 0), [bytes]);
        assert_eq!(media_cells(&BinaryArray::from(vec![Some(&b"ab"[..]), None]), 1), []);
        assert_eq!(media_cells(&LargeBinaryArray::from(vec![&b"ab"[..]]), 0), [bytes]);
        assert_eq!(media_cells(&BinaryViewArray::from(vec![&b"ab"[..]]), 0), [bytes]);
        assert_eq!(media_cells(&StringArray::from(vec!["p"]), 0), [MediaCell::Path("p")]);

        let both: ArrayRef = Arc::new(StructArray::from(vec![
            (
                Arc::new(Field::new("bytes", DataType::Binary, true)),
                Arc::new(BinaryArray::from(vec![Some(&b"ab"[..]), None])) as ArrayRef,
            ),
            (
                Arc::new(Field::new("path", DataType::Utf8, true)),
                Arc::new(StringArray::from(vec![Some("p"), Some("q")])) as ArrayRef,
            ),
        ]));
        assert_eq!(media_cells(&both, 0), [bytes]);
        assert_eq!(media_cells(&both, 1), [MediaCell::Path("q")]);

        assert_eq!(media_cells(&StringArray::from(vec![""]), 0), [MediaCell::Bytes(b"")]);
        let uri = MediaCell::Encoded(Encoded::DataUri("data:,a"));
        let dictionary: DictionaryArray<Int32Type> =
            vec![Some("p"), None, Some("data:,a")].into_iter().collect();
        assert_eq!(media_cells(&dictionary, 0), [MediaCell::Path("p")]);
        assert_eq!(media_cells(&dictionary, 1), []);
        assert_eq!(media_cells(&dictionary, 2), [uri]);
        // Text in the place of bytes is never a path.
        let written: ArrayRef = Arc::new(StructArray::from(vec![(
            Arc::new(Field::new("bytes", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![Some("YWI="), None])) as ArrayRef,
        )]));
        assert_eq!(media_cells(&written, 0), [MediaCell::Encoded(Encoded::Base64("YWI="))]);
        assert_eq!(media_cells(&written, 1), []);

        let item = Arc::new(Field::new("item", both.data_type().clone(), true));
        let list = ListArray::new(item, OffsetBuffer::new(vec![0, 0, 2].into()), both, None);
        assert_eq!(media_cells(&list, 0), []);
        assert_eq!(media_cells(&list, 1), [bytes, MediaCell::Path("q")]);
    }

    #[test]
    fn templates_see_plain_values() {
        assert_eq!(template_value(&Int32Array::from(vec![7]), 0), json!(7));
        assert_eq!(template_value(&StringArray::from(vec![Some("a"), None]), 1), json!(""));
        assert_eq!(template_value(&Date32Array::from(vec![0]), 0), json!("1970-01-01"));
        let words: DictionaryArray<Int32Type> = vec!["a", "b"].into_iter().collect();
        assert_eq!(template_value(&words, 1), json!("b"));
        let instant = TimestampSecondArray::from(vec![0]).with_timezone("Europe/Berlin");
        assert_eq!(template_value(&instant, 0), json!("1970-01-01T00:00:00Z"));
    }
}
