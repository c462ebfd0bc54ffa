//! Faults for tests: the next replies come late, broken, or not at all.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What goes wrong with one reply.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The reply comes later by this much.
    Delay(Duration),
    /// This status and text instead of the reply; the request has no effect.
    Status(u16, String),
    /// 200 with these bytes for a body; the request has no effect.
    Garbage(Vec<u8>),
    /// The connection ends in the middle of the body.
    Truncated,
    /// The connection ends without a reply; the request has no effect.
    Hangup,
    /// The reply states this `X-Consul-Index`, as after a restored snapshot.
    Index(u64),
}

/// Faults that wait for the request that they are meant for.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    queue: Mutex<VecDeque<(String, Fault)>>,
}

impl Faults {
    pub(crate) fn push(&self, path: &str, fault: Fault) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back((path.to_owned(), fault));
    }

    pub(crate) fn clear(&self) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// The next fault for a path, which is taken out.
    pub(crate) fn take(&self, path: &str) -> Option<Fault> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let at = queue
            .iter()
            .position(|(prefix, _)| path.starts_with(prefix.as_str()))?;
        queue.remove(at).map(|(_, fault)| fault)
    }
}
