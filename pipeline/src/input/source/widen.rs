//! The common type of two types that represents the values of both without rounding or truncation.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};

use super::{column::is_bytes, portable::decimal_of};

/// Returns the common type of two types, if there is one. Numbers, times and booleans without another common
/// type become text. `ints_fit_floats` means that every 64-bit integer of the column is exact as a float.
pub(super) fn wider(one: &DataType, other: &DataType, ints_fit_floats: bool) -> Option<DataType> {
    use DataType::{
        Date32, Dictionary, Duration, FixedSizeList, Map, Null, Struct, Time32, Time64, Timestamp,
    };
    if one == other {
        return Some(one.clone());
    }
    match (one, other) {
        (Null, kind) | (kind, Null) => Some(kind.clone()),
        (Dictionary(_, values), kind) | (kind, Dictionary(_, values)) => {
            wider(values, kind, ints_fit_floats)
        }
        (Struct(one), Struct(other)) => Some(Struct(wider_fields(one, other)?)),
        (Map(one, one_sorted), Map(other, other_sorted)) => {
            let entries = wider_entries(one, other)?;
            Some(Map(entries, *one_sorted && *other_sorted))
        }
        (FixedSizeList(one, size), FixedSizeList(other, other_size)) if size == other_size => {
            Some(FixedSizeList(wider_field(one, other)?, *size))
        }
        (one, other) if one.is_nested() || other.is_nested() => {
            // Items of a null list of fixed size are null.
            let item = wider_field(item(one)?, item(other)?)?;
            let item = Arc::new(item.as_ref().clone().with_nullable(true));
            let is_large = [one, other].iter().any(|kind| matches!(kind, DataType::LargeList(_)));
            Some(if is_large { DataType::LargeList(item) } else { DataType::List(item) })
        }
        (one, other) if is_bytes(one) || is_bytes(other) => {
            if !(is_bytes(one) && is_bytes(other)) {
                return None;
            }
            let is_large = [one, other].contains(&&DataType::LargeBinary);
            Some(if is_large { DataType::LargeBinary } else { DataType::Binary })
        }
        (one, other) if one.is_numeric() && other.is_numeric() => {
            Some(wider_number(one, other, ints_fit_floats))
        }
        (Timestamp(unit, zone), Timestamp(other_unit, other_zone))
            if zone.is_some() == other_zone.is_some() =>
        {
            let unit = finer(*unit, *other_unit);
            // The instants are the same in any time zone.
            let zone = if zone == other_zone { zone.clone() } else { Some("UTC".into()) };
            Some(Timestamp(unit, zone))
        }
        (Time32(unit) | Time64(unit), Time32(other) | Time64(other)) => {
            Some(match finer(*unit, *other) {
                unit @ (TimeUnit::Second | TimeUnit::Millisecond) => Time32(unit),
                unit => Time64(unit),
            })
        }
        (Duration(unit), Duration(other)) => Some(Duration(finer(*unit, *other))),
        (Date32, DataType::Date64) | (DataType::Date64, Date32) => Some(Date32),
        (one, other) => {
            let is_large = [one, other].contains(&&DataType::LargeUtf8);
            Some(if is_large { DataType::LargeUtf8 } else { DataType::Utf8 })
        }
    }
}

/// Returns the common field of two fields, with the name of the first.
pub(super) fn wider_field(one: &FieldRef, other: &FieldRef) -> Option<FieldRef> {
    let data_type = wider(one.data_type(), other.data_type(), false)?;
    let is_nullable = one.is_nullable() || other.is_nullable();
    let mut field = one.as_ref().clone().with_data_type(data_type).with_nullable(is_nullable);
    if one.metadata() != other.metadata() {
        field.metadata_mut().clear();
    }
    Some(Arc::new(field))
}

fn wider_fields(one: &Fields, other: &Fields) -> Option<Fields> {
    let nullable = |field: &FieldRef| Arc::new(field.as_ref().clone().with_nullable(true));
    let mut fields = Vec::with_capacity(one.len().max(other.len()));
    for field in one {
        fields.push(match other.find(field.name()) {
            Some((_, other)) => wider_field(field, other)?,
            None => nullable(field),
        });
    }
    let added = other.iter().filter(|field| one.find(field.name()).is_none());
    fields.extend(added.map(nullable));
    Some(fields.into())
}

