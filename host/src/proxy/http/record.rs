//! One request: its line in the access log and its place in the metrics, written when it
//! has ended, however that happens.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, StatusCode, Version};
use portcullis_core::intention::Decision;

use super::super::access::{Access, Ending};
use super::super::copy::Counts;
use super::super::stats::Stats;
use super::cutter::Cause;
use super::live::Place;
use super::trace;
use crate::escape::visible;

/// How much of a path is logged.
const LONGEST_PATH: usize = 1024;

/// A stream that its client takes back sooner, after the head of its answer, was no use of it.
const PREMATURE: Duration = Duration::from_secs(1);

/// What is known about one request; logged when dropped.
pub(super) struct Record {
    pub(super) access: Access,
    pub(super) status: Option<StatusCode>,
    stats: Arc<Stats>,
    version: &'static str,
    method: String,
    path: String,
    /// The trace that it says it belongs to.
    trace: Option<String>,
    code: Cow<'static, str>,
    reason: String,
    error: Option<String>,
    refused: bool,
    ended: bool,
    cut: bool,
    began: Instant,
    /// Requests that their client took back, beyond those that ended well.
    taken_back: Option<Arc<AtomicU32>>,
    /// It is judged again until it ends.
    place: Option<Place>,
}

impl Record {
    /// A request that has just arrived. The query is not kept: it may hold a token.
    pub(super) fn new(
        access: Access,
        stats: &Arc<Stats>,
        version: Version,
        method: &Method,
        target: &[u8],
    ) -> Box<Self> {
        let path = target
            .split(|byte| *byte == b'?')
            .next()
            .unwrap_or_default();
        let path = path.get(..LONGEST_PATH).unwrap_or(path);
        stats.meters().request_began(access.direction.as_str());
        Box::new(Self {
            access,
            status: None,
            stats: Arc::clone(stats),
            version: match version {
                Version::HTTP_10 => "1.0",
                Version::HTTP_2 => "2",
                _ => "1.1",
            },
            method: visible(method.as_str(), 32),
            path: visible(&String::from_utf8_lossy(path), LONGEST_PATH),
            trace: None,
            code: "client-gone".into(),
            reason: "the client went away before it was decided".to_owned(),
            error: None,
            refused: false,
            ended: false,
            cut: false,
            began: Instant::now(),
            taken_back: None,
            place: None,
        })
    }

    /// The trace that it belongs to, if its headers say so.
    pub(super) fn traced(&mut self, headers: &HeaderMap) {
        self.trace = trace::parent(headers);
    }

    /// If its client takes it back, that is counted here.
    pub(super) fn watch(&mut self, taken_back: &Arc<AtomicU32>) {
        self.taken_back = Some(Arc::clone(taken_back));
    }

    /// It goes on being judged again while this lives.
    pub(super) fn place(&mut self, place: Option<Place>) {
        self.place = place;
    }

    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.access.counts
    }

    /// What the policy says.
    pub(super) fn decided(&mut self, decision: Decision, reason: &str) {
        (self.code, self.reason) = (decision.code.code().into(), reason.to_owned());
        self.refused = !decision.is_allowed();
        self.access.decision = Some(decision);
    }

    /// Nobody judges it here.
    pub(super) fn passed(&mut self) {
        self.code = "connected".into();
        self.reason = "the server is the wanted service".to_owned();
    }

    /// It is answered by us, for this reason.
    pub(super) fn refused(&mut self, ending: Ending) {
        (self.code, self.reason, self.error) = (ending.code, ending.reason, ending.error);
        self.refused = true;
    }

    /// It was cut off.
    pub(super) fn cut(&mut self, cause: Cause) {
        if !self.cut {
            (self.code, self.reason) = (cause.code.into(), cause.reason);
            (self.refused, self.cut) = (true, true);
        }
    }

    /// The answer broke off.
    pub(super) fn broke(&mut self, error: &impl ToString) {
        self.error.get_or_insert_with(|| error.to_string());
    }

    /// The answer has ended.
    pub(super) fn complete(&mut self) {
        self.ended = true;
    }

    /// Whether its client takes it back before the end, where that costs more than it
    /// brings. Who has read of an answer for a while may well have enough of it.
    fn is_taken_back(&self) -> Option<bool> {
        let answered = self.status.is_some();
        let by_client = !self.ended && !self.cut && self.error.is_none();
        match (answered, by_client) {
            (false, _) => Some(true),
            (true, true) => (self.began.elapsed() < PREMATURE).then_some(true),
            (true, false) => Some(false),
        }
    }

    /// The code so far.
    pub(super) fn code(&self) -> &str {
        &self.code
    }

    /// The same in a sentence.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let (Some(taken_back), Some(is_taken_back)) = (&self.taken_back, self.is_taken_back()) {
            let change = |count: u32| {
                Some(if is_taken_back {
                    count.saturating_add(1)
                } else {
                    count.saturating_sub(1)
                })
            };
            let _ = taken_back.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        }
        let meters = self.stats.meters();
        let direction = self.access.direction.as_str();
        meters.request_ended(direction, self.status.map(|status| status.as_u16()));
        if self.cut {
            meters.request_terminated(direction, &self.code);
        }
        if !self.ended && self.error.is_none() && !self.refused {
            self.error = Some("it ended before the answer did".to_owned());
        }
        self.access.log_request(
            &Ending {
                refused: self.refused,
                code: std::mem::take(&mut self.code),
                reason: std::mem::take(&mut self.reason),
                error: self.error.take(),
            },
            &super::super::access::RequestLine {
                version: self.version,
                method: &self.method,
                path: &self.path,
                trace: self.trace.as_deref(),
                status: self.status.map(|status| status.as_u16()),
            },
        );
    }
}
