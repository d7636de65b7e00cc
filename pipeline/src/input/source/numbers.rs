//! Numeric text, and the narrowest type that represents it exactly.

use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};

/// The maximum digits of a `Decimal128`.
pub(super) const DECIMAL_DIGITS_MAX: u8 = 38;
/// Decimals with at most this many digits survive a round trip through `f64`.
const EXACT_DIGITS: usize = 15;
/// Exponents beyond which an `f64` loses digits (subnormal numbers) or is infinite.
const EXPONENT_MAX: i32 = 290;
/// Number formatters use an exponent from these on.
const SMALL_EXPONENT: i32 = -5;
const LARGE_EXPONENT: i32 = 15;

/// The common properties of the numbers of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Numbers {
    /// None has a decimal point or an exponent.
    are_whole: bool,
    fit_i64: bool,
    fit_u64: bool,
    /// Each equals the text of its nearest `f64`, ignoring the decimal point of an integer.
    fit_f64: bool,
    /// The maximum digits before the decimal point.
    n_digits: u8,
    /// The number of fraction digits, if it is the same for all.
    scale: Option<u8>,
    /// Some integer is written without a decimal point, as `1`.
    any_plain: bool,
    /// Some integer is written with a decimal point, as `1.0`.
    any_pointed: bool,
}

impl Numbers {
    /// Parses a number; `None` if the text is not in a standard form, such as `007`, `+5`, `.5`, `-0` or
    /// `1e400`.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (is_negative, rest) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let (whole, rest) = digits(rest);
        if whole.is_empty() || (whole.len() > 1 && whole[0] == b'0') {
            return None;
        }
        match rest {
            [] => Self::whole(text, is_negative, whole),
            [b'.', rest @ ..] => match digits(rest) {
                ([], _) => None,
                (fraction, []) => Some(Self::with_point(text, is_negative, whole, fraction)),
                (fraction, exponent) => Self::with_exponent(text, whole, fraction, exponent),
            },
            exponent => Self::with_exponent(text, whole, &[], exponent),
        }
    }

    fn whole(text: &str, is_negative: bool, digits: &[u8]) -> Option<Self> {
        if is_negative && digits == b"0" {
            return None;
        }
        let is_short = digits.len() <= EXACT_DIGITS;
        let value = || text.parse::<i128>().ok();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "compared"
        )]
        let is_exact = || value().is_some_and(|n| (n as f64) as i128 == n);
        Some(Self {
            are_whole: true,
            fit_i64: is_short || text.parse::<i64>().is_ok(),
            fit_u64: !is_negative && (is_short || text.parse::<u64>().is_ok()),
            fit_f64: is_short || is_exact(),
            n_digits: u8::try_from(digits.len()).unwrap_or(u8::MAX),
            scale: Some(0),
            any_plain: true,
            any_pointed: false,
        })
    }

    fn with_point(text: &str, is_negative: bool, whole: &[u8], fraction: &[u8]) -> Self {
        let is_pointed = fraction == b"0";
        let is_zero = whole == b"0" && fraction.iter().all(|digit| *digit == b'0');
        let is_padded = fraction.ends_with(b"0") && !is_pointed;
        let n_whole = i32::try_from(whole.len()).unwrap_or(i32::MAX);
        let scale = u8::try_from(fraction.len()).ok();
        Self {
            are_whole: false,
            fit_i64: false,
            fit_u64: false,
            fit_f64: !is_padded && is_shortest(text, whole, fraction, n_whole - 1),
            n_digits: u8::try_from(whole.len()).unwrap_or(u8::MAX),
            // A decimal has no negative zero.
            scale: scale.filter(|_| !(is_zero && is_negative)),
            any_plain: false,
            any_pointed: is_pointed,
        }
    }

    /// Parses a number with an exponent and one digit before the decimal point.
    fn with_exponent(text: &str, whole: &[u8], fraction: &[u8], rest: &[u8]) -> Option<Self> {
        let [b'e' | b'E', rest @ ..] = rest else { return None };
        let (is_negative, rest) = match rest {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (exponent, after) = digits(rest);
        if exponent.is_empty() || exponent.len() > 4 || !after.is_empty() {
            return None;
        }
        let exponent = exponent.iter().fold(0, |sum, digit| sum * 10 + i32::from(digit - b'0'));
        let exponent = if is_negative { -exponent } else { exponent };
        let is_padded = fraction.ends_with(b"0") && fraction != b"0";
        let is_usual = (SMALL_EXPONENT + 1..LARGE_EXPONENT).contains(&exponent);
        let is_scientific = whole.len() == 1 && whole != b"0" && !is_padded && !is_usual;
        (is_scientific && is_shortest(text, whole, fraction, exponent)).then_some(Self {
            are_whole: false,
            fit_i64: false,
            fit_u64: false,
            fit_f64: true,
            n_digits: 1,
            scale: None,
            any_plain: false,
            any_pointed: false,
        })
    }

    /// Merges the properties of two columns.
    pub(super) fn merge(self, other: Self) -> Self {
        Self {
            are_whole: self.are_whole && other.are_whole,
            fit_i64: self.fit_i64 && other.fit_i64,
            fit_u64: self.fit_u64 && other.fit_u64,
            fit_f64: self.fit_f64 && other.fit_f64,
            n_digits: self.n_digits.max(other.n_digits),
            scale: self.scale.filter(|_| self.scale == other.scale),
            any_plain: self.any_plain || other.any_plain,
            any_pointed: self.any_pointed || other.any_pointed,
        }
    }

    /// Returns the type that represents every number as written; text if there is none.
    pub(super) fn data_type(self) -> DataType {
        if self.fit_i64 {
            return DataType::Int64;
        }
        if self.fit_u64 {
            return DataType::UInt64;
        }
        if self.fit_f64 && !self.are_whole {
            return DataType::Float64;
        }
        let has_room = |scale: u8| self.n_digits.saturating_add(scale) <= DECIMAL_DIGITS_MAX;
        match self.scale.filter(|scale| has_room(*scale)) {
            #[expect(clippy::cast_possible_wrap, reason = "at most 38")]
            Some(scale) => DataType::Decimal128(DECIMAL_DIGITS_MAX, scale as i8),
            None => DataType::Utf8,
        }
    }

    /// Returns whether integers of a float column are written without a decimal point.
    pub(super) fn are_written_plain(self) -> bool {
        self.any_plain && !self.any_pointed
    }
}

