//! What the policy says of one request, told to the log and the metrics.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode};
use portcullis_core::chain::VerifiedPeer;
use portcullis_core::intention::{Effect, HeaderChange};
use tokio::time::Instant;

use super::super::access::Ending;
use super::super::stats::Stats;
use super::answer;
use super::cutter::Cutter;
use super::flow::Flow;
use super::judge::{Judge, Question};
use super::live::{Live, Place};
use super::record::Record;

/// Who judges the requests of a client of the mesh.
pub(super) struct Judged {
    pub(super) judge: Arc<Judge>,
    pub(super) peer: Arc<VerifiedPeer>,
    /// What the application is told of the client's certificate.
    pub(super) element: Option<HeaderValue>,
}

/// A request that the policy allows.
pub(super) struct Allowed {
    /// The path to go on with, where it is another one.
    pub(super) path: Option<Box<[u8]>>,
    /// What changes in the headers.
    pub(super) headers: Vec<HeaderChange>,
    /// It is judged again while this lives.
    pub(super) place: Place,
}

impl Judged {
    /// Asks about a request that is under way in `live` from here on; what is refused is
    /// answered.
    pub(super) fn admit<B>(
        &self,
        question: &Arc<Question>,
        (live, cutter): (&Live, &Cutter),
        stats: &Stats,
        grpc: bool,
        record: &mut Record,
    ) -> Result<Allowed, Box<Response<Flow<B>>>> {
        if self.judge.has_expired(&self.peer) {
            record.refused(Ending::refused(
                "certificate-expired",
                "the client's certificate has expired",
            ));
            return Err(Box::new(answer::status(StatusCode::FORBIDDEN, grpc)));
        }
        let place = live.begin(question, cutter);
        let asked = Instant::now();
        let decision = self.judge.decide(&self.peer, question);
        stats.meters().decided(asked.elapsed());
        record.access.told = self.judge.tell(&self.peer, question, &decision);
        let (path, headers) = (decision.path.clone(), decision.headers.clone());
        let (effect, code) = (decision.effect, decision.code.code());
        let reason = if effect != Effect::Allow
            || tracing::enabled!(target: "access", tracing::Level::INFO)
        {
            self.judge.describe(&decision)
        } else {
            Arc::default()
        };
        record.decided(decision, &reason);
        match effect {
            Effect::Allow => stats.meters().request_allowed(),
            _ => stats.meters().request_denied(code),
        }
        let refused = match effect {
            Effect::Allow => None,
            Effect::Deny => Some(answer::status(StatusCode::FORBIDDEN, grpc)),
            Effect::BadRequest => Some(answer::status(StatusCode::BAD_REQUEST, grpc)),
            Effect::Redirect => Some(answer::redirect(path.as_deref().unwrap_or_default())),
        };
        match refused {
            Some(response) => Err(Box::new(response)),
            None => {
                place.ends(self.judge.token_ends(question), self.judge.clock().now());
                Ok(Allowed {
                    path: path.map(Into::into),
                    headers,
                    place,
                })
            }
        }
    }
}
