//! Exact type conversions: a value that does not fit is an error and rejects its row.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Date32Array, FixedSizeListArray, LargeListArray, ListArray,
        MapArray, PrimitiveArray, RecordBatch, StringArray, StructArray, UInt64Array, make_array,
        new_null_array,
    },
    buffer::OffsetBuffer,
    compute::{CastOptions, cast_with_options, concat, take},
    datatypes::{
        ArrowPrimitiveType, DataType, Date64Type, Field, FieldRef, Fields, Int64Type, SchemaRef,
        UInt64Type,
    },
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};

use super::{
    rows::{Damaged, ReadRows},
    stored::{Stored, interval_texts},
};

/// Milliseconds per day.
const MS_PER_DAY: i64 = 86_400_000;
/// The largest integer up to which every integer is exact in a 64-bit float.
pub(super) const EXACT_MAX: u64 = 1 << 53;
/// The time zone of written timestamps, because time zone names are not known here.
const UTC: &str = "+00:00";

/// Returns `rows` with the columns of `schema`: missing columns are null, and a value that does not fit the
/// type of its column damages its row.
pub(super) fn conform(rows: RecordBatch, schema: &SchemaRef) -> ReadRows {
    if rows.schema_ref().fields() == schema.fields() {
        return rows.into();
    }
    let n_rows = rows.num_rows();
    let mut damaged = Vec::new();
    let columns = schema.fields().iter().map(|wanted| {
        let to = wanted.data_type();
        let Some((at, from)) = rows.schema_ref().column_with_name(wanted.name()) else {
            return new_null_array(to, n_rows);
        };
        let column = rows.column(at);
        convert(column, from, to)
            .unwrap_or_else(|_| convert_row_by_row(column, from, wanted, &mut damaged))
    });
    let columns = columns.collect();
    ReadRows::new(Arc::clone(schema), columns, n_rows, damaged)
}

fn convert_row_by_row(
    column: &ArrayRef,
    from: &Field,
    wanted: &Field,
    damaged: &mut Vec<Damaged>,
) -> ArrayRef {
    let to = wanted.data_type();
    let rows = (0..column.len()).map(|row| {
        // A slice of a list would keep the items of all rows.
        let alone = take(column, &UInt64Array::from_value(row as u64, 1), None);
        alone.and_then(|alone| convert(&alone, from, to)).unwrap_or_else(|error| {
            let problem = format!("column `{}`: failed to convert to {to}: {error}", wanted.name());
            damaged.push(Damaged::new(row, &problem));
            new_null_array(to, 1)
        })
    });
    let rows: Vec<ArrayRef> = rows.collect();
    let rows: Vec<&dyn Array> = rows.iter().map(AsRef::as_ref).collect();
    concat(&rows).unwrap_or_else(|error| {
        let problem = format!("column `{}`: failed to convert to {to}: {error}", wanted.name());
        damaged.extend((0..column.len()).map(|row| Damaged::new(row, &problem)));
        new_null_array(to, column.len())
    })
}

/// Converts the values of a column of the field `from` to the type `to`.
///
/// # Errors
///
/// Arrow's, if a value does not fit.
pub(crate) fn convert(
    array: &ArrayRef,
    from: &Field,
    to: &DataType,
) -> Result<ArrayRef, ArrowError> {
    if let Some(stored) = Stored::from_field(from) {
        return strict(&(Arc::new(stored.texts(array)?) as ArrayRef), to);
    }
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), to) {
        (DataType::Null, _) => Ok(new_null_array(to, array.len())),
        (DataType::Dictionary(_, values), _) if !matches!(to, DataType::Dictionary(..)) => {
            let values = values.as_ref().clone();
            convert(&strict(array, &values)?, &Field::new_list_field(values, true), to)
        }
        (DataType::RunEndEncoded(_, values), _) => {
            let values = Arc::clone(values);
            convert(&strict(array, values.data_type())?, &values, to)
        }
        (DataType::ListView(item), _) => {
            convert(&strict(array, &DataType::List(Arc::clone(item)))?, from, to)
        }
        (DataType::LargeListView(item), _) => {
            convert(&strict(array, &DataType::LargeList(Arc::clone(item)))?, from, to)
        }
        (
            DataType::List(from) | DataType::LargeList(from) | DataType::FixedSizeList(from, _),
            DataType::List(to_item)
            | DataType::LargeList(to_item)
            | DataType::FixedSizeList(to_item, _),
        ) => lists(array, from, to_item, to),
        (DataType::Struct(fields), _) if fields.is_empty() => {
            let texts = (0..array.len()).map(|row| array.is_valid(row).then_some("{}"));
            strict(&(Arc::new(texts.collect::<StringArray>()) as ArrayRef), to)
        }
        (DataType::Struct(_), DataType::Struct(fields)) => structs(array.as_struct(), fields),
        (DataType::Map(..), DataType::Map(entries, is_sorted)) => {
            maps(array.as_map(), entries, *is_sorted)
        }
        (DataType::Interval(_), _) => strict(&(Arc::new(interval_texts(array)) as ArrayRef), to),
        (DataType::Union(..), _) => {
            let options = FormatOptions::default();
            let shown = ArrayFormatter::try_new(array.as_ref(), &options)?;
            let texts = (0..array.len()).map(|row| shown.value(row).try_to_string());
            let texts: Vec<String> = texts.collect::<Result<_, _>>()?;
            strict(&(Arc::new(StringArray::from(texts)) as ArrayRef), to)
        }
        (DataType::Date64, DataType::Date32) => days(array.as_primitive()),
        (DataType::Timestamp(unit, Some(zone)), _) if !to.is_temporal() && zone.as_ref() != UTC => {
            let instants = DataType::Timestamp(*unit, Some(UTC.into()));
            strict(&make_array(array.to_data().into_builder().data_type(instants).build()?), to)
        }
        (DataType::Int64, DataType::Float64) => {
            check(array.as_primitive::<Int64Type>(), |value| value.unsigned_abs() <= EXACT_MAX)?;
            strict(array, to)
        }
        (DataType::UInt64, DataType::Float64) => {
            check(array.as_primitive::<UInt64Type>(), |value| value <= EXACT_MAX)?;
            strict(array, to)
        }
        // Arrow would reinterpret the memory of numbers as bytes.
        (own, DataType::Binary | DataType::LargeBinary)
            if own.is_primitive() || *own == DataType::Boolean =>
        {
            strict(&convert(array, from, &DataType::Utf8)?, to)
        }
        _ => strict(array, to),
    }
}

