//! Points in time as numbers: nothing in this crate reads a clock.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

const MILLIS_PER_SECOND: u64 = 1_000;
const SECONDS_PER_DAY: u64 = 86_400;
/// 9999-12-31T23:59:59.999Z, the last moment that RFC 3339 can write.
const LAST_PRINTABLE: u64 = 253_402_300_799_999;

/// Milliseconds since 1970-01-01T00:00:00Z. Arithmetic saturates, so time never wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// Text that is not an RFC 3339 date and time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TimestampError {
    /// The text has not the form `2026-11-21T01:01:13Z`.
    #[error("not an RFC 3339 date and time")]
    Form,
    /// A field is outside its range, for example month 13.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// The moment lies before 1970.
    #[error("the time is before 1970")]
    BeforeEpoch,
}

impl Timestamp {
    /// The latest moment that can be expressed.
    pub const MAX: Self = Self(u64::MAX);

    /// A moment by its milliseconds since the epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// A moment by its whole seconds since the epoch; saturates.
    #[must_use]
    pub const fn from_unix_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(MILLIS_PER_SECOND))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn as_unix_secs(self) -> u64 {
        self.0 / MILLIS_PER_SECOND
    }

    /// The moment `millis` later, at most [`Timestamp::MAX`].
    #[must_use]
    pub const fn saturating_add_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// The moment `millis` earlier, at least the epoch.
    #[must_use]
    pub const fn saturating_sub_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_sub(millis))
    }

    /// Milliseconds from `earlier` to `self`; 0 if `earlier` is the later one.
    #[must_use]
    pub const fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Reads RFC 3339, as Consul writes it: any fraction (cut to milliseconds) and offset.
    ///
    /// # Errors
    /// If the text has another form, names a moment that does not exist (leap
    /// seconds count as such) or one before 1970.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        let (date, rest) = text
            .split_once(['T', 't', ' '])
            .ok_or(TimestampError::Form)?;
        let days = parse_date(date)?;
        let (clock, offset_minutes) = split_offset(rest)?;
        let millis_of_day = parse_clock(clock)?;
        let local = days
            .checked_mul(SECONDS_PER_DAY)
            .and_then(|seconds| seconds.checked_mul(MILLIS_PER_SECOND))
            .and_then(|millis| millis.checked_add(millis_of_day))
            .ok_or(TimestampError::Range("year"))?;
        let offset = offset_minutes.unsigned_abs().saturating_mul(60_000);
        let utc = if offset_minutes.is_negative() {
            local.checked_add(offset)
        } else {
            local.checked_sub(offset)
        };
        utc.map(Self).ok_or(TimestampError::BeforeEpoch)
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// RFC 3339 in UTC; milliseconds only where they are not 0. What lies beyond
/// the year 9999 is written as its last millisecond.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.min(LAST_PRINTABLE);
        let seconds = millis / MILLIS_PER_SECOND;
        let (year, month, day) = civil(seconds / SECONDS_PER_DAY);
        let second_of_day = seconds % SECONDS_PER_DAY;
        let (hour, minute, second) = (
            second_of_day / 3_600,
            second_of_day / 60 % 60,
            second_of_day % 60,
        );
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        )?;
        match millis % MILLIS_PER_SECOND {
            0 => f.write_str("Z"),
            fraction => write!(f, ".{fraction:03}Z"),
        }
    }
}

/// Days since the epoch of `YYYY-MM-DD`.
fn parse_date(date: &str) -> Result<u64, TimestampError> {
    let mut fields = date.split('-');
    let (Some(year), Some(month), Some(day), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(TimestampError::Form);
    };
    let (year, month, day) = (number(year, 4)?, number(month, 2)?, number(day, 2)?);
    if year < 1970 {
        return Err(TimestampError::BeforeEpoch);
    }
    let length = month_length(year, month).ok_or(TimestampError::Range("month"))?;
    if day == 0 || day > length {
        return Err(TimestampError::Range("day"));
    }
    let years: u64 = (1970..year)
        .map(|y| if is_leap(y) { 366 } else { 365 })
        .sum();
    let months: u64 = (1..month).filter_map(|m| month_length(year, m)).sum();
    Ok(years + months + day - 1)
}