/// Returns the common entries of two maps, whose keys and values are matched by position.
fn wider_entries(one: &FieldRef, other: &FieldRef) -> Option<FieldRef> {
    let (DataType::Struct(fields), DataType::Struct(others)) = (one.data_type(), other.data_type())
    else {
        return None;
    };
    let fields = fields.iter().zip(others).map(|(one, other)| wider_field(one, other));
    let fields: Vec<FieldRef> = fields.collect::<Option<_>>()?;
    Some(Arc::new(Field::new_struct(one.name(), fields, false)))
}

fn item(list: &DataType) -> Option<&FieldRef> {
    match list {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Some(item)
        }
        _ => None,
    }
}

fn finer(one: TimeUnit, other: TimeUnit) -> TimeUnit {
    one.max(other)
}

fn wider_number(one: &DataType, other: &DataType, ints_fit_floats: bool) -> DataType {
    match (Number::from_type(one), Number::from_type(other)) {
        (Number::Float(one), Number::Float(other)) => float(one.max(other)),
        (Number::Float(bits), Number::Whole { bits: whole, .. })
        | (Number::Whole { bits: whole, .. }, Number::Float(bits)) => match whole {
            8 | 16 => float(bits.max(32)),
            32 => DataType::Float64,
            _ if ints_fit_floats => DataType::Float64,
            _ => DataType::Utf8,
        },
        (
            Number::Whole { bits: one, is_signed },
            Number::Whole { bits: other, is_signed: other_is_signed },
        ) => {
            if is_signed == other_is_signed {
                return integer(one.max(other), is_signed);
            }
            let unsigned = if is_signed { other } else { one };
            match one.max(other).max(unsigned * 2) {
                // No integer type covers both signed and unsigned 64-bit values.
                128 => decimal_of(20, 0),
                bits => integer(bits, true),
            }
        }
        (one, other) => match (one.digits(), other.digits()) {
            (Some((one, scale)), Some((other, other_scale))) => {
                let scale = scale.max(other_scale);
                let precision = one.max(other) + scale;
                i8::try_from(scale).map_or(DataType::Utf8, |scale| decimal_of(precision, scale))
            }
            _ => DataType::Utf8,
        },
    }
}

/// A kind of number.
#[derive(Clone, Copy)]
enum Number {
    Whole { bits: u8, is_signed: bool },
    Float(u8),
    Decimal { precision: u8, scale: i8 },
}

impl Number {
    fn from_type(kind: &DataType) -> Self {
        let signed = |bits| Self::Whole { bits, is_signed: true };
        let unsigned = |bits| Self::Whole { bits, is_signed: false };
        match kind {
            DataType::Int8 => signed(8),
            DataType::Int16 => signed(16),
            DataType::Int32 => signed(32),
            DataType::UInt8 => unsigned(8),
            DataType::UInt16 => unsigned(16),
            DataType::UInt32 => unsigned(32),
            DataType::UInt64 => unsigned(64),
            DataType::Float16 => Self::Float(16),
            DataType::Float32 => Self::Float(32),
            DataType::Float64 => Self::Float(64),
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale)
            | DataType::Decimal256(precision, scale) => {
                Self::Decimal { precision: *precision, scale: *scale }
            }
            _ => signed(64),
        }
    }

    /// Returns the digits before and after the decimal point.
    fn digits(self) -> Option<(u8, u8)> {
        Some(match self {
            Self::Float(_) => return None,
            Self::Whole { bits: 8, .. } => (3, 0),
            Self::Whole { bits: 16, .. } => (5, 0),
            Self::Whole { bits: 32, .. } => (10, 0),
            Self::Whole { .. } => (20, 0),
            Self::Decimal { precision, scale } => {
                let behind = u8::try_from(scale).unwrap_or_default();
                (precision.saturating_sub(behind), behind)
            }
        })
    }
}

