//! Durations as Go and Consul write them: `90s`, `1h30m`, `1.5h`, `250ms`, `0`.

use std::time::Duration;

/// The longest duration that is taken: 100 years.
const LONGEST_MS: u64 = 100 * 366 * 24 * 60 * 60 * 1_000;

/// Reads a duration for clap.
///
/// Fails on anything that is not a sum of decimal numbers with units, is
/// negative, or is longer than 100 years.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let example = "write it like `30s`, `250ms` or `1h30m`";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err("a duration is not negative".to_owned());
    }
    let mut rest = text;
    let mut total_ns: u128 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_ns: u128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ns" => 1,
            "" => return Err(format!("it has no unit; {example}")),
            _ => return Err(format!("`{unit}` is not a unit; {example}")),
        };
        let part = decimal(number, unit_ns)
            .ok_or_else(|| format!("`{number}` is not a number; {example}"))?;
        total_ns = total_ns.saturating_add(part);
        rest = after;
    }
    let ms = total_ns / 1_000_000;
    if text.is_empty() {
        return Err(format!("it is empty; {example}"));
    }
    if ms > u128::from(LONGEST_MS) {
        return Err("it is longer than 100 years".to_owned());
    }
    let ns = u64::try_from(total_ns).map_err(|_| "it is longer than 100 years".to_owned())?;
    Ok(Duration::from_nanos(ns))
}

/// `number` (digits, perhaps a point and digits) times `unit`.
fn decimal(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 {
        return None;
    }
    let read = |digits: &str| {
        if digits.is_empty() {
            Some(0)
        } else {
            digits.parse::<u128>().ok()
        }
    };
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction = read(fraction)?.checked_mul(unit)?.checked_div(scale)?;
    read(whole)?.checked_mul(unit)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_writes_them() {
        for (text, ms) in [
            ("0", 0),
            ("0s", 0),
            ("250ms", 250),
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("24h", 86_400_000),
            ("1m0.5s", 60_500),
            ("1500us", 1),
        ] {
            assert_eq!(parse(text).map(|d| d.as_millis()), Ok(ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "5",
            "-1s",
            "NaN",
            "NaNs",
            "inf",
            "infs",
            "1e3s",
            "1d",
            "s",
            ".s",
            "1..5s",
            "1h-3m",
            "+1s",
            " 1s",
            "1 s",
            "900000000000h",
            "99999999999999999999999999999999999999999h",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
