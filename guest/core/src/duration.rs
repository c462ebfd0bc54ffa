//! Durations as Go writes them: `90s`, `1h30m`, `1.5h`, `250ms`, `0`.

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError<'t> {
    /// There is nothing.
    #[error("it is empty")]
    Empty,
    /// This stands where a number should.
    #[error("`{0}` is not a number")]
    NotANumber(&'t str),
    /// A number stands without a unit.
    #[error("it has no unit")]
    NoUnit,
    /// This stands behind a number.
    #[error("`{0}` is not a unit")]
    UnknownUnit(&'t str),
    /// It is more than 292 years.
    #[error("it is too long")]
    TooLong,
}

/// The nanoseconds of a duration in the form of Go's `time.ParseDuration`; it may be negative.
/// What is shorter than a nanosecond is dropped.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(text: &str) -> Result<i64, DurationError<'_>> {
    let negative = text.strip_prefix('-');
    let mut rest = negative.or_else(|| text.strip_prefix('+')).unwrap_or(text);
    if rest.is_empty() {
        return Err(DurationError::Empty);
    }
    if rest == "0" {
        return Ok(0);
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| !is_of_number(c));
        let (unit, after) = split(after, is_of_number);
        let nanoseconds = match unit {
            _ if !is_number(number) => {
                let part = if number.is_empty() { unit } else { number };
                return Err(DurationError::NotANumber(part));
            }
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ns" => 1,
            "" => return Err(DurationError::NoUnit),
            _ => return Err(DurationError::UnknownUnit(unit)),
        };
        let part = times(number, nanoseconds).ok_or(DurationError::TooLong)?;
        total = total.saturating_add(part);
        rest = after;
    }
    let total = i64::try_from(total).map_err(|_| DurationError::TooLong)?;
    Ok(if negative.is_some() {
        total.saturating_neg()
    } else {
        total
    })
}

const fn is_of_number(character: char) -> bool {
    character.is_ascii_digit() || character == '.'
}

/// What comes before the first such character, and the rest.
fn split(text: &str, is_end: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(is_end).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// Digits, and perhaps a point among them.
fn is_number(text: &str) -> bool {
    let points = text.bytes().filter(|byte| *byte == b'.').count();
    points <= 1 && text.len() > points
}

/// A number times the nanoseconds of its unit; `None` if that is too much.
fn times(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = match whole {
        "" => 0,
        whole => whole.parse::<u64>().ok()?,
    };
    let mut total = u128::from(whole).checked_mul(unit)?;
    // An hour has less than thirteen decimal places of nanoseconds.
    let (mut digits, mut scale) = (0_u128, 1_u128);
    for digit in fraction.chars().take(18).filter_map(|c| c.to_digit(10)) {
        digits = digits.checked_mul(10)?.checked_add(u128::from(digit))?;
        scale = scale.checked_mul(10)?;
    }
    total = total.checked_add(digits.checked_mul(unit)?.checked_div(scale)?)?;
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn as_go_reads_them() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("+0", 0),
            ("0s", 0),
            ("72h", 72 * 3_600 * SECOND),
            ("1h30m", 5_400 * SECOND),
            ("1.5h", 5_400 * SECOND),
            ("1m0.5s", 60 * SECOND + SECOND / 2),
            ("1500ms", SECOND + SECOND / 2),
            ("-1.5s", -SECOND - SECOND / 2),
            (".5s", SECOND / 2),
            ("5.s", 5 * SECOND),
            ("1us", 1_000),
            ("1\u{b5}s2\u{3bc}s", 3_000),
            ("1.9ns", 1),
            ("0.3333333333333333333333h", 1_199_999_999_999),
            ("2562047h47m16.854775807s", i64::MAX),
        ] {
            assert_eq!(parse(text), Ok(nanoseconds), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_told_by_its_part() {
        use DurationError::{Empty, NoUnit, NotANumber, TooLong, UnknownUnit};
        for (text, error) in [
            ("", Empty),
            ("-", Empty),
            ("5", NoUnit),
            ("1h5", NoUnit),
            ("1d", UnknownUnit("d")),
            ("1 s", UnknownUnit(" s")),
            ("1e3s", UnknownUnit("e")),
            ("1h-3m", UnknownUnit("h-")),
            ("s", NotANumber("s")),
            ("infs", NotANumber("infs")),
            ("--1s", NotANumber("-")),
            (" 1s", NotANumber(" ")),
            (".s", NotANumber(".")),
            ("1..5s", NotANumber("1..5")),
            ("2562047h47m16.854775808s", TooLong),
            ("99999999999999999999999999999999999999999h", TooLong),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
