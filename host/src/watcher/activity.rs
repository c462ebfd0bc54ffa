//! What the watchers have done so far, for metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::agent_client::AgentError;

/// What watches of one kind have done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchActivity {
    /// `X-Consul-Index` of the last answer that was used.
    pub index: Option<u64>,
    /// When an answer was last used.
    pub last_success: Option<SystemTime>,
    /// Failed questions by reason: a closed list.
    pub errors: BTreeMap<&'static str, u64>,
}

/// Shared by all watches of a watcher.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity(Arc<Mutex<BTreeMap<&'static str, WatchActivity>>>);

impl Activity {
    pub(super) fn succeeded(&self, kind: &'static str, index: Option<u64>) {
        let mut watches = self.watches();
        let watch = watches.entry(kind).or_default();
        watch.index = index.or(watch.index);
        watch.last_success = Some(SystemTime::now());
    }

    pub(super) fn failed(&self, kind: &'static str, reason: &'static str) {
        let mut watches = self.watches();
        let count = watches.entry(kind).or_default().errors.entry(reason);
        let count = count.or_default();
        *count = count.saturating_add(1);
    }

    pub(super) fn snapshot(&self) -> BTreeMap<&'static str, WatchActivity> {
        self.watches().clone()
    }

    fn watches(&self) -> MutexGuard<'_, BTreeMap<&'static str, WatchActivity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reason of an error in one word.
pub(super) fn reason(error: &AgentError) -> &'static str {
    match error {
        AgentError::UnknownHost { .. } | AgentError::Refused { .. } | AgentError::Broken { .. } => {
            "unreachable"
        }
        AgentError::Timeout { .. } => "timeout",
        AgentError::Tls { .. } => "tls",
        AgentError::Denied { .. } => "denied",
        AgentError::Status { status: 429, .. } => "rate-limited",
        AgentError::Status { .. } => "status",
        _ => "unreadable",
    }
}
