//! The requests under way on one connection, so that a change of policy can end them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_core::chain::VerifiedPeer;

use super::cutter::{Cause, Cutter};
use super::judge::{Judge, Question};

/// Requests under way. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Live(Arc<Mutex<All>>);

#[derive(Debug, Default)]
struct All {
    next: u64,
    requests: HashMap<u64, (Arc<Question>, Cutter)>,
    cut: Option<Cause>,
}

/// A request under way, until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    live: Live,
    number: u64,
}

impl Live {
    /// A request begins. To be called before it is judged, so that no generation falls in
    /// between.
    pub(super) fn begin(&self, question: &Arc<Question>, cutter: &Cutter) -> Place {
        let mut all = self.all();
        let number = all.next;
        all.next += 1;
        if let Some(cause) = &all.cut {
            cutter.cut(cause.clone());
        }
        let request = (Arc::clone(question), cutter.clone());
        all.requests.insert(number, request);
        Place {
            live: self.clone(),
            number,
        }
    }

    /// Judges all of them again, and cuts those that are refused now.
    pub(super) fn judge(&self, judge: &Judge, peer: &VerifiedPeer) {
        let requests: Vec<_> = self.all().requests.values().cloned().collect();
        for (question, cutter) in requests {
            let decision = judge.decide(peer, &question);
            if !decision.is_allowed() {
                judge.tell_fallen(peer, &question, &decision);
                cutter.cut(Cause {
                    code: decision.code.code(),
                    reason: format!(
                        "cut off by a change of policy: {}",
                        judge.describe(&decision)
                    ),
                });
            }
        }
    }

    /// Cuts all of them, and all that begin later.
    pub(super) fn cut(&self, cause: &Cause) {
        let mut all = self.all();
        all.cut = Some(cause.clone());
        for (_, cutter) in all.requests.values() {
            cutter.cut(cause.clone());
        }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.live.all().requests.remove(&self.number);
    }
}
