//! When a live connection ends by the proxy's own rules: idle for too long, or too old.
//!
//! A byte stream has no point at which it is known to be complete. An old connection
//! therefore ends in a quiet moment, and if there is none for long, in any; both sides see
//! a reset, so that nothing incomplete looks complete.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::Rng as _;
use tokio::time::{Instant, sleep_until};

use super::access::Ending;
use super::config::Limits;
use super::copy::Counts;
use super::stats::Stats;

/// How long nothing moves in a quiet moment.
const QUIET: Duration = Duration::from_secs(1);

/// The limits of one connection, from now on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetime {
    idle: Option<Duration>,
    /// From when on it is too old, and from when on it ends whatever moves.
    old: Option<(Instant, Instant)>,
}

/// Why it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Idle,
    Old,
}

impl Over {
    /// For the access log: the connection was allowed, and ended by us.
    pub(super) fn ending(self, stats: &Stats) -> Ending {
        let (code, reason) = match self {
            Self::Idle => ("idle-timeout", "ended: no byte passed for -idle-timeout"),
            Self::Old => ("max-age", "ended: it was older than -max-connection-age"),
        };
        stats.over(self);
        Ending {
            refused: false,
            code: code.into(),
            reason: reason.to_owned(),
            error: None,
        }
    }
}

impl Lifetime {
    /// Those who begin together do not end together.
    pub(super) fn new(limits: &Limits) -> Self {
        let old = limits.age.map(|age| {
            let at = Instant::now() + age.mul_f64(rand::rng().random_range(0.9..=1.1));
            (at, at + limits.age_grace)
        });
        Self {
            idle: limits.idle,
            old,
        }
    }

    /// Waits until it is over, by the bytes in `counts`.
    ///
    /// What moved is looked at four times in the time that counts, so that a busy
    /// connection costs nothing: an idle one may last a quarter longer.
    pub(super) async fn over(&self, counts: &Counts) -> Over {
        if self.idle.is_none() && self.old.is_none() {
            return std::future::pending().await;
        }
        let mut seen = Seen {
            bytes: total(counts),
            quiet_since: Instant::now(),
        };
        loop {
            sleep_until(self.next(Instant::now())).await;
            if let Some(over) = self.look(&mut seen, total(counts), Instant::now()) {
                return over;
            }
        }
    }

    /// When to look again.
    fn next(&self, now: Instant) -> Instant {
        let idle = self.idle.map(|idle| now + idle / 4);
        let old = self.old.map(|(from, end)| {
            if now < from {
                from
            } else {
                (now + QUIET / 4).min(end)
            }
        });
        let next = idle.into_iter().chain(old).min();
        next.unwrap_or(now + QUIET)
    }

    fn look(&self, seen: &mut Seen, bytes: u64, now: Instant) -> Option<Over> {
        if bytes != seen.bytes {
            *seen = Seen {
                bytes,
                quiet_since: now,
            };
        }
        let quiet = now - seen.quiet_since;
        if self.idle.is_some_and(|idle| quiet >= idle) {
            return Some(Over::Idle);
        }
        self.old
            .is_some_and(|(from, end)| now >= end || now >= from && quiet >= QUIET)
            .then_some(Over::Old)
    }
}

/// What had moved at the last look.
#[derive(Clone, Copy, Debug)]
struct Seen {
    bytes: u64,
    quiet_since: Instant,
}

fn total(counts: &Counts) -> u64 {
    let there = counts.a_to_b.load(Ordering::Relaxed);
    there.wrapping_add(counts.b_to_a.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(100);
    const IDLE: Duration = Duration::from_secs(60);
    const GRACE: Duration = Duration::from_secs(30);

    fn lifetime(idle: Option<Duration>, age: Option<Duration>) -> Lifetime {
        Lifetime::new(&Limits {
            idle,
            age,
            age_grace: GRACE,
            ..Limits::default()
        })
    }

    /// How long it lasts when a byte moves every so often, at most an hour, and why it ends.
    fn lasts(lifetime: Lifetime, every: Duration) -> Option<(Duration, Over)> {
        let began = Instant::now();
        let mut seen = Seen {
            bytes: 0,
            quiet_since: began,
        };
        let mut now = began;
        while now < began + Duration::from_secs(3600) {
            now = lifetime.next(now);
            let bytes = (now - began).as_nanos() / every.as_nanos();
            let bytes = u64::try_from(bytes).unwrap();
            if let Some(over) = lifetime.look(&mut seen, bytes, now) {
                return Some((now - began, over));
            }
        }
        None
    }

    const NEVER: Duration = Duration::MAX;

    #[test]
    fn idle_is_only_who_moves_nothing() {
        let (lasted, over) = lasts(lifetime(Some(IDLE), None), NEVER).unwrap();
        assert_eq!(over, Over::Idle);
        assert!(lasted >= IDLE && lasted <= IDLE * 5 / 4, "{lasted:?}");
        assert_eq!(lasts(lifetime(Some(IDLE), None), IDLE / 2), None);
    }

    #[test]
    fn an_old_one_ends_in_a_quiet_moment_and_else_after_the_grace() {
        let slack = Duration::from_secs(2);
        for _ in 0..20 {
            let (quiet, over) = lasts(lifetime(None, Some(AGE)), NEVER).unwrap();
            assert_eq!(over, Over::Old);
            let usual = AGE * 9 / 10..=AGE * 11 / 10 + slack;
            assert!(usual.contains(&quiet), "{quiet:?}");
            let busy = Duration::from_millis(100);
            let (noisy, over) = lasts(lifetime(None, Some(AGE)), busy).unwrap();
            assert_eq!(over, Over::Old);
            let late = AGE * 9 / 10 + GRACE..=AGE * 11 / 10 + GRACE + slack;
            assert!(late.contains(&noisy), "{noisy:?}");
        }
    }

    #[test]
    fn both_limits_hold_together() {
        let both = || lifetime(Some(IDLE), Some(AGE * 10));
        assert_eq!(lasts(both(), NEVER).unwrap().1, Over::Idle);
        assert_eq!(lasts(both(), IDLE / 2).unwrap().1, Over::Old);
    }
}
