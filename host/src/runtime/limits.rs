//! What a component may use, and what every instance carries.

use std::time::Duration;

use wasmtime::{StoreLimits, StoreLimitsBuilder};

/// What one instance may use. The defaults suit every policy that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory in bytes. Default 256 MiB.
    pub memory: usize,
    /// Time for one decision. Default 1 s: a decision takes microseconds, and a
    /// machine that is short of processors must not turn into denials.
    pub decision: Duration,
    /// Time for the verification of one chain. Default 3 s.
    pub verification: Duration,
    /// Time for one load. Default 20 s.
    pub load: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 256 << 20,
            decision: Duration::from_secs(1),
            verification: Duration::from_secs(3),
            load: Duration::from_secs(20),
        }
    }
}

impl Limits {
    /// The part of the limits that wasmtime checks while an instance grows.
    pub(super) fn store_limits(&self) -> StoreLimits {
        StoreLimitsBuilder::new()
            .memory_size(self.memory)
            // A component is several core instances: its own and those that adapt its imports.
            .instances(64)
            .memories(8)
            .tables(64)
            .table_elements(100_000)
            .build()
    }
}
