//! The two clocks.

use portcullis_core::time::Timestamp;

use crate::host;

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Milliseconds of the clock that all VMs of the process share and nobody sets.
    pub(crate) monotonic: u64,
    /// By the clock of certificates.
    pub(crate) wall: Timestamp,
}

/// This moment.
pub(crate) fn now() -> Moment {
    Moment {
        monotonic: host::monotonic_clock() / 1_000_000,
        wall: wall(),
    }
}

/// This moment by the clock of certificates.
pub(crate) fn wall() -> Timestamp {
    Timestamp::from_millis(host::wall_clock() / 1_000_000)
}