fn integer(bits: u8, is_signed: bool) -> DataType {
    match (bits, is_signed) {
        (8, true) => DataType::Int8,
        (16, true) => DataType::Int16,
        (32, true) => DataType::Int32,
        (8, false) => DataType::UInt8,
        (16, false) => DataType::UInt16,
        (32, false) => DataType::UInt32,
        (_, true) => DataType::Int64,
        (_, false) => DataType::UInt64,
    }
}

fn float(bits: u8) -> DataType {
    match bits {
        16 => DataType::Float16,
        32 => DataType::Float32,
        _ => DataType::Float64,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, TimeUnit};

    use super::wider;

    #[test]
    fn numbers_become_the_smallest_type_that_rounds_none() {
        use DataType::{
            Boolean, Decimal128, Decimal256, Float16, Float32, Float64, Int8, Int16, Int32, Int64,
            UInt8, UInt32, UInt64, Utf8,
        };
        for (one, other, expected) in [
            (Int32, Int64, Int64),
            (UInt8, Int8, Int16),
            (UInt32, Int32, Int64),
            (UInt64, Int8, Decimal128(20, 0)),
            (Float32, Float64, Float64),
            (Int16, Float16, Float32),
            (Int32, Float32, Float64),
            (Int64, Float64, Utf8),
            (Int64, Decimal128(10, 2), Decimal128(22, 2)),
            (Decimal128(10, 2), Decimal128(12, 6), Decimal128(14, 6)),
            (Decimal128(38, 0), Decimal128(38, 38), Decimal256(76, 38)),
            (Decimal256(76, 0), Decimal256(76, 76), Utf8),
            (Decimal128(10, 2), Float64, Utf8),
            (Boolean, Int32, Utf8),
        ] {
            assert_eq!(wider(&one, &other, false), Some(expected.clone()), "{one} {other}");
            assert_eq!(wider(&other, &one, false), Some(expected), "{other} {one}");
        }
        assert_eq!(wider(&Int64, &Float64, true), Some(Float64));
    }

    #[test]
    fn texts_bytes_times_and_lists_are_alike_however_they_are_stored() {
        use DataType::{Binary, Date32, FixedSizeBinary, LargeBinary, LargeUtf8, Timestamp, Utf8};
        let dictionary = |values| DataType::Dictionary(Box::new(DataType::Int32), Box::new(values));
        let stamp = |unit, zone: Option<&str>| Timestamp(unit, zone.map(Into::into));
        let item = |name: &str, kind| Arc::new(Field::new(name, kind, true));
        let (ms, us) = (TimeUnit::Millisecond, TimeUnit::Microsecond);
        for (one, other, expected) in [
            (Utf8, LargeUtf8, Some(LargeUtf8)),
            (Utf8, DataType::Utf8View, Some(Utf8)),
            (dictionary(Utf8), Utf8, Some(Utf8)),
            (dictionary(Utf8), dictionary(LargeUtf8), Some(LargeUtf8)),
            (FixedSizeBinary(16), FixedSizeBinary(8), Some(Binary)),
            (FixedSizeBinary(16), LargeBinary, Some(LargeBinary)),
            (stamp(ms, None), stamp(us, None), Some(stamp(us, None))),
            (stamp(ms, Some("Asia/Tokyo")), stamp(us, Some("UTC")), Some(stamp(us, Some("UTC")))),
            // A local time is not an instant.
            (stamp(ms, None), stamp(ms, Some("UTC")), Some(Utf8)),
            (Date32, stamp(ms, None), Some(Utf8)),
            (
                DataType::List(item("item", DataType::Int32)),
                DataType::FixedSizeList(item("element", DataType::Int64), 3),
                Some(DataType::List(item("item", DataType::Int64))),
            ),
            // Bytes are not text, and no value is a list.
            (Binary, Utf8, None),
            (DataType::List(item("item", DataType::Int32)), DataType::Int32, None),
        ] {
            assert_eq!(wider(&one, &other, false), expected, "{one} {other}");
        }
    }
}
