//! Durations as Go and Consul write them: `90s`, `1h30m`, `1.5h`, `250ms`, `0`.

use std::time::Duration;

use portcullis_core::duration::{self, DurationError};

/// The longest duration that is taken: 100 years.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// Reads a duration for clap.
///
/// Fails on what is none to Go, is negative, or is longer than 100 years.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    const TOO_LONG: &str = "it is longer than 100 years";
    let nanoseconds = duration::parse(text).map_err(|error| match error {
        DurationError::TooLong => TOO_LONG.to_owned(),
        error => format!("{error}; write it like `30s`, `250ms` or `1h30m`"),
    })?;
    let nanoseconds =
        u64::try_from(nanoseconds).map_err(|_| "a duration is not negative".to_owned())?;
    let duration = Duration::from_nanos(nanoseconds);
    if duration > LONGEST {
        return Err(TOO_LONG.to_owned());
    }
    Ok(duration)
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
            ("+1s", 1_000),
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
            " 1s",
            "1 s",
            "900000000000h",
            "99999999999999999999999999999999999999999h",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
