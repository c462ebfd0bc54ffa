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
        let requests: Vec<_> = {
            let all = self.all();
            let each = all.requests.iter();
            each.map(|(number, one)| (*number, one.clone())).collect()
        };
        for (number, request) in requests {
            let stays = request.judge(judge, peer, "cut off by a change of policy");
            // When it began no rule may have asked for a token.
            if stays && request.due.is_none() {
                self.ends(
                    number,
                    judge.token_ends(&request.question),
                    judge.clock().now(),
                );
            }
        }
    }

    /// The request was let in as it is: it is judged again when a token ends that it carries.
    fn ends(&self, number: u64, ends: TokenEnds, now: Timestamp) {
        let Some(due) = ends.next(now) else {
            return;
        };
        if let Some(request) = self.all().requests.get_mut(&number) {
            request.ends = ends;
            request.due = Some(due);
        }
        self.0.ends.notify_one();
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
            let _ = request.judge(judge, peer, "cut off when its token had ended");
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
    /// Whether it stays; if not, it is cut.
    fn judge(&self, judge: &Judge, peer: &VerifiedPeer, why: &str) -> bool {
        let decision = judge.decide(peer, &self.question);
        let stays = decision.is_allowed();
        if !stays {
            judge.tell_fallen(peer, &self.question, &decision);
            self.cutter.cut(Cause {
                code: decision.code.code(),
                reason: format!("{why}: {}", judge.describe(&decision)),
            });
        }
        stays
    }
}

impl Place {
    /// It was let in as it is: it is judged again when a token ends that it carries.
    pub(super) fn ends(&self, ends: TokenEnds, now: Timestamp) {
        self.live.ends(self.number, ends, now);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.live.all().requests.remove(&self.number);
    }
}
