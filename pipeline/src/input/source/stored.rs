//! Parquet values without an Arrow type, read as stored and converted to text.

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
    compute::cast,
    datatypes::{
        DataType, Field, Int64Type, IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit,
        IntervalYearMonthType,
    },
    error::ArrowError,
};

/// The field metadata key of the stored type. It never leaves the reader.
const KEY: &str = "legenda.stored_as";

const INTERVAL: &str = "interval";
const DECIMAL: &str = "decimal:";
const SIGNED: &str = "integer";
const UNSIGNED: &str = "unsigned integer";

/// Nanoseconds of a millisecond, and of a second.
const NS_PER_MS: i64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// The types of stored values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// Parquet's INTERVAL: months, days and milliseconds, 4 bytes each, little-endian. Arrow's reader drops
    /// the months.
    Interval,
    /// A DECIMAL that exceeds Arrow's types: an integer, or its big-endian bytes.
    Decimal {
        /// The digits after the decimal point.
        scale: usize,
    },
    /// An integer of more than 64 bits, little-endian, as written by Polars.
    Integer {
        /// Whether it is signed.
        is_signed: bool,
    },
}

impl Stored {
    /// Returns the stored type of a field that is read as stored.
    pub(super) fn from_field(field: &Field) -> Option<Self> {
        Some(match field.metadata().get(KEY)?.as_str() {
            INTERVAL => Self::Interval,
            SIGNED => Self::Integer { is_signed: true },
            UNSIGNED => Self::Integer { is_signed: false },
            mark => Self::Decimal { scale: mark.strip_prefix(DECIMAL)?.parse().ok()? },
        })
    }

    /// Records the stored type in the metadata of a field.
    pub(super) fn mark(self, field: &mut Field) {
        let mark = match self {
            Self::Interval => INTERVAL.to_owned(),
            Self::Decimal { scale } => format!("{DECIMAL}{scale}"),
            Self::Integer { is_signed: true } => SIGNED.to_owned(),
            Self::Integer { is_signed: false } => UNSIGNED.to_owned(),
        };
        field.metadata_mut().insert(KEY.to_owned(), mark);
    }

    /// Removes the stored type from the metadata of a field.
    pub(super) fn unmark(field: &mut Field) {
        field.metadata_mut().remove(KEY);
    }

    /// Converts stored values to text.
    ///
    /// # Errors
    ///
    /// Arrow's, if the values are not stored as this type.
    pub(super) fn texts(self, array: &ArrayRef) -> Result<StringArray, ArrowError> {
        match self {
            Self::Interval => {
                let values = array.as_fixed_size_binary_opt().ok_or_else(|| {
                    ArrowError::CastError(format!("an interval is stored as {}", array.data_type()))
                })?;
                Ok(values.iter().map(|bytes| interval_text(bytes?)).collect())
            }
            Self::Decimal { scale } if array.data_type().is_integer() => {
                let values = cast(array, &DataType::Int64)?;
                let values = values.as_primitive::<Int64Type>().iter();
                Ok(values.map(|value| Some(decimal_text(&value?.to_be_bytes(), scale))).collect())
            }
            Self::Decimal { scale } => {
                let values = cast(array, &DataType::LargeBinary)?;
                let values = values.as_binary::<i64>().iter();
                Ok(values.map(|bytes| Some(decimal_text(bytes?, scale))).collect())
            }
            Self::Integer { is_signed } => {
                let values = cast(array, &DataType::LargeBinary)?;
                let text = |bytes: &[u8]| {
                    // Add a sign byte, because the first bit is not a sign.
                    let sign = (!is_signed).then_some(&0);
                    let bytes: Vec<u8> =
                        sign.into_iter().chain(bytes.iter().rev()).copied().collect();
                    decimal_text(&bytes, 0)
                };
                Ok(values.as_binary::<i64>().iter().map(|bytes| bytes.map(text)).collect())
            }
        }
    }
}

/// Converts intervals of any unit to text.
pub(super) fn interval_texts(array: &ArrayRef) -> StringArray {
    match array.data_type() {
        DataType::Interval(IntervalUnit::YearMonth) => {
            let values = array.as_primitive::<IntervalYearMonthType>().iter();
            values.map(|months| Some(iso_duration(months?.into(), 0, 0))).collect()
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let values = array.as_primitive::<IntervalDayTimeType>().iter();
            let text = |value: arrow::datatypes::IntervalDayTime| {
                let ns = i64::from(value.milliseconds) * NS_PER_MS;
                iso_duration(0, value.days.into(), ns)
            };
            values.map(|value| value.map(text)).collect()
        }
        _ => {
            let values = array.as_primitive::<IntervalMonthDayNanoType>().iter();
            let text = |value: arrow::datatypes::IntervalMonthDayNano| {
                iso_duration(value.months.into(), value.days.into(), value.nanoseconds)
            };
            values.map(|value| value.map(text)).collect()
        }
    }
}

