//! Quantities with units, as in job files: byte sizes, error budgets and durations.

use std::{fmt, str::FromStr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An invalid quantity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnitError {
    /// The size is invalid.
    #[error("invalid size `{text}`: expected a number and a unit, such as \"512MiB\" or \"2GiB\"")]
    ByteSize {
        /// The input.
        text: String,
    },
    /// The duration is invalid.
    #[error(
        "invalid duration `{text}`: expected a number and a unit, such as \"90s\", \"5m\" or \"6h\""
    )]
    Period {
        /// The input.
        text: String,
    },
    /// The error budget is invalid.
    #[error(
        "invalid error budget `{text}`: expected a percentage (\"5%\") or a number of rows (\"200\")"
    )]
    ErrorBudget {
        /// The input.
        text: String,
    },
}

/// A size in bytes, such as `512MiB`, `2GiB`, `64KB` or `1000`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct ByteSize(pub u64);

/// Binary (IEC 80000-13) units first, so that `Display` uses them; decimal (SI) units are only parsed.
const BYTE_UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
];

impl ByteSize {
    /// Returns `n` mebibytes.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError::ByteSize { text: text.to_owned() };
        let trimmed = text.trim();
        let upper = trimmed.to_ascii_uppercase();
        let (digits, factor) = BYTE_UNITS
            .iter()
            .find_map(|(unit, factor)| Some((upper.strip_suffix(&unit.to_uppercase())?, *factor)))
            .or_else(|| Some((upper.strip_suffix('B')?, 1)))
            .unwrap_or((upper.as_str(), 1));
        let digits = digits.trim();
        if let Ok(value) = digits.parse::<u64>() {
            return value.checked_mul(factor).map(Self).ok_or_else(error);
        }
        let value: f64 = digits.parse().map_err(|_| error())?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a fractional size need not be exact to the byte"
        )]
        let bytes = value * factor as f64;
        if !(0.0..9e15).contains(&bytes) {
            return Err(error());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to lie in 0..9e15 just above"
        )]
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in &BYTE_UNITS[..4] {
            if self.0 >= *factor {
                if self.0.is_multiple_of(*factor) {
                    return write!(f, "{}{unit}", self.0 / factor);
                }
                #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
                return write!(f, "{:.1}{unit}", self.0 as f64 / *factor as f64);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl TryFrom<String> for ByteSize {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<ByteSize> for String {
    /// Formats the size exactly; `Display` may round.
    fn from(size: ByteSize) -> Self {
        let exact = BYTE_UNITS[..4].iter().find(|(_, factor)| size.0.is_multiple_of(*factor));
        match exact.filter(|_| size.0 > 0) {
            Some((unit, factor)) => format!("{}{unit}", size.0 / factor),
            None => format!("{}B", size.0),
        }
    }
}

/// The maximum number of rejected rows before a run stops: a percentage (`"5%"`) or a number of rows
/// (`"200"`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum ErrorBudget {
    /// A percentage of the rows of the run.
    Percent(f64),
    /// A number of rows.
    Rows(u64),
}

impl ErrorBudget {
    /// Returns the maximum number of rejects of a run over `rows_in` rows.
    #[must_use]
    pub fn rows_max(self, rows_in: u64) -> u64 {
        match self {
            Self::Rows(rows) => rows,
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the share is 0 to 100, so the product lies in 0..=rows_in"
            )]
            Self::Percent(share) => (rows_in as f64 * share / 100.0).floor() as u64,
        }
    }
}

impl FromStr for ErrorBudget {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError::ErrorBudget { text: text.to_owned() };
        match text.trim().strip_suffix('%') {
            Some(share) => {
                let share: f64 = share.trim().parse().map_err(|_| error())?;
                (0.0..=100.0).contains(&share).then_some(Self::Percent(share)).ok_or_else(error)
            }
            None => text.trim().parse().map(Self::Rows).map_err(|_| error()),
        }
    }
}

impl fmt::Display for ErrorBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(share) => write!(f, "{share}%"),
            Self::Rows(rows) => write!(f, "{rows}"),
        }
    }
}

