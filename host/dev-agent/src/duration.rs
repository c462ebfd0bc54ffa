//! Durations as Go writes and reads them (`72h`, `1m30s`, `1500ms`).

use std::time::Duration;

/// A duration as Go's `time.ParseDuration` reads it, in nanoseconds; it may be negative.
///
/// # Errors
/// Go's own words.
pub(crate) fn parse(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        total += number * unit;
        rest = &rest[letters..];
    }
    if total > i64::MAX as f64 {
        return Err(invalid());
    }
    let total = total as i64;
    Ok(if negative { -total } else { total })
}

/// As Go prints it: `72h0m0s`, `1m30s`, `500ms`.
pub(crate) fn format(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return match duration.subsec_nanos() {
            0 => "0s".to_owned(),
            nanos if nanos % 1_000_000 == 0 => format!("{}ms", nanos / 1_000_000),
            nanos => format!("{}µs", f64::from(nanos) / 1e3),
        };
    }
    let fraction = match duration.subsec_nanos() {
        0 => String::new(),
        nanos => format!(".{}", format!("{nanos:09}").trim_end_matches('0')),
    };
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}{fraction}s"),
        (0, _) => format!("{minutes}m{rest}{fraction}s"),
        _ => format!("{hours}h{minutes}m{rest}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_what_go_does() {
        assert_eq!(parse("72h"), Ok(72 * 3_600_000_000_000));
        assert_eq!(parse("1m30s"), Ok(90_000_000_000));
        assert_eq!(parse("-1.5s"), Ok(-1_500_000_000));
        assert_eq!(parse("1500ms"), Ok(1_500_000_000));
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(
            parse("2"),
            Err("time: missing unit in duration \"2\"".to_owned())
        );
        for bad in ["", "x", "s", "1x", ".", "--1s", "1e9h", "99999999999h"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(format(Duration::from_secs(72 * 3600)), "72h0m0s");
        assert_eq!(format(Duration::from_millis(90_500)), "1m30.5s");
        assert_eq!(format(Duration::from_millis(500)), "500ms");
    }
}
