//! The requests under way on one connection, so that a change of policy can end them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_core::chain::VerifiedPeer;
use portcullis_core::jwt::TokenEnds;
use portcullis_core::time::Timestamp;
use tokio::sync::Notify;

use super::cutter::{Cause, Cutter};
use super::judge::{Judge, Question};
use crate::clock::Clock;

/// How often the clock is looked at while a token is about to end: it may be set.
const LOOK: Duration = Duration::from_secs(10);

/// Requests under way. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Live(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    all: Mutex<All>,
    /// A request with a token that ends has begun.
    ends: Notify,
}

#[derive(Debug, Default)]
struct All {
    next: u64,
    requests: HashMap<u64, Request>,
    cut: Option<Cause>,
}

#[derive(Clone, Debug)]
struct Request {
    question: Arc<Question>,
    cutter: Cutter,
    /// When what could be its tokens end.
    ends: TokenEnds,
    /// When it is judged again because of them.
    due: Option<Timestamp>,
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
        let request = Request {
            question: Arc::clone(question),
            cutter: cutter.clone(),
            ends: TokenEnds::default(),
            due: None,
        };
        all.requests.insert(number, request);
        Place {
            live: self.clone(),
            number,
        }
    }

    /// Judges all of them again, and cuts those that are refused now.
    pub(super) fn judge(&self, judge: &Judge, peer: &VerifiedPeer) {
        let requests: Vec<_> = self.all().requests.values().cloned().collect();
        for request in requests {
            request.judge(judge, peer, "cut off by a change of policy");
        }
    }

    /// Waits until a token of a request has ended.
    pub(super) async fn token_ended(&self, clock: &Clock) {
        loop {
            let due = self.all().requests.values().filter_map(|one| one.due).min();
            let Some(due) = due else {
                self.0.ends.notified().await;
                continue;
            };
            let now = clock.now();
            if now >= due {
                return;
            }
            let left = Duration::from_millis(due.millis_since(now));
            tokio::select! {
                () = clock.sleep(left.min(LOOK)) => {}
                () = self.0.ends.notified() => {}
            }
        }
    }

    /// Judges those again of which a token has ended.
    pub(super) fn judge_ended(&self, judge: &Judge, peer: &VerifiedPeer, clock: &Clock) {
        let now = clock.now();
        let mut ended = Vec::new();
        for request in self.all().requests.values_mut() {
            if request.due.is_some_and(|due| now >= due) {
                request.due = request.ends.next(now);
                ended.push(request.clone());
            }
        }
        for request in ended {
            request.judge(judge, peer, "cut off when its token had ended");
        }
    }

    /// Cuts all of them, and all that begin later.
    pub(super) fn cut(&self, cause: &Cause) {
        let mut all = self.all();
        all.cut = Some(cause.clone());
        for request in all.requests.values() {
            request.cutter.cut(cause.clone());
        }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    fn judge(&self, judge: &Judge, peer: &VerifiedPeer, why: &str) {
        let decision = judge.decide(peer, &self.question);
        if !decision.is_allowed() {
            judge.tell_fallen(peer, &self.question, &decision);
            self.cutter.cut(Cause {
                code: decision.code.code(),
                reason: format!("{why}: {}", judge.describe(&decision)),
            });
        }
    }
}

impl Place {
    /// It was let in as it is: it is judged again when a token ends that it carries.
    pub(super) fn ends(&self, ends: TokenEnds, now: Timestamp) {
        let Some(due) = ends.next(now) else {
            return;
        };
        if let Some(request) = self.live.all().requests.get_mut(&self.number) {
            request.ends = ends;
            request.due = Some(due);
        }
        self.live.0.ends.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.live.all().requests.remove(&self.number);
    }
}
