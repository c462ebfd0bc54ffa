//! Envoy's external authorization: the policy for those who cannot load the filter.
//!
//! Connections (the network filter) and requests (the HTTP filter) are asked about by gRPC.
//! Who the client is says the certificate that Envoy passes on, and it is verified here; of
//! what Envoy says about it nothing is believed but that the client holds its key.
//!
//! <https://www.envoyproxy.io/docs/envoy/v1.38.0/api-v3/service/auth/v3/external_auth.proto>

mod answer;
mod question;

use std::io;
use std::sync::Arc;

use envoy_types::pb::envoy::service::auth::v3::authorization_server::{
    Authorization, AuthorizationServer,
};
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use http::Request;
use hyper::body::Incoming;
use portcullis_core::chain::{MAX_CERTIFICATES, MAX_CHAIN_BYTES, Usage, VerifiedPeer};
use portcullis_core::intention::{Decision, Effect};
use portcullis_core::policy::HeaderNeeds;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::sync::watch;
use tonic::{Response, Status};
use tower_service::Service as _;

use super::server::Server;
use super::{ServerObserver, observer};
use crate::decisions::Decisions;
use crate::member::Member;
use crate::metrics::Checks;
use crate::proxy::{Judge, ListenAddress, Listener, Question};
use crate::tls::{Occasion, PeerVerifier};
use crate::watcher::MeshRoots;
use answer::Verdict;
use question::Asked;

/// The largest question: Envoy's headers and a certificate.
const MAX_QUESTION: usize = 1024 * 1024;

/// A server of decisions, until it is dropped.
#[derive(Debug)]
pub struct ExtAuthz {
    server: Server,
    counts: Arc<Counted>,
}

/// What a server has decided so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Let through.
    pub allowed: u64,
    /// Everything else.
    pub refused: u64,
}

/// The same, while it is counted.
#[derive(Debug, Default)]
pub(crate) struct Counted(pub(crate) Checks);

impl Counted {
    pub(crate) fn counts(&self) -> Counts {
        let (allowed, refused) = self.0.totals();
        Counts { allowed, refused }
    }
}

impl ExtAuthz {
    /// Listens at `address`, with these permissions of a socket, and decides who may reach
    /// the service of `member`. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(member: &Member, address: &ListenAddress, mode: u32) -> io::Result<Self> {
        let listener = Listener::bind(address, Some(mode))?;
        let counts = Arc::<Counted>::default();
        let verifier = member.tls().verifier().clone();
        let service: Arc<str> = member.service().into();
        let service = Service(Arc::new(Inner {
            judge: Judge::new(verifier.clone(), Arc::clone(&service), Decisions::default()),
            verifier,
            roots: member.watcher().subscribe_roots(),
            service,
            counts: Arc::clone(&counts),
        }));
        let service = AuthorizationServer::new(service).max_decoding_message_size(MAX_QUESTION);
        let answer = move |request: Request<Incoming>| {
            let mut service = service.clone();
            async move {
                let Ok(response) = service.call(request).await;
                response
            }
        };
        let counted = observer::Counted::ExtAuthz(Arc::clone(&counts));
        let server = Server::start(listener, member, counted, answer)?;
        Ok(Self { server, counts })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &ListenAddress {
        self.server.observer().address()
    }

    /// What it has decided so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.counts()
    }

    /// Whether it takes connections, or is being stopped. False is a defect that only a
    /// restart mends.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        self.server.is_accepting()
    }

    /// Sees how it does, for operators.
    #[must_use]
    pub fn observer(&self) -> ServerObserver {
        self.server.observer().clone()
    }

    /// Ends; Envoy then refuses until somebody answers again.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

struct Service(Arc<Inner>);

struct Inner {
    judge: Judge,
    verifier: PeerVerifier,
    roots: watch::Receiver<Option<MeshRoots>>,
    service: Arc<str>,
    counts: Arc<Counted>,
}

#[tonic::async_trait]
impl Authorization for Service {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let asked = Asked::read(request.into_inner());
        let verdict = self.0.decide(&asked).await;
        let checks = &self.0.counts.0;
        if verdict.effect == Effect::Allow {
            checks.allow(asked.is_http());
        } else {
            checks.deny(asked.is_http(), &verdict.code);
        }
        self.0.tell(&asked, &verdict);
        Ok(Response::new(verdict.response(asked.is_http())))
    }
}

