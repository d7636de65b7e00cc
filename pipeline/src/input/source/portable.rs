//! The types supported by every output format, and the conversion of columns of other types.
//!
//! Carried columns are written to answers and rejects in any format. A type that Parquet, Arrow IPC or JSON
//! Lines does not support is therefore converted when a file is opened, not when its rows are written.
//!
//! | type | read as |
//! |---|---|
//! | interval | text, as a duration of ISO 8601 (`P1Y2M3DT4.5S` is `P14M3DT4.5S`) |
//! | decimal of more than 76 digits, or of invalid precision or scale | text with every digit |
//! | decimal with a negative scale | decimal with scale 0 |
//! | struct without members | text: `{}`, or null |
//! | union | text |
//! | date in milliseconds (`Date64`) | date in days |
//! | timestamp and time in seconds, which are integers in Parquet | in milliseconds |
//! | dictionary of text or bytes | the same, with 32-bit keys |
//! | dictionary of other values, run-end encoded values | the values |
//! | list view | list |

use std::sync::Arc;

use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Decimal32Type, Decimal64Type,
    Decimal128Type, Decimal256Type, DecimalType, FieldRef, Schema, SchemaRef, TimeUnit,
    validate_decimal_precision_and_scale,
};

use super::stored::Stored;

/// Returns the schema that columns of `schema` are read as.
pub(super) fn portable_schema(schema: &Schema) -> SchemaRef {
    let top = |field: &FieldRef| {
        let read_as = portable_field(field);
        if read_as.data_type() == field.data_type() {
            return read_as;
        }
        // A value that does not fit the converted type rejects its row.
        Arc::new(read_as.as_ref().clone().with_nullable(true))
    };
    let fields: Vec<FieldRef> = schema.fields().iter().map(top).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Returns the type that values of `data_type` are read as.
pub(super) fn portable(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Interval(_) | DataType::Union(..) => DataType::Utf8,
        DataType::Date64 => DataType::Date32,
        DataType::Timestamp(TimeUnit::Second, zone) => {
            DataType::Timestamp(TimeUnit::Millisecond, zone.clone())
        }
        DataType::Time32(TimeUnit::Second) => DataType::Time32(TimeUnit::Millisecond),
        DataType::Decimal32(precision, scale) => decimal::<Decimal32Type>(*precision, *scale),
        DataType::Decimal64(precision, scale) => decimal::<Decimal64Type>(*precision, *scale),
        DataType::Decimal128(precision, scale) => decimal::<Decimal128Type>(*precision, *scale),
        DataType::Decimal256(precision, scale) => decimal::<Decimal256Type>(*precision, *scale),
        DataType::Dictionary(_, values) => match dictionary_values(values) {
            Some(values) => DataType::Dictionary(Box::new(DataType::Int32), Box::new(values)),
            None => portable(values),
        },
        DataType::RunEndEncoded(_, values) => portable(values.data_type()),
        DataType::List(item) | DataType::ListView(item) => DataType::List(portable_field(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => {
            DataType::LargeList(portable_field(item))
        }
        // Parquet does not support lists of fixed size 0.
        DataType::FixedSizeList(item, 0) => DataType::List(portable_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(portable_field(item), *size),
        DataType::Map(entries, is_sorted) => DataType::Map(portable_field(entries), *is_sorted),
        DataType::Struct(fields) if fields.is_empty() => DataType::Utf8,
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(portable_field).collect()),
        other => other.clone(),
    }
}

fn portable_field(field: &FieldRef) -> FieldRef {
    let is_stored = Stored::from_field(field).is_some();
    let data_type = if is_stored { DataType::Utf8 } else { portable(field.data_type()) };
    if data_type == *field.data_type() {
        return Arc::clone(field);
    }
    let mut field = field.as_ref().clone().with_data_type(data_type);
    Stored::unmark(&mut field);
    Arc::new(field)
}

/// Returns the value type of a dictionary that stays one: text and bytes, but not views, for which Parquet
/// readers do not build dictionaries.
fn dictionary_values(values: &DataType) -> Option<DataType> {
    match values {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => {
            Some(values.clone())
        }
        DataType::Utf8View => Some(DataType::Utf8),
        DataType::BinaryView => Some(DataType::Binary),
        _ => None,
    }
}

fn decimal<T: DecimalType>(precision: u8, scale: i8) -> DataType {
    if validate_decimal_precision_and_scale::<T>(precision, scale).is_err() {
        return DataType::Utf8;
    }
    match u8::try_from(scale) {
        Ok(_) => T::TYPE_CONSTRUCTOR(precision, scale),
        Err(_) => decimal_of(precision.saturating_add(scale.unsigned_abs()), 0),
    }
}

/// Returns the narrowest numeric type with `precision` digits, `scale` of them after the decimal point; text
/// if there is none.
pub(super) fn decimal_of(precision: u8, scale: i8) -> DataType {
    match precision {
        n if n <= DECIMAL128_MAX_PRECISION => DataType::Decimal128(precision, scale),
        n if n <= DECIMAL256_MAX_PRECISION => DataType::Decimal256(precision, scale),
        _ => DataType::Utf8,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Fields};

    use super::portable;

    #[test]
    fn only_types_that_every_format_holds_are_left() {
        for (one, expected) in [
            (DataType::Decimal128(5, -2), DataType::Decimal128(7, 0)),
            (DataType::Decimal128(38, -1), DataType::Decimal256(39, 0)),
            (DataType::Decimal256(77, 0), DataType::Utf8),
            (DataType::Decimal128(3, 4), DataType::Utf8),
            (DataType::Decimal64(18, 4), DataType::Decimal64(18, 4)),
            (DataType::Struct(Fields::empty()), DataType::Utf8),
        ] {
            assert_eq!(portable(&one), expected, "{one}");
        }
    }
}
