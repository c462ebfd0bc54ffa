//! How old a document is, by a clock that may be set back.

use crate::time::Timestamp;

/// When a document was last confirmed, and the latest moment seen since then. A
/// clock that runs backwards never makes a document younger.
#[derive(Clone, Copy, Debug)]
pub(super) struct Freshness {
    confirmed_at: Timestamp,
    latest: Timestamp,
}

impl Freshness {
    pub(super) const fn confirmed(at: Timestamp) -> Self {
        Self {
            confirmed_at: at,
            latest: Timestamp::from_millis(0),
        }
    }

    /// Remembers the moment of a question.
    pub(super) fn see(&mut self, now: Timestamp) {
        self.latest = self.latest.max(now);
    }

    /// The age in milliseconds; 0 for what was confirmed later than `now`.
    pub(super) fn age(&self, now: Timestamp) -> u64 {
        self.latest.max(now).millis_since(self.confirmed_at)
    }

    /// Whether the age is beyond a budget in milliseconds; 0 is no limit.
    pub(super) fn is_stale(&self, now: Timestamp, budget: u64) -> bool {
        budget != 0 && self.age(now) > budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn the_budget_itself_is_still_fresh() {
        let fresh = Freshness::confirmed(at(1_000));
        assert!(!fresh.is_stale(at(1_500), 500));
        assert!(fresh.is_stale(at(1_501), 500));
        assert!(!fresh.is_stale(Timestamp::MAX, 0), "0 is no limit");
    }

    #[test]
    fn a_clock_set_back_never_makes_it_younger() {
        let mut fresh = Freshness::confirmed(at(1_000));
        fresh.see(at(1_501));
        for now in [at(0), at(1_000), at(1_400), at(1_501), Timestamp::MAX] {
            assert!(fresh.is_stale(now, 500), "{now}");
        }
    }

    #[test]
    fn time_never_wraps() {
        for confirmed in [0, 1, u64::MAX / 2, u64::MAX] {
            for now in [0, 1, u64::MAX / 2, u64::MAX] {
                let age = Freshness::confirmed(at(confirmed)).age(at(now));
                assert_eq!(age, now.saturating_sub(confirmed));
            }
        }
    }
}