/// Casts values; a value that does not fit is an error.
fn strict(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(array, to, &CastOptions { safe: false, ..CastOptions::default() })
}

fn check<T: ArrowPrimitiveType>(
    values: &PrimitiveArray<T>,
    fits: impl Fn(T::Native) -> bool,
) -> Result<(), ArrowError> {
    match values.iter().flatten().find(|value| !fits(*value)) {
        Some(value) => Err(ArrowError::CastError(format!("{value:?} would be rounded"))),
        None => Ok(()),
    }
}

fn days(values: &PrimitiveArray<Date64Type>) -> Result<ArrayRef, ArrowError> {
    let day = |ms: i64| {
        let day = (ms % MS_PER_DAY == 0).then(|| i32::try_from(ms / MS_PER_DAY).ok()).flatten();
        day.ok_or_else(|| ArrowError::CastError(format!("{ms} milliseconds are not a whole day")))
    };
    let days = values.iter().map(|value| value.map(day).transpose());
    Ok(Arc::new(days.collect::<Result<Date32Array, _>>()?))
}

fn lists(
    array: &ArrayRef,
    from: &FieldRef,
    item: &FieldRef,
    to: &DataType,
) -> Result<ArrayRef, ArrowError> {
    let nulls = array.nulls().cloned();
    let (values, offsets): (&ArrayRef, OffsetBuffer<i64>) = match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.offsets().iter().map(|offset| i64::from(*offset));
            (list.values(), OffsetBuffer::new(offsets.collect()))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            (list.values(), list.offsets().clone())
        }
        _ => {
            let list = array.as_fixed_size_list();
            let size = usize::try_from(list.value_length()).unwrap_or_default();
            let lengths = std::iter::repeat_n(size, list.len());
            (list.values(), OffsetBuffer::from_lengths(lengths))
        }
    };
    let values = convert(values, from, item.data_type())?;
    let item = Arc::clone(item);
    Ok(match to {
        DataType::FixedSizeList(_, size) => {
            let is_of_size = |ends: &[i64]| ends[1] - ends[0] == i64::from(*size);
            let first = offsets.first().copied().unwrap_or_default();
            if !offsets.windows(2).all(is_of_size) {
                return Err(ArrowError::CastError(format!("a list does not have {size} items")));
            }
            let start = usize::try_from(first).unwrap_or_default();
            let n_items = usize::try_from(*size).unwrap_or_default() * array.len();
            let values = values.slice(start, n_items);
            Arc::new(FixedSizeListArray::try_new(item, *size, values, nulls)?)
        }
        DataType::LargeList(_) => Arc::new(LargeListArray::try_new(item, offsets, values, nulls)?),
        _ => {
            let offsets = offsets.iter().map(|offset| i32::try_from(*offset));
            let offsets = offsets.collect::<Result<Vec<i32>, _>>();
            let too_long = |error| ArrowError::CastError(format!("a list is too long: {error}"));
            let offsets = OffsetBuffer::new(offsets.map_err(too_long)?.into());
            Arc::new(ListArray::try_new(item, offsets, values, nulls)?)
        }
    })
}

fn structs(array: &StructArray, fields: &Fields) -> Result<ArrayRef, ArrowError> {
    let columns = fields.iter().map(|field| {
        let own = array.fields().iter().zip(array.columns());
        match own.into_iter().find(|(own, _)| own.name() == field.name()) {
            Some((own, column)) => convert(column, own, field.data_type()),
            None => Ok(new_null_array(field.data_type(), array.len())),
        }
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(StructArray::try_new(fields.clone(), columns, array.nulls().cloned())?))
}

/// Converts keys and values by position, regardless of field names.
fn maps(array: &MapArray, entries: &FieldRef, is_sorted: bool) -> Result<ArrayRef, ArrowError> {
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(ArrowError::CastError("a map has no entries".to_owned()));
    };
    let own = array.entries().fields().iter().zip(array.entries().columns());
    let columns = own.zip(fields.iter());
    let columns = columns.map(|((own, column), field)| convert(column, own, field.data_type()));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let nulls = array.entries().nulls().cloned();
    let items = StructArray::try_new(fields.clone(), columns, nulls)?;
    let (offsets, nulls) = (array.offsets().clone(), array.nulls().cloned());
    Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, items, nulls, is_sorted)?))
}
