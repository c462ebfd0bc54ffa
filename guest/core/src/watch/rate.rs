//! A token bucket over given times.

/// Lets `burst` through at once and then one every `every_ms`.
#[derive(Debug, Clone)]
pub(super) struct Rate {
    burst: u64,
    every_ms: u64,
    /// When the bucket would be full again.
    full_at: u64,
}

impl Rate {
    pub(super) fn new(burst: u32, every_ms: u64) -> Self {
        Self {
            burst: u64::from(burst.max(1)),
            every_ms,
            full_at: 0,
        }
    }

    /// Takes one, and says from when on it may be used: `now` or later.
    pub(super) fn take(&mut self, now: u64) -> u64 {
        self.full_at = self.full_at.max(now).saturating_add(self.every_ms);
        self.full_at
            .saturating_sub(self.every_ms.saturating_mul(self.burst))
            .max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_at_a_time() {
        let mut rate = Rate::new(3, 1000);
        let taken: Vec<u64> = (0..6).map(|_| rate.take(500)).collect();
        assert_eq!(taken, [500, 500, 500, 1500, 2500, 3500]);
        assert_eq!(rate.take(60_000), 60_000);
        assert_eq!(Rate::new(0, u64::MAX).take(u64::MAX), u64::MAX);
    }
}
