//! Bounded decimal numbers, digit by digit: a prefix is valid if some number within the bounds begins with it.

use legenda_schemas::answer::NumberShape;

/// The digits of a number so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Digits {
    is_negative: bool,
    /// All digits so far as one number.
    value: u128,
    n_whole: u32,
    /// The number of fraction digits, after a point.
    n_fraction: Option<u32>,
}

/// Returns the digits after one more byte, if a number within the bounds begins with them.
pub(super) fn step(shape: &NumberShape, digits: Digits, byte: u8) -> Option<Digits> {
    let next = match byte {
        b'-' if digits == Digits::default() => Digits { is_negative: true, ..digits },
        b'.' if digits.n_whole > 0 && digits.n_fraction.is_none() && shape.scale > 0 => {
            Digits { n_fraction: Some(0), ..digits }
        }
        b'0'..=b'9' => {
            let value = digits.value.checked_mul(10)?.checked_add(u128::from(byte - b'0'))?;
            match digits.n_fraction {
                // No digit follows a leading zero.
                None if digits.n_whole > 0 && digits.value == 0 => return None,
                None => Digits { value, n_whole: digits.n_whole + 1, ..digits },
                Some(n) if n < shape.scale => Digits { value, n_fraction: Some(n + 1), ..digits },
                Some(_) => return None,
            }
        }
        _ => return None,
    };
    rest(shape, next).map(|_| next)
}

/// Returns whether the digits are a number within the bounds.
pub(super) fn is_whole(shape: &NumberShape, digits: Digits) -> bool {
    rest(shape, digits).is_some_and(|rest| rest.is_empty())
}

/// Returns the shortest text that completes a number within the bounds; `None` if there is none.
pub(super) fn rest(shape: &NumberShape, digits: Digits) -> Option<String> {
    if digits == Digits::default() {
        let negative = Digits { is_negative: true, ..digits };
        let positive = of_magnitude(shape, digits);
        return positive.or_else(|| Some(format!("-{}", of_magnitude(shape, negative)?)));
    }
    of_magnitude(shape, digits)
}

fn of_magnitude(shape: &NumberShape, digits: Digits) -> Option<String> {
    let (low, high) = magnitudes(shape, digits.is_negative)?;
    let whole_max = n_digits(high / 10_u128.pow(shape.scale));
    let whole_left = match (digits.n_fraction, digits.value) {
        (Some(_), _) => 0,
        (None, 0) if digits.n_whole > 0 => 0,
        _ => whole_max.saturating_sub(digits.n_whole),
    };
    let whole_least = u32::from(digits.n_whole == 0);
    // With a point, there is at least one fraction digit.
    let fraction_least = digits.n_fraction.map_or(0, |n| n.max(1));
    let given = digits.n_fraction.unwrap_or(0);
    let mut shortest: Option<String> = None;
    for n_whole in whole_least..=whole_left {
        for n_fraction in fraction_least..=shape.scale {
            let point = usize::from(digits.n_fraction.is_none() && n_fraction > 0);
            let length = n_whole as usize + point + (n_fraction - given) as usize;
            if shortest.as_ref().is_some_and(|shortest| shortest.len() <= length) {
                continue;
            }
            if let Some(rest) = with(shape, digits, (low, high), n_whole, n_fraction) {
                shortest = Some(rest);
            }
        }
    }
    shortest
}

/// Returns the rest of a number with `n_whole` more whole digits and `n_fraction` fraction digits in all.
fn with(
    shape: &NumberShape,
    digits: Digits,
    (low, high): (u128, u128),
    n_whole: u32,
    n_fraction: u32,
) -> Option<String> {
    let given = digits.n_fraction.unwrap_or(0);
    let step = 10_u128.pow(n_whole + n_fraction - given);
    let mut first = digits.value.checked_mul(step)?;
    let last = first.checked_add(step - 1)?;
    if digits.n_whole == 0 && n_whole > 1 {
        // No leading zero.
        first = 10_u128.pow(n_whole - 1 + n_fraction);
    }
    let unit = 10_u128.pow(shape.scale - n_fraction);
    let value = first.max(low.div_ceil(unit));
    if value > last.min(high / unit) {
        return None;
    }
    let added = (n_whole + n_fraction - given) as usize;
    let all = format!("{:0width$}", value % step, width = added);
    let all = if added == 0 { String::new() } else { all };
    if digits.n_fraction.is_some() || n_fraction == 0 {
        return Some(all);
    }
    let (whole, fraction) = all.split_at(n_whole as usize);
    Some(format!("{whole}.{fraction}"))
}

/// Returns the bounds of the magnitude of the numbers of a sign; zero has none.
fn magnitudes(shape: &NumberShape, is_negative: bool) -> Option<(u128, u128)> {
    if is_negative {
        let high = u128::try_from(-shape.low).ok()?;
        let low = u128::try_from(-shape.high).unwrap_or(0).max(1);
        (low <= high).then_some((low, high))
    } else {
        let high = u128::try_from(shape.high).ok()?;
        Some((u128::try_from(shape.low).unwrap_or(0), high))
    }
}

fn n_digits(value: u128) -> u32 {
    value.checked_ilog10().unwrap_or(0) + 1
}