/// Splits off the leading digits of `text`.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let n_digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    text.split_at(n_digits)
}

/// Returns whether the nearest `f64` of a number is written with the same digits. `exponent` is that of the
/// first digit of `whole`.
fn is_shortest(text: &str, whole: &[u8], fraction: &[u8], exponent: i32) -> bool {
    let all = || whole.iter().chain(fraction);
    let n_leading = all().take_while(|digit| **digit == b'0').count();
    let n_all = whole.len() + fraction.len();
    if n_leading == n_all {
        return true;
    }
    let exponent = exponent.saturating_sub(i32::try_from(n_leading).unwrap_or(i32::MAX));
    if n_all - n_leading <= EXACT_DIGITS && exponent.abs() <= EXPONENT_MAX {
        return true;
    }
    let Some(value) = text.parse::<f64>().ok().filter(|value| value.is_finite()) else {
        return false;
    };
    let shown = format!("{:e}", value.abs());
    let Some((mantissa, shown_exponent)) = shown.split_once('e') else { return false };
    let n_trailing = all().rev().take_while(|digit| **digit == b'0').count();
    let significant = all().skip(n_leading).take(n_all - n_leading - n_trailing).copied();
    let significant: Vec<u8> = significant.collect();
    let shown: Vec<u8> = mantissa.bytes().filter(|byte| *byte != b'.').collect();
    shown_exponent.parse() == Ok(exponent)
        && (significant == shown || are_as_near(&significant, &shown, value))
}