impl Inner {
    async fn decide(&self, asked: &Asked) -> Verdict {
        let chain = match &asked.chain {
            Ok(chain) => completed(chain.clone(), &self.intermediates()),
            Err(problem) => return Verdict::refused("certificate-unreadable", problem),
        };
        let verified = self
            .verifier
            .verify_later(chain, Usage::Client, None, Occasion::Handshake)
            .await;
        let peer = match verified {
            Ok(peer) => peer,
            Err(refusal) => {
                return Verdict::refused("certificate-refused", &refusal.to_string());
            }
        };
        match &asked.request {
            None => {
                let decision = self.verifier.authorize(&self.service, &peer);
                self.verdict(peer, decision, None)
            }
            Some(Err(problem)) => Verdict::bad_request("bad-request", problem),
            Some(Ok(question)) => {
                if asked.are_headers_joined && self.looks_at_headers() {
                    return Verdict::refused(
                        "headers-joined",
                        "a rule looks at headers, and Envoy has joined them: set `encode_raw_headers: true`",
                    );
                }
                let decision = self.judge.decide(&peer, question);
                self.verdict(peer, decision, Some(question))
            }
        }
    }

    /// Those that the agent lists: Envoy passes on none.
    fn intermediates(&self) -> Vec<CertificateDer<'static>> {
        let roots = self.roots.borrow();
        let listed = roots.iter().flat_map(|roots| &roots.intermediates);
        // What cannot be read helps nobody.
        listed
            .flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()))
            .filter_map(Result::ok)
            .collect()
    }

    fn looks_at_headers(&self) -> bool {
        let needs = self.verifier.policy().needed_headers(&self.service);
        needs != HeaderNeeds::None
    }

    fn verdict(
        &self,
        peer: Arc<VerifiedPeer>,
        decision: Decision,
        question: Option<&Question>,
    ) -> Verdict {
        let text = self.judge.describe(&decision);
        let asked = question.map(|question| &*question.target);
        Verdict::of(peer, decision, &text, asked)
    }

    fn tell(&self, asked: &Asked, verdict: &Verdict) {
        let who = match &verdict.peer {
            Some(peer) => peer.id.to_string(),
            // Claimed, not proved.
            None => asked.claims.clone(),
        };
        macro_rules! tell {
            ($level:ident, $message:literal) => {
                tracing::event!(
                    target: "access",
                    tracing::Level::$level,
                    src.addr = asked.from.as_str(),
                    src.identity = verdict.peer.is_some().then_some(who.as_str()),
                    src.claims = verdict.peer.is_none().then_some(who.as_str()),
                    dst.service = &*self.service,
                    direction = "inbound",
                    http.method = asked.method(),
                    http.path = asked.path().as_deref(),
                    code = verdict.code.as_str(),
                    reason = verdict.text.as_str(),
                    $message
                )
            };
        }
        if verdict.effect == Effect::Allow {
            tell!(INFO, "allowed");
        } else {
            tell!(WARN, "refused");
        }
    }
}

/// `chain`, and as many of `listed` as the policy would take.
fn completed(
    mut chain: Vec<CertificateDer<'static>>,
    listed: &[CertificateDer<'static>],
) -> Vec<CertificateDer<'static>> {
    for certificate in listed {
        let bytes: usize = chain.iter().map(|one| one.len()).sum();
        if chain.len() < MAX_CERTIFICATES
            && bytes + certificate.len() <= MAX_CHAIN_BYTES
            && !chain.contains(certificate)
        {
            chain.push(certificate.clone());
        }
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_completed_within_what_the_policy_takes() {
        let one = |byte: u8, length: usize| CertificateDer::from(vec![byte; length]);
        let leaf = vec![one(0, 10)];
        let listed = [one(1, 10), one(0, 10), one(2, MAX_CHAIN_BYTES), one(3, 10)];
        assert_eq!(
            completed(leaf.clone(), &listed),
            [one(0, 10), one(1, 10), one(3, 10)]
        );
        let many: Vec<_> = (1..20).map(|byte| one(byte, 1)).collect();
        assert_eq!(completed(leaf, &many).len(), MAX_CERTIFICATES);
    }
}
