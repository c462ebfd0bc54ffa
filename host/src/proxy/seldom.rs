//! Log lines about what may happen thousands of times a second: one in ten seconds.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// From one line to the next.
const EVERY: Duration = Duration::from_secs(10);

/// Says when to write the line of one place in the code.
#[derive(Debug)]
pub(super) struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    pub(super) const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// Whether to write now, and for how many times since the last line.
    pub(super) fn now(&self) -> Option<u64> {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, times) = &mut *state;
        *times = times.saturating_add(1);
        if last.is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_together() {
        let seldom = Seldom::new();
        let start = Instant::now();
        assert_eq!(seldom.at(start), Some(1));
        for _ in 0..1_000 {
            assert_eq!(seldom.at(start + EVERY / 2), None);
        }
        assert_eq!(seldom.at(start + EVERY), Some(1_001));
        assert_eq!(seldom.at(start + EVERY), None);
    }
}