/// Returns whether a value is midway between two texts with the same number of digits, of which formatters
/// choose either: Python writes -925200945248546.2, and Rust -925200945248546.3.
fn are_as_near(one: &[u8], other: &[u8], value: f64) -> bool {
    let number = |digits: &[u8]| str::from_utf8(digits).ok()?.parse::<u64>().ok();
    let (Some(first), Some(second)) = (number(one), number(other)) else { return false };
    // No `f64` has more digits than this after a 17-digit midpoint.
    let exact = format!("{:.60e}", value.abs());
    let digits = exact.bytes().filter(u8::is_ascii_digit);
    let mut rest = digits.skip(one.len());
    one.len() == other.len()
        && first.abs_diff(second) == 1
        && rest.next() == Some(b'5')
        && rest.take(60 - one.len()).all(|digit| digit == b'0')
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use proptest::prelude::*;

    use super::Numbers;

    fn data_type(cells: &[&str]) -> DataType {
        let numbers = cells.iter().map(|cell| Numbers::read(cell));
        numbers
            .reduce(|one, other| Some(one?.merge(other?)))
            .flatten()
            .map_or(DataType::Utf8, Numbers::data_type)
    }

    #[test]
    fn a_column_has_the_narrowest_type_that_changes_no_number() {
        let decimal = |scale| DataType::Decimal128(38, scale);
        for (cells, expected) in [
            (&["1", "-2", "0"][..], DataType::Int64),
            (&["9223372036854775807", "-9223372036854775808"], DataType::Int64),
            (&["1", "9223372036854775808"], DataType::UInt64),
            (&["18446744073709551615"], DataType::UInt64),
            (&["-1", "9223372036854775808"], decimal(0)),
            (&["18446744073709551616"], decimal(0)),
            (&["99999999999999999999999999999999999999"], decimal(0)),
            (&["999999999999999999999999999999999999999"], DataType::Utf8),
            (&["1", "1.5"], DataType::Float64),
            (&["1.0", "2.0"], DataType::Float64),
            (&["0.1", "-0.0", "1e-07", "1.5e+22", "2.2250738585072014e-308"], DataType::Float64),
            (&["5e-324", "1.7976931348623157e+308"], DataType::Float64),
            (&["0.30000000000000004", "123456789.12345679"], DataType::Float64),
            // The same value as written by Python and Rust.
            (&["-925200945248546.2", "-925200945248546.3"], DataType::Float64),
            (&["9007199254740993.0"], decimal(1)),
            (&["9007199254740994.0"], DataType::Float64),
            (&["1000000000000000000000.0"], DataType::Float64),
            (&["1.5", "9007199254740993"], DataType::Utf8),
            (&["1.5", "9007199254740992"], DataType::Float64),
            (&["1.10", "2.50", "3.00"], decimal(2)),
            (&["1.10", "2.5"], DataType::Utf8),
            (&["1.10", "2"], DataType::Utf8),
            (&["0.12345678901234567891", "0.12345678901234567890"], decimal(20)),
            (&["0.1234567890123456", "0.12345678901234567891"], DataType::Utf8),
            (&["-0.00", "1.10"], DataType::Utf8),
        ] {
            assert_eq!(data_type(cells), expected, "{cells:?}");
        }
        for cell in [
            "007", "+5", "-0", ".5", "5.", "1e400", "1e5", "1E-4", "12e20", "1.50e20", "-", "",
            " 1", "1 ", "NaN", "inf", "0x10", "1_000", "1,5", "--1", "1e", "1e+", "00.5", "1e-400",
            "\u{661}",
        ] {
            assert_eq!(Numbers::read(cell), None, "{cell}");
        }
    }

    proptest! {
        #[test]
        fn every_written_number_is_read_back(value in any::<f64>(), whole in any::<i64>()) {
            prop_assume!(value.is_finite());
            for text in [format!("{value:?}"), serde_json::json!(value).to_string()] {
                prop_assert_eq!(data_type(&[&text]), DataType::Float64, "{}", text);
            }
            prop_assert_eq!(data_type(&[&whole.to_string()]), DataType::Int64);
        }

        #[test]
        fn what_is_read_is_written_alike(text in "-?[0-9]{1,20}(\\.[0-9]{1,20})?([eE][-+]?[0-9]{1,3})?") {
            let shown = match data_type(&[&text]) {
                DataType::Int64 => text.parse::<i64>().unwrap().to_string(),
                DataType::UInt64 => text.parse::<u64>().unwrap().to_string(),
                // Formatters only differ in exponents.
                DataType::Float64 if text.contains(['e', 'E']) => return Ok(()),
                DataType::Float64 => {
                    let value = text.parse::<f64>().unwrap();
                    if text.ends_with(".0") { format!("{value:.1}") } else { format!("{value}") }
                }
                _ => return Ok(()),
            };
            let is_as_near = shown.len() == text.len()
                && shown.parse::<f64>().ok() == text.parse::<f64>().ok();
            prop_assert!(shown == text || (text.contains('.') && is_as_near), "{} {}", shown, text);
        }
    }
}
