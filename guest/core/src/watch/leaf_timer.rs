//! When to ask for a new leaf certificate.
//!
//! The agent renews only inside a caller's request, and for callers who do not block only
//! late. So beside the blocking watch there is this timer: from a random point between 60
//! and 90 % of the certificate's life on, ask without blocking until another one comes.
use super::seeded::Seeded;
use crate::time::Timestamp;

/// Between two questions there is at least this.
const LEAST_MS: u64 = 1_000;
/// An expired certificate is asked about this often.
const EXPIRED_MS: u64 = 5_000;

/// What may be done with a certificate now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafState {
    /// Use it.
    Good,
    /// Use it, and ask for another without blocking.
    RenewalDue,
    /// It has expired: serve nothing with it.
    Expired,
}

/// The timer of one certificate. Its times are wall-clock time.
#[derive(Debug, Clone)]
pub struct LeafTimer {
    next: u64,
    hard: u64,
    end: u64,
    random: Seeded,
}

impl LeafTimer {
    /// For a certificate valid from `after` to `before`; `seed` spreads many of them.
    #[must_use]
    pub fn new(after: Timestamp, before: Timestamp, seed: u64) -> Self {
        let (start, end) = (after.as_millis(), before.as_millis());
        let life = end.saturating_sub(start);
        let part = |tenths: u64| start.saturating_add((life / 10).saturating_mul(tenths));
        let mut random = Seeded::new(seed);
        Self {
            next: random.between(part(6), part(9)),
            hard: part(9),
            end,
            random,
        }
    }

    /// When to ask next.
    #[must_use]
    pub fn next(&self) -> Timestamp {
        Timestamp::from_millis(self.next)
    }

    /// When the certificate expires.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        Timestamp::from_millis(self.end)
    }

    /// What may be done with the certificate at `now`. It is valid up to and including its end.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> LeafState {
        let now = now.as_millis();
        if now > self.end {
            LeafState::Expired
        } else if now >= self.next {
            LeafState::RenewalDue
        } else {
            LeafState::Good
        }
    }

    /// Somebody asked at `now` and got the same certificate, or an error.
    pub fn asked(&mut self, now: Timestamp) {
        let now = now.as_millis();
        let wait = if now < self.hard {
            // The agent renews for those who do not block at the hard point.
            let rest = self.hard.saturating_sub(now);
            self.random.between(rest / 2, rest)
        } else if now <= self.end {
            let step = self.end.saturating_sub(now) / 10;
            self.random.between(step / 2, step)
        } else {
            self.random.between(EXPIRED_MS / 2, EXPIRED_MS)
        };
        self.next = now.saturating_add(wait.max(LEAST_MS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn timer(seed: u64) -> LeafTimer {
        LeafTimer::new(
            Timestamp::from_millis(0),
            Timestamp::from_millis(72 * HOUR),
            seed,
        )
    }

    #[test]
    fn renewal_is_spread_over_the_window() {
        let due: Vec<u64> = (0..1000)
            .map(|seed| timer(seed).next().as_millis())
            .collect();
        let (low, high) = (72 * HOUR * 6 / 10, 72 * HOUR * 9 / 10);
        assert!(due.iter().all(|at| (low..=high).contains(at)));
        let early = due.iter().filter(|at| **at < (low + high) / 2).count();
        assert!((400..600).contains(&early), "{early}");
    }

    #[test]
    fn an_expired_certificate_is_never_good() {
        let timer = timer(1);
        let at = |ms| timer.state(Timestamp::from_millis(ms));
        assert_eq!(at(0), LeafState::Good);
        assert_eq!(at(timer.next().as_millis()), LeafState::RenewalDue);
        assert_eq!(at(72 * HOUR), LeafState::RenewalDue);
        assert_eq!(at(72 * HOUR + 1), LeafState::Expired);
        assert_eq!(at(u64::MAX), LeafState::Expired);
    }

    #[test]
    fn asking_goes_on_until_the_end_without_a_storm() {
        for seed in 0..20 {
            let mut timer = timer(seed);
            let (mut asked, mut after_hard) = (0, 0);
            loop {
                let now = timer.next();
                if timer.state(now) == LeafState::Expired {
                    break;
                }
                timer.asked(now);
                assert!(timer.next().as_millis() >= now.as_millis() + LEAST_MS);
                asked += 1;
                after_hard += usize::from(now.as_millis() >= 72 * HOUR * 9 / 10);
            }
            assert!(
                after_hard >= 5,
                "asks again while a new one is certain: {after_hard}"
            );
            assert!(asked < 400, "{asked}");
        }
    }

    #[test]
    fn impossible_times_do_no_harm() {
        for (start, end) in [(0, 0), (5, 1), (u64::MAX, u64::MAX), (0, u64::MAX)] {
            let mut timer = LeafTimer::new(
                Timestamp::from_millis(start),
                Timestamp::from_millis(end),
                3,
            );
            for now in [0, 1, u64::MAX] {
                timer.asked(Timestamp::from_millis(now));
                assert!(
                    timer.next() >= Timestamp::from_millis(now)
                        || timer.state(Timestamp::from_millis(now)) != LeafState::Good
                );
            }
        }
    }
}
