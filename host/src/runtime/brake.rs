//! Keeps what goes wrong again and again from being tried for every call.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A bucket of `burst` tokens that fills up by one in every `interval`.
pub(super) struct Brake {
    burst: u32,
    interval: Duration,
    bucket: Mutex<Bucket>,
}

struct Bucket {
    tokens: u32,
    since: Instant,
}

impl Brake {
    pub(super) fn new(now: Instant, burst: u32, interval: Duration) -> Self {
        Self {
            burst,
            interval,
            bucket: Mutex::new(Bucket {
                tokens: burst,
                since: now,
            }),
        }
    }

    /// May it be done now?
    pub(super) fn allows(&self, now: Instant) -> bool {
        let Ok(mut bucket) = self.bucket.lock() else {
            return false;
        };
        let gained = now.saturating_duration_since(bucket.since).as_millis()
            / self.interval.as_millis().max(1);
        if let Ok(gained) = u32::try_from(gained)
            && gained < self.burst
        {
            bucket.tokens = bucket.tokens.saturating_add(gained).min(self.burst);
            bucket.since += self.interval * gained;
        } else {
            *bucket = Bucket {
                tokens: self.burst,
                since: now,
            };
        }
        match bucket.tokens.checked_sub(1) {
            Some(left) => {
                bucket.tokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(100);

    #[test]
    fn a_storm_is_cut_to_ten_a_second() {
        let start = Instant::now();
        let brake = Brake::new(start, 8, EVERY);
        let mut rebuilt = 0;
        for millis in 0..10_000 {
            if brake.allows(start + Duration::from_millis(millis)) {
                rebuilt += 1;
            }
        }
        assert_eq!(rebuilt, 8 + 99);
    }

    #[test]
    fn quiet_times_fill_it_up_again_but_not_over() {
        let start = Instant::now();
        let brake = Brake::new(start, 8, EVERY);
        while brake.allows(start) {}
        assert!(!brake.allows(start + EVERY / 2));
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| brake.allows(later)).count(), 8);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gains_nothing() {
        let start = Instant::now() + Duration::from_secs(10);
        let brake = Brake::new(start, 8, EVERY);
        assert_eq!((0..100).filter(|_| brake.allows(start)).count(), 8);
        assert!(!brake.allows(start - Duration::from_secs(5)));
    }
}
