//! Bounds of JSON numbers, exactly.

/// Returns a JSON number in units of `10^-scale`, rounded up or down; `None` if it is too large for
/// any bound that matters.
pub(super) fn scaled(number: &serde_json::Number, scale: u32, rounds_up: bool) -> Option<i128> {
    let text = number.to_string();
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (text.as_str(), 0),
    };
    let (is_negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let digits = if is_negative { -digits } else { digits };
    let shift = exponent + i64::from(scale) - i64::try_from(fraction.len()).ok()?;
    if digits == 0 {
        return Some(0);
    }
    let size = u32::try_from(shift.unsigned_abs()).ok()?;
    if shift >= 0 {
        return digits.checked_mul(10_i128.checked_pow(size)?);
    }
    let unit = 10_i128.checked_pow(size);
    let (floor, is_exact) = match unit {
        Some(unit) => (digits.div_euclid(unit), digits.rem_euclid(unit) == 0),
        None => (if is_negative { -1 } else { 0 }, false),
    };
    Some(if rounds_up && !is_exact { floor + 1 } else { floor })
}

/// Returns `k` if a JSON number is `10^-k`.
pub(super) fn fraction_digits(number: &serde_json::Number) -> Option<u32> {
    (0..=9).find(|scale| {
        scaled(number, *scale, false) == Some(1) && scaled(number, *scale, true) == Some(1)
    })
}

#[cfg(test)]
mod tests {
    use super::{fraction_digits, scaled};

    #[test]
    fn bounds_are_rounded_to_the_side_asked_for() {
        for (text, scale, down, up) in [
            ("12", 2, 1200, 1200),
            ("0.125", 2, 12, 13),
            ("-0.125", 2, -13, -12),
            ("1e3", 0, 1000, 1000),
            ("1e-30", 2, 0, 1),
            ("-1e-300", 2, -1, 0),
            ("0.0", 6, 0, 0),
        ] {
            let number: serde_json::Number = serde_json::from_str(text).unwrap();
            assert_eq!(scaled(&number, scale, false), Some(down), "{text}");
            assert_eq!(scaled(&number, scale, true), Some(up), "{text}");
        }
        let number = |text| serde_json::from_str(text).unwrap();
        assert_eq!(fraction_digits(&number("0.01")), Some(2));
        assert_eq!(fraction_digits(&number("1")), Some(0));
        assert_eq!(fraction_digits(&number("0.05")), None);
    }
}
