//! The host's clocks in milliseconds.
use crate::bindings::wasi::clocks::{monotonic_clock, wall_clock};
use crate::bindings::wasi::io::poll::Pollable;

/// Milliseconds of a clock that does not run backwards.
pub(crate) fn monotonic() -> u64 {
    monotonic_clock::now() / 1_000_000
}

/// Milliseconds since the epoch.
pub(crate) fn wall() -> u64 {
    let now = wall_clock::now();
    now.seconds
        .saturating_mul(1000)
        .saturating_add(u64::from(now.nanoseconds / 1_000_000))
}

/// Ready at `deadline` of the monotonic clock.
pub(crate) fn at(deadline: u64) -> Pollable {
    monotonic_clock::subscribe_instant(deadline.saturating_mul(1_000_000))
}

/// Something that differs between instances; spreads, does not protect.
pub(crate) fn seed() -> u64 {
    let now = wall_clock::now();
    monotonic_clock::now()
        ^ now.seconds.rotate_left(40)
        ^ u64::from(now.nanoseconds).rotate_left(17)
}