fn interval_text(bytes: &[u8]) -> Option<String> {
    let part = |at: usize| bytes.get(at..at + 4)?.try_into().ok();
    // The format is unsigned; writers with negative months and days (arrow-rs, DuckDB) use two's
    // complement, which real intervals never reach otherwise.
    let (months, days) = (i32::from_le_bytes(part(0)?), i32::from_le_bytes(part(4)?));
    // At most 2^32 ms, so the product fits.
    let nanoseconds = i64::from(u32::from_le_bytes(part(8)?)) * NS_PER_MS;
    Some(iso_duration(months.into(), days.into(), nanoseconds))
}

/// Formats a duration in ISO 8601. Months, days and seconds are separate because they do not convert.
fn iso_duration(months: i64, days: i64, nanoseconds: i64) -> String {
    let mut text = "P".to_owned();
    for (n, unit) in [(months, 'M'), (days, 'D')] {
        if n != 0 {
            text += &format!("{n}{unit}");
        }
    }
    if nanoseconds != 0 || text == "P" {
        let sign = if nanoseconds < 0 { "-" } else { "" };
        let ns = nanoseconds.unsigned_abs();
        let fraction = format!("{:09}", ns % NS_PER_S);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        text += &format!("T{sign}{}{point}{fraction}S", ns / NS_PER_S);
    }
    text
}

/// Formats an integer of any length in decimal; `bytes` are its big-endian two's complement.
fn decimal_text(bytes: &[u8], scale: usize) -> String {
    /// The base of the conversion: nine digits at a time.
    const BASE: u64 = 1_000_000_000;
    let is_negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    // The magnitude of a negative number is its complement plus one.
    let mut limbs: Vec<u64> = Vec::new();
    let add = |limbs: &mut Vec<u64>, factor: u64, byte: u64| {
        let mut carry = byte;
        for limb in limbs.iter_mut() {
            let sum = *limb * factor + carry;
            *limb = sum % BASE;
            carry = sum / BASE;
        }
        if carry > 0 {
            limbs.push(carry);
        }
    };
    for byte in bytes {
        add(&mut limbs, 256, u64::from(if is_negative { !byte } else { *byte }));
    }
    if is_negative {
        add(&mut limbs, 1, 1);
    }
    let mut digits: String = limbs.iter().rev().map(|limb| format!("{limb:09}")).collect();
    digits = digits.trim_start_matches('0').to_owned();
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let point = if scale > 0 { "." } else { "" };
    let sign = if is_negative { "-" } else { "" };
    format!("{sign}{whole}{point}{fraction}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{decimal_text, interval_text, iso_duration};

    proptest! {
        #[test]
        fn decimals_are_written_with_every_digit(value: i128, scale in 0_usize..45) {
            let text = decimal_text(&value.to_be_bytes(), scale);
            prop_assert_eq!(text.rsplit_once('.').map_or(0, |(_, end)| end.len()), scale);
            prop_assert_eq!(text.starts_with('-'), value < 0);
            prop_assert_eq!(text.replace('.', "").parse::<i128>().unwrap(), value);
        }
    }

    #[test]
    fn decimals_may_be_longer_than_any_integer() {
        // 2^264 and its negative, which has the same number of bytes.
        let mut bytes = vec![1];
        bytes.extend([0; 33]);
        let digits =
            "29642774844752946028434172162224104410437116074403984394101141506025761187823616";
        assert_eq!(decimal_text(&bytes, 0), digits);
        bytes[0] = 0xFF;
        assert_eq!(decimal_text(&bytes, 2), format!("-{}.{}", &digits[..78], &digits[78..]));
        assert_eq!(decimal_text(&[], 2), "0.00");
    }

    #[test]
    fn intervals_keep_months_days_and_seconds() {
        let bytes: Vec<u8> = [14_u32, 3, 4500].iter().flat_map(|part| part.to_le_bytes()).collect();
        assert_eq!(interval_text(&bytes).as_deref(), Some("P14M3DT4.5S"));
        assert_eq!(iso_duration(0, 0, 0), "PT0S");
        assert_eq!(iso_duration(-1, 0, -1_500_000_001), "P-1MT-1.500000001S");
    }
}