/// Milliseconds since midnight of `HH:MM:SS[.fraction]`.
fn parse_clock(clock: &str) -> Result<u64, TimestampError> {
    let (whole, fraction) = match clock.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (clock, None),
    };
    let mut fields = whole.split(':');
    let (Some(hour), Some(minute), Some(second), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(TimestampError::Form);
    };
    let (hour, minute, second) = (number(hour, 2)?, number(minute, 2)?, number(second, 2)?);
    for (value, limit, name) in [
        (hour, 24, "hour"),
        (minute, 60, "minute"),
        (second, 60, "second"),
    ] {
        if value >= limit {
            return Err(TimestampError::Range(name));
        }
    }
    let millis = match fraction {
        None => 0,
        Some(digits) => {
            if digits.is_empty() || digits.len() > 12 || !digits.bytes().all(|b| b.is_ascii_digit())
            {
                return Err(TimestampError::Form);
            }
            let three: String = digits.chars().chain("00".chars()).take(3).collect();
            number(&three, 3)?
        }
    };
    Ok(((hour * 60 + minute) * 60 + second) * MILLIS_PER_SECOND + millis)
}

/// The clock part, and the offset from UTC in minutes.
fn split_offset(rest: &str) -> Result<(&str, i64), TimestampError> {
    if let Some(clock) = rest.strip_suffix(['Z', 'z']) {
        return Ok((clock, 0));
    }
    let at = rest.rfind(['+', '-']).ok_or(TimestampError::Form)?;
    let (clock, offset) = rest.split_at_checked(at).ok_or(TimestampError::Form)?;
    let negative = offset.starts_with('-');
    let (hours, minutes) = offset
        .get(1..)
        .and_then(|offset| offset.split_once(':'))
        .ok_or(TimestampError::Form)?;
    let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
    if hours > 23 || minutes > 59 {
        return Err(TimestampError::Range("offset"));
    }
    let total = i64::try_from(hours * 60 + minutes).map_err(|_| TimestampError::Range("offset"))?;
    Ok((clock, if negative { -total } else { total }))
}

/// A decimal number of exactly `digits` digits (at most four).
fn number(text: &str, digits: usize) -> Result<u64, TimestampError> {
    if text.len() != digits || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(TimestampError::Form);
    }
    text.parse().map_err(|_| TimestampError::Form)
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn month_length(year: u64, month: u64) -> Option<u64> {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => Some(31),
        4 | 6 | 9 | 11 => Some(30),
        2 if is_leap(year) => Some(29),
        2 => Some(28),
        _ => None,
    }
}

/// Year, month and day of a day since the epoch, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Count from 0000-03-01, so that a leap day is the last day of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_consul_writes() {
        let cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-21T01:01:13Z", 1_795_222_873_000),
            ("2026-11-21T01:01:13.123456789Z", 1_795_222_873_123),
            ("2026-11-21T01:01:13.5Z", 1_795_222_873_500),
            ("2026-11-21T02:01:13+01:00", 1_795_222_873_000),
            ("2026-11-20T19:31:13-05:30", 1_795_222_873_000),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ];
        for (text, millis) in cases {
            assert_eq!(
                Timestamp::parse(text),
                Ok(Timestamp::from_millis(millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_what_is_no_moment() {
        let cases = [
            ("", TimestampError::Form),
            ("2026-11-21", TimestampError::Form),
            ("2026-11-21T01:01:13", TimestampError::Form),
            ("2026-11-21T01:01Z", TimestampError::Form),
            ("2026-11-21T01:01:13.Z", TimestampError::Form),
            ("+026-11-21T01:01:13Z", TimestampError::Form),
            ("2026-13-21T01:01:13Z", TimestampError::Range("month")),
            ("2026-00-21T01:01:13Z", TimestampError::Range("month")),
            ("2026-02-29T01:01:13Z", TimestampError::Range("day")),
            ("2026-02-00T01:01:13Z", TimestampError::Range("day")),
            ("2026-11-21T24:01:13Z", TimestampError::Range("hour")),
            ("2026-11-21T01:60:13Z", TimestampError::Range("minute")),
            ("2026-11-21T01:01:60Z", TimestampError::Range("second")),
            ("2026-11-21T01:01:13+24:00", TimestampError::Range("offset")),
            ("0001-01-01T00:00:00Z", TimestampError::BeforeEpoch),
            ("1970-01-01T00:00:00+00:01", TimestampError::BeforeEpoch),
        ];
        for (text, error) in cases {
            assert_eq!(Timestamp::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn the_far_future_is_cut_not_wrapped() {
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::from_unix_secs(u64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MAX.saturating_add_millis(1), Timestamp::MAX);
        assert_eq!(Timestamp::from_millis(1).millis_since(Timestamp::MAX), 0);
    }

    proptest! {
        #[test]
        fn parsing_undoes_display(millis in 0..=LAST_PRINTABLE) {
            let time = Timestamp::from_millis(millis);
            prop_assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = Timestamp::parse(&text);
        }
    }
}
