//! Conversion of text cells to typed columns.

use std::{borrow::Cow, str::FromStr, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, StringArray,
        UInt64Array, new_null_array,
    },
    compute::{CastOptions, cast_with_options},
    datatypes::DataType,
};

use super::{numbers::DECIMAL_DIGITS_MAX, shape::Spelling};

/// A cell; `None` if null.
pub(super) type Cell<'a> = Option<Cow<'a, str>>;

/// Parses cells as a column of `data_type`; returns the indices of invalid cells, which are null in the
/// column.
pub(super) fn column(data_type: &DataType, cells: &[Cell<'_>]) -> (ArrayRef, Vec<usize>) {
    match data_type {
        DataType::Utf8 => (Arc::new(texts(cells)), Vec::new()),
        DataType::Int64 => parsed::<_, Int64Array>(cells, number),
        DataType::UInt64 => parsed::<_, UInt64Array>(cells, number),
        DataType::Float64 => parsed::<_, Float64Array>(cells, number),
        DataType::Boolean => parsed::<_, BooleanArray>(cells, |cell| {
            Spelling::read(cell.trim()).map(|(_, truth)| truth)
        }),
        DataType::Decimal128(precision, scale) => {
            let scale = usize::try_from(*scale).unwrap_or_default();
            let (array, bad) = parsed::<_, Decimal128Array>(cells, |cell| {
                decimal(cell.trim(), usize::from(*precision), scale)
            });
            let decimals = array.to_data().into_builder().data_type(data_type.clone()).build();
            let nulls = || new_null_array(data_type, cells.len());
            (decimals.map_or_else(|_| nulls(), arrow::array::make_array), bad)
        }
        _ => cast(data_type, cells),
    }
}

/// Describes the valid cells of a type, for a message.
pub(super) fn expected(data_type: &DataType) -> String {
    match data_type {
        data_type if data_type.is_integer() => format!("an integer ({data_type})"),
        DataType::Float32 | DataType::Float64 => "a number".to_owned(),
        DataType::Boolean => "true or false".to_owned(),
        DataType::Decimal128(precision, scale) => {
            format!("a decimal with {precision} digits, at most {scale} after the decimal point")
        }
        DataType::Date32 => "a date, such as 2026-11-30".to_owned(),
        DataType::Timestamp(..) => "a date and time, such as 2026-11-30T12:00:00".to_owned(),
        other => other.to_string(),
    }
}

fn texts(cells: &[Cell<'_>]) -> StringArray {
    cells.iter().map(Option::as_deref).collect()
}

fn number<T: FromStr>(cell: &str) -> Option<T> {
    cell.trim().parse().ok()
}

fn parsed<T, A: Array + FromIterator<Option<T>> + 'static>(
    cells: &[Cell<'_>],
    parse: impl Fn(&str) -> Option<T>,
) -> (ArrayRef, Vec<usize>) {
    let mut bad = Vec::new();
    let values = cells.iter().enumerate().map(|(place, cell)| {
        let value = parse(cell.as_deref()?);
        if value.is_none() {
            bad.push(place);
        }
        value
    });
    let array: A = values.collect();
    (Arc::new(array), bad)
}

/// Parses a decimal exactly; returns it in units of its last digit.
fn decimal(cell: &str, precision: usize, scale: usize) -> Option<i128> {
    let digits = cell.strip_prefix(['-', '+']).unwrap_or(cell);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let significant = whole.trim_start_matches('0').len() + scale;
    let is_sound = !whole.is_empty()
        && are_digits(whole)
        && are_digits(fraction)
        && fraction.len() <= scale
        && significant <= precision.min(usize::from(DECIMAL_DIGITS_MAX));
    if !is_sound {
        return None;
    }
    let units: i128 = format!("{whole}{fraction:0<scale$}").parse().ok()?;
    Some(if cell.starts_with('-') { -units } else { units })
}

/// Parses cells of types that are only used in `source.schema`.
fn cast(data_type: &DataType, cells: &[Cell<'_>]) -> (ArrayRef, Vec<usize>) {
    let trimmed: StringArray = cells.iter().map(|cell| cell.as_deref().map(str::trim)).collect();
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let array = cast_with_options(&trimmed, data_type, &options)
        .unwrap_or_else(|_| new_null_array(data_type, cells.len()));
    let is_bad = |place: &usize| cells[*place].is_some() && array.is_null(*place);
    let bad = (0..cells.len()).filter(is_bad).collect();
    (array, bad)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use arrow::{
        array::Array,
        datatypes::{DataType, TimeUnit},
        util::display::array_value_to_string,
    };

    use super::column;

    #[test]
    fn cells_are_read_or_refused() {
        let decimal = DataType::Decimal128(5, 2);
        let instant = DataType::Timestamp(TimeUnit::Second, None);
        for (data_type, cell, expected) in [
            (DataType::Int64, "007", Some("7")),
            (DataType::Int64, "1.5", None),
            (DataType::Int8, "127", Some("127")),
            (DataType::Int8, "128", None),
            (DataType::UInt32, "-1", None),
            (DataType::Float64, "1.10", Some("1.1")),
            (DataType::Float64, "x", None),
            (DataType::Boolean, "TRUE", Some("true")),
            (DataType::Boolean, "1", None),
            (decimal.clone(), "1.5", Some("1.50")),
            (decimal.clone(), "-0.05", Some("-0.05")),
            (decimal.clone(), "999.99", Some("999.99")),
            (decimal.clone(), "1000", None),
            (decimal.clone(), "1.999", None),
            (decimal, "1e2", None),
            (DataType::Date32, "2026-11-30", Some("2026-11-30")),
            (DataType::Date32, "30.11.2026", None),
            (instant.clone(), "2026-11-30 12:00:00", Some("2026-11-30T12:00:00")),
            (instant, "noon", None),
        ] {
            let (array, bad) = column(&data_type, &[Some(Cow::Borrowed(cell)), None]);
            assert_eq!(array.data_type(), &data_type);
            let shown = array.is_valid(0).then(|| array_value_to_string(&array, 0).unwrap());
            assert_eq!(shown.as_deref(), expected, "{data_type} {cell}");
            assert_eq!(bad, if expected.is_none() { vec![0] } else { vec![] });
            assert!(array.is_null(1));
        }
    }
}