impl TryFrom<String> for ErrorBudget {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<ErrorBudget> for String {
    fn from(budget: ErrorBudget) -> Self {
        budget.to_string()
    }
}

/// Formats a count with its noun: `1 row`, `2 rows`.
#[must_use]
pub fn counted(n: u64, noun: &str) -> String {
    counted_as(n, noun, &format!("{noun}s"))
}

/// Formats a count with the `singular` or `plural` of its noun: `1 row was`, `2 rows were`.
#[must_use]
pub fn counted_as(n: u64, singular: &str, plural: &str) -> String {
    format!("{n} {}", if n == 1 { singular } else { plural })
}

/// Formats a number with thousands separators: narrow no-break spaces, as ISO 80000-1 recommends.
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Formats a share as a percentage, with one decimal if it is not an integer: `25 %`, `12.5 %`.
#[must_use]
pub fn percent(share: f64) -> String {
    let tenths = (share * 1000.0).round();
    if tenths % 10.0 == 0.0 {
        format!("{:.0} %", tenths / 10.0)
    } else {
        format!("{:.1} %", tenths / 10.0)
    }
}

/// A duration in whole seconds, such as `90s`, `5m`, `6h`, `2d` or `1h30m`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Period(pub u64);

const PERIOD_UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl Period {
    /// Returns a duration of `n` seconds.
    #[must_use]
    pub const fn seconds(n: u64) -> Self {
        Self(n)
    }

    /// Converts to the standard library's type.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError::Period { text: text.to_owned() };
        let mut seconds = 0_u64;
        let mut rest = text.trim();
        // Each unit may occur once, larger units first.
        let mut units = PERIOD_UNITS.iter();
        while !rest.is_empty() {
            let at = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
            let number: u64 = rest[..at].parse().map_err(|_| error())?;
            let unit = rest[at..].chars().next().ok_or_else(error)?;
            let (_, factor) = units.find(|(name, _)| *name == unit).ok_or_else(error)?;
            seconds = number
                .checked_mul(*factor)
                .and_then(|part| seconds.checked_add(part))
                .ok_or_else(error)?;
            rest = rest[at + unit.len_utf8()..].trim_start();
        }
        // More than a hundred years is a typo, and overflows time arithmetic.
        let is_valid = !text.trim().is_empty() && seconds <= 36_525 * 86_400;
        is_valid.then_some(Self(seconds)).ok_or_else(error)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        for (unit, factor) in PERIOD_UNITS {
            if rest >= factor {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        if self.0 == 0 { f.write_str("0s") } else { Ok(()) }
    }
}

impl TryFrom<String> for Period {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl From<Period> for String {
    fn from(period: Period) -> Self {
        period.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ByteSize, ErrorBudget, Period, counted, counted_as, grouped, percent};

    proptest! {
        /// Regression: a stored job contained `1.0GiB` for `1028MiB`, which reads back as 1024 MiB.
        #[test]
        fn sizes_round_trip(n in 0_u64..1 << 20, shift in 0_u32..4, more in 0_u64..3) {
            let size = ByteSize((n << (10 * shift)) + more);
            prop_assert_eq!(String::from(size).parse::<ByteSize>().unwrap(), size);
        }

        #[test]
        fn exact_sizes_survive_display(n in 0_u64..1 << 20, shift in 0_u32..4) {
            let size = ByteSize(n << (10 * shift));
            let shown = size.to_string();
            if !shown.contains('.') {
                prop_assert_eq!(shown.parse::<ByteSize>().unwrap(), size);
            }
        }
    }

    proptest! {
        #[test]
        fn durations_survive_display(seconds in 0_u64..10_000_000) {
            prop_assert_eq!(Period(seconds).to_string().parse::<Period>().unwrap(), Period(seconds));
        }
    }

    #[test]
    fn thousands_are_separated() {
        for (n, text) in [(7, "7"), (1234, "1\u{202f}234"), (1_234_567, "1\u{202f}234\u{202f}567")]
        {
            assert_eq!(grouped(n), text);
        }
    }

    #[test]
    fn durations_need_units() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2d 1s", 172_801)] {
            assert_eq!(text.parse::<Period>().unwrap().0, seconds, "{text}");
        }
        for text in ["", "5", "m", "-1s", "1.5h", "1m1h", "5 minutes", "1s1s", "99999999999d"] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_binary_or_decimal_units() {
        for (text, bytes) in
            [("2GiB", 2 << 30), ("1.5 MiB", 3 << 19), ("64kb", 64_000), ("12", 12), ("7B", 7)]
        {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
        for text in ["", "GiB", "two", "-1MiB", "1e30TiB", "nan"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn counts_are_pluralized_and_shares_have_no_empty_decimals() {
        assert_eq!((counted(1, "row"), counted(0, "row")), ("1 row".into(), "0 rows".into()));
        assert_eq!(counted_as(2, "row was", "rows were"), "2 rows were");
        for (share, text) in [(0.25, "25 %"), (0.125, "12.5 %"), (0.99999, "100 %"), (0.0, "0 %")] {
            assert_eq!(percent(share), text);
        }
    }

    #[test]
    fn budgets_are_percentages_or_rows() {
        assert_eq!("5%".parse::<ErrorBudget>().unwrap().rows_max(1000), 50);
        assert_eq!("7".parse::<ErrorBudget>().unwrap().rows_max(1000), 7);
        assert!("101%".parse::<ErrorBudget>().is_err());
        assert!("few".parse::<ErrorBudget>().is_err());
    }
}
