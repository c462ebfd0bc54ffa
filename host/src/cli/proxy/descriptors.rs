//! File descriptors: as many as this process may have, and how many connections they are for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is kept for listeners, the agent and files.
const RESERVE: u64 = 256;

/// Raises the soft limit of open files to the hard one: it is low for the sake of
/// programs that use `select`.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::debug!(
            from = limit.current,
            to = limit.maximum,
            "limit of open files"
        ),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

/// How many connections there are descriptors for: each takes two.
pub(crate) fn connections() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let most = limit.map_or(u64::MAX, fitting);
    usize::try_from(most).unwrap_or(usize::MAX)
}

fn fitting(limit: u64) -> u64 {
    (limit.saturating_sub(RESERVE.min(limit / 2)) / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_takes_two_descriptors_beside_the_reserve() {
        assert_eq!(fitting(20_256), 10_000);
        assert_eq!(fitting(1_024), 384);
        assert_eq!(fitting(64), 16);
        assert_eq!(fitting(0), 1);
    }
}
