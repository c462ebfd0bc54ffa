//! How long to wait after failures.
use super::seeded::Seeded;

/// Doubles from `first_ms` to `max_ms`, each time with jitter down to a half of it.
#[derive(Debug, Clone)]
pub struct Backoff {
    first_ms: u64,
    max_ms: u64,
    failures: u32,
    random: Seeded,
}

impl Backoff {
    /// `seed` spreads those who fail together.
    #[must_use]
    pub fn new(first_ms: u64, max_ms: u64, seed: u64) -> Self {
        Self {
            first_ms,
            max_ms,
            failures: 0,
            random: Seeded::new(seed),
        }
    }

    /// How many failures there were in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure and gives the milliseconds to wait.
    pub fn fail(&mut self) -> u64 {
        let factor = 1_u64.checked_shl(self.failures).unwrap_or(u64::MAX);
        self.failures = self.failures.saturating_add(1);
        let wait = self.first_ms.saturating_mul(factor).min(self.max_ms);
        self.random.between(wait / 2, wait)
    }

    /// Forgets the failures.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_again_after_success() {
        for seed in 0..50 {
            let mut backoff = Backoff::new(250, 30_000, seed);
            for n in 0..200_u32 {
                let full = 250_u64.saturating_mul(1 << n.min(40)).min(30_000);
                let wait = backoff.fail();
                assert!((full / 2..=full).contains(&wait), "{n}: {wait}");
            }
            backoff.succeed();
            assert!(backoff.fail() <= 250);
        }
    }

    #[test]
    fn those_who_fail_together_do_not_come_back_together() {
        let waits: std::collections::BTreeSet<u64> = (0..100)
            .map(|seed| Backoff::new(10_000, 10_000, seed).fail())
            .collect();
        assert!(waits.len() > 90, "{}", waits.len());
    }
}
