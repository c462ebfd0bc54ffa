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
    /// Exactly this reply, without any header of Consul's, as from another program; the
    /// request has no effect.
    Foreign {
        /// Status code.
        status: u16,
        /// Header names and values; those that HTTP does not know are left out.
        headers: Vec<(String, String)>,
        /// Body, as it is.
        body: Vec<u8>,
    },
}

/// Faults that wait for the request that they are meant for.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    queue: Mutex<VecDeque<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    prefix: String,
    fault: Fault,
    /// Stays for the next request too.
    stays: bool,
}

impl Faults {
    /// A fault for one request, or for all until they are cleared.
    pub(crate) fn push(&self, path: &str, fault: Fault, stays: bool) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(Waiting {
            prefix: path.to_owned(),
            fault,
            stays,
        });
    }

    pub(crate) fn clear(&self) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// The next fault for a path, which is taken out unless it stays.
    pub(crate) fn take(&self, path: &str) -> Option<Fault> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let at = queue
            .iter()
            .position(|waiting| path.starts_with(waiting.prefix.as_str()))?;
        match queue.get(at) {
            Some(waiting) if waiting.stays => Some(waiting.fault.clone()),
            _ => queue.remove(at).map(|waiting| waiting.fault),
        }
    }
}
