//! The wall clock. Tests with a paused tokio clock let it follow that one.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Where the time of day comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// The system.
    System,
    /// A fixed start, moved on by tokio's (pausable) clock.
    #[cfg_attr(not(test), expect(dead_code, reason = "made by tests only"))]
    Tokio(OffsetDateTime, tokio::time::Instant),
}

impl Clock {
    pub(crate) fn now(self) -> OffsetDateTime {
        match self {
            Self::System => OffsetDateTime::now_utc(),
            Self::Tokio(start, instant) => start + instant.elapsed(),
        }
    }

    /// Now, cut to whole seconds, as certificates state it.
    pub(crate) fn second(self) -> OffsetDateTime {
        let now = self.now();
        now.replace_nanosecond(0).unwrap_or(now)
    }
}

/// As Consul writes times: `2026-11-21T01:01:13Z`.
pub(crate) fn rfc3339(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}
