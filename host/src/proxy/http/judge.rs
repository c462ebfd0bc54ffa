//! Every request is a question to the policy.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use http::{HeaderMap, Method};
use portcullis_core::chain::VerifiedPeer;
use portcullis_core::http::HttpVersion;
use portcullis_core::identity::Kind;
use portcullis_core::intention::{Decision, Effect, Reason};
use portcullis_core::jwt::TokenEnds;
use portcullis_core::policy::{Client, HeaderNeeds};

use super::xfcc;
use crate::clock::Clock;
use crate::decisions::{Asked, Decided, Decisions, Told};
use crate::tls::PeerVerifier;

/// How often it is asked again when another generation comes in between.
const TRIES: usize = 4;

/// How many decisions are kept in words.
const DESCRIBED: usize = 256;

/// Asks about the requests to one service.
pub(crate) struct Judge {
    verifier: PeerVerifier,
    service: Arc<str>,
    decisions: Decisions,
    /// Which headers the rules look at, and in which generation.
    needs: ArcSwapOption<(u64, HeaderNeeds)>,
    /// Decisions in words.
    described: Mutex<HashMap<Ground, Arc<str>>>,
}

/// What a decision rests on: generation, reason, intention and permission.
type Ground = (u64, Reason, Option<u32>, Option<u32>);

/// What is asked about a request.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) version: HttpVersion,
    pub(crate) method: Method,
    pub(crate) target: Box<[u8]>,
    pub(crate) authority: Option<Box<[u8]>>,
    pub(crate) headers: HeaderMap,
}

impl Question {
    fn asked(&self) -> Asked<'_> {
        Asked {
            version: self.version,
            method: self.method.as_str(),
            target: &self.target,
            authority: self.authority.as_deref(),
            headers: &self.headers,
        }
    }
}

impl Judge {
    pub(crate) fn new(verifier: PeerVerifier, service: Arc<str>, decisions: Decisions) -> Self {
        Self {
            verifier,
            service,
            decisions,
            needs: ArcSwapOption::empty(),
            described: Mutex::default(),
        }
    }

    /// The decision of the generation in force.
    pub(crate) fn decide(&self, peer: &VerifiedPeer, question: &Question) -> Decision {
        let client = client(peer, Some(&question.headers));
        for _ in 0..TRIES {
            let needs = self.needs();
            let (generation, needed) = &*needs;
            let decision = self.ask(&client, question, needed);
            // The next generation may look at other headers.
            if decision.generation == *generation {
                return decision;
            }
            self.needs.store(None);
        }
        self.ask(&client, question, &HeaderNeeds::All)
    }

    /// Tells others of the decision about a request.
    pub(super) fn tell(
        &self,
        peer: &VerifiedPeer,
        question: &Question,
        decision: &Decision,
    ) -> Told {
        self.told(peer, question, decision, Decisions::decided)
    }

    /// Tells others that a request under way is refused now.
    pub(super) fn tell_fallen(
        &self,
        peer: &VerifiedPeer,
        question: &Question,
        decision: &Decision,
    ) {
        self.told(peer, question, decision, Decisions::fallen);
    }

    fn told(
        &self,
        peer: &VerifiedPeer,
        question: &Question,
        decision: &Decision,
        tell: impl FnOnce(&Decisions, &Decided<'_>) -> Told,
    ) -> Told {
        if self.decisions.is_idle() {
            return Told::default();
        }
        let needs = self.needs();
        let decided = Decided {
            policy: self.verifier.policy(),
            service: &self.service,
            client: &client(peer, Some(&question.headers)),
            request: Some(question.asked()),
            needs: &needs.1,
            decision,
            now: self.verifier.clock().now(),
        };
        tell(&self.decisions, &decided)
    }

    /// Whether whatever the client asks is refused; then the decision that says so.
    pub(super) fn refuses_all(&self, peer: &VerifiedPeer) -> Option<Decision> {
        // For whom a gateway speaks, only a request says.
        if is_gateway(peer) {
            return None;
        }
        let now = self.verifier.clock().now();
        let policy = self.verifier.policy();
        let decision = policy.authorize(&self.service, &client(peer, None), None, now);
        let depends = decision.code == Reason::RequestRequired;
        (decision.effect == Effect::Deny && !depends).then_some(decision)
    }

    /// Whether the client's certificate has ended.
    pub(super) fn has_expired(&self, peer: &VerifiedPeer) -> bool {
        self.verifier.clock().now() >= peer.not_after
    }

    /// When what could be its tokens end; none where no rule asks for one.
    pub(super) fn token_ends(&self, question: &Question) -> TokenEnds {
        // Rules about tokens look at every header: any of them may carry one.
        match self.needs().1 {
            HeaderNeeds::All => {
                let values = question.headers.values().map(http::HeaderValue::as_bytes);
                TokenEnds::of(&question.target, values)
            }
            _ => TokenEnds::default(),
        }
    }

    pub(super) fn clock(&self) -> &Clock {
        self.verifier.clock()
    }

    /// A decision in one sentence. There are few, and the last ones are remembered.
    pub(crate) fn describe(&self, decision: &Decision) -> Arc<str> {
        let key = (
            decision.generation,
            decision.code,
            decision.intention,
            decision.permission,
        );
        let described = || {
            self.described
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(text) = described().get(&key) {
            return Arc::clone(text);
        }
        let policy = self.verifier.policy();
        let text: Arc<str> = policy.describe(&self.service, decision).into();
        let mut described = described();
        if described.len() >= DESCRIBED {
            described.clear();
        }
        described.insert(key, Arc::clone(&text));
        text
    }

    /// Which headers the rules look at, and in which generation.
    pub(super) fn needs(&self) -> Arc<(u64, HeaderNeeds)> {
        let policy = self.verifier.policy();
        let generation = policy.generation();
        if let Some(needs) = self.needs.load_full()
            && needs.0 == generation
        {
            return needs;
        }
        let needs = Arc::new((generation, policy.needed_headers(&self.service)));
        if policy.generation() == generation {
            self.needs.store(Some(Arc::clone(&needs)));
            return needs;
        }
        Arc::new((generation, HeaderNeeds::All))
    }

    fn ask(&self, client: &Client, question: &Question, needs: &HeaderNeeds) -> Decision {
        let policy = self.verifier.policy();
        let Some(request) = question.asked().to_core(needs) else {
            return Decision::denied(Reason::BadRequest, policy.generation());
        };
        let now = self.verifier.clock().now();
        policy.authorize(&self.service, client, Some(&request), now)
    }
}

fn is_gateway(peer: &VerifiedPeer) -> bool {
    matches!(peer.id.kind(), Kind::MeshGateway { .. })
}

/// The client, and for whom it speaks if it is a mesh gateway.
fn client(peer: &VerifiedPeer, headers: Option<&HeaderMap>) -> Client {
    let told = headers.filter(|_| is_gateway(peer)).map(|headers| {
        let values = headers.get_all(xfcc::NAME).iter();
        let values: Vec<&[u8]> = values.map(http::HeaderValue::as_bytes).collect();
        values.join(&b","[..])
    });
    Client {
        uris: vec![peer.id.to_string()],
        via_gateway: told.filter(|told| !told.is_empty()),
    }
}
