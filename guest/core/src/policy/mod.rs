//! The policy: documents in, decisions out.
//!
//! [`Policy`] is what every adapter calls, the components and the native engine
//! alike; its functions are those of `wit/decisions.wit`. It does no I/O and reads
//! no clock. Whatever is missing, stale or unreadable denies, with a reason.

mod describe;
mod document;
mod explain;
mod explain_request;
mod freshness;
mod headers;
mod judge;
mod mesh;
mod question;
mod reading;
mod recent;
mod roots;
mod service;
mod tokens;
mod trace;
pub(crate) mod xfcc;

pub use document::{Document, LoadProblem, LoadReport};
pub use question::{Client, HeaderNeeds};

pub use crate::http::{HttpVersion, Request, RequestRef, encode_headers};
pub use trace::{Step, Trace};

use std::collections::HashMap;

use crate::chain::{self, Algorithms, Usage, VerifiedPeer, VerifyError};
use crate::identity::{Excerpt, IdentityError, SpiffeId};
use crate::intention::{Decision, Destination, Reason};
use crate::time::Timestamp;
use crate::words::{self, WordHash};
use mesh::Mesh;
use reading::Refused;
use recent::Recent;
use service::Service;
use tokens::{KeySet, KeySets};

/// Loaded documents, and the questions about them.
pub struct Policy {
    algorithms: Algorithms,
    generation: u64,
    mesh: Option<Mesh>,
    services: HashMap<String, Service, WordHash>,
    /// By the provider's name.
    key_sets: KeySets,
    recent: Recent,
    /// The target that was asked about last, and its key.
    target: String,
    key: String,
}

impl Policy {
    /// A policy without documents, which denies everything as `not-ready`.
    #[must_use]
    pub fn new(algorithms: Algorithms) -> Self {
        Self {
            algorithms,
            generation: 0,
            mesh: None,
            services: HashMap::default(),
            key_sets: HashMap::default(),
            recent: Recent::new(),
            target: String::new(),
            key: String::new(),
        }
    }

    /// The generation of the last load.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Replaces the named documents; all others stay. The unit of refusal is one
    /// document: its predecessor stays in force and ages.
    ///
    /// `generation` rises with every call; a load of an older one than the last is
    /// refused as a whole, so that no older policy ever answers after a newer one.
    pub fn load(&mut self, generation: u64, changes: Vec<Document>) -> LoadReport {
        let mut report = LoadReport::default();
        if generation < self.generation {
            let text = format!("generation {generation} is older than {}", self.generation);
            let refused = Refused {
                pointer: String::new(),
                text,
            };
            report.refuse(
                changes.first().map_or("", |document| &document.name),
                refused,
            );
            return report;
        }
        self.generation = generation;
        for document in changes {
            if let Err(refused) = self.apply(&document, &mut report.warnings) {
                report.refuse(&document.name, refused);
            }
        }
        self.find_orphan_denials();
        report
    }

    fn apply(
        &mut self,
        document: &Document,
        warnings: &mut Vec<LoadProblem>,
    ) -> Result<(), Refused> {
        let body = document.body.as_deref();
        if document.name == mesh::NAME {
            self.mesh = match body {
                Some(body) => Some(Mesh::read(body, document.confirmed_at, warnings)?),
                None => None,
            };
            return Ok(());
        }
        if let Some(provider) = document.name.strip_prefix(tokens::PREFIX) {
            match body {
                Some(body) => {
                    let set = KeySet::read(&document.name, body, document.confirmed_at, warnings)?;
                    self.key_sets.insert(provider.to_owned(), set);
                }
                None => drop(self.key_sets.remove(provider)),
            }
            return Ok(());
        }
        let destination = service::destination_of(&document.name)?;
        let key = destination.key();
        match body {
            Some(body) => {
                let service = Service::read(&destination, body, document.confirmed_at, warnings)?;
                self.services.insert(key, service);
            }
            None => drop(self.services.remove(&key)),
        }
        Ok(())
    }

    /// Peers come and go with the mesh document, the denials that name them with others.
    fn find_orphan_denials(&mut self) {
        let Some(mesh) = &self.mesh else { return };
        for service in self.services.values_mut() {
            service.orphan_denial = service
                .intentions
                .first_orphan_denial(service.protocol, |peer| mesh.has_peer(peer));
        }
    }

    /// The agent has confirmed that these documents are current; no names mean all.
    /// Names that are not loaded are passed over.
    pub fn touch(&mut self, names: &[String], confirmed_at: Timestamp) {
        let freshness = freshness::Freshness::confirmed(confirmed_at);
        if names.is_empty() {
            self.mesh
                .iter_mut()
                .for_each(|mesh| mesh.freshness = freshness);
            self.services
                .values_mut()
                .for_each(|service| service.freshness = freshness);
            self.key_sets
                .values_mut()
                .for_each(|set| set.freshness = freshness);
            return;
        }
        for name in names {
            if name == mesh::NAME {
                self.mesh
                    .iter_mut()
                    .for_each(|mesh| mesh.freshness = freshness);
            } else if let Some(provider) = name.strip_prefix(tokens::PREFIX) {
                if let Some(set) = self.key_sets.get_mut(provider) {
                    set.freshness = freshness;
                }
            } else if let Ok(destination) = service::destination_of(name)
                && let Some(service) = self.services.get_mut(&destination.key())
            {
                service.freshness = freshness;
            }
        }
    }

    /// May `client` open a connection to `target`, or with a request, send it?
    /// `target` is `name`, `namespace/name` or `partition/namespace/name`.
    ///
    /// Never fails: whatever is wrong is a denial. A request to a target that speaks HTTP
    /// is judged in its normalised form, which is in the decision where it differs: that
    /// is what must be forwarded. A question without a request is answered for all of
    /// them together, and denied as `request-required` where they may differ.
    pub fn authorize(
        &mut self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Decision {
        self.authorize_ref(target, client, request.map(RequestRef::from), now)
    }

    /// [`Policy::authorize`] for a request whose parts are kept elsewhere.
    pub(crate) fn authorize_ref(
        &mut self,
        target: &str,
        client: &Client,
        request: Option<RequestRef<'_>>,
        now: Timestamp,
    ) -> Decision {
        let generation = self.generation;
        if !self.find_key(target) {
            return Decision::denied(Reason::MalformedTarget, generation);
        }
        let Some(mesh) = &mut self.mesh else {
            return Decision::denied(Reason::NotReady, generation);
        };
        let Some(service) = self.services.get_mut(&self.key) else {
            return Decision::denied(Reason::UnknownTarget, generation);
        };
        mesh.freshness.see(now);
        service.freshness.see(now);
        self.key_sets
            .values_mut()
            .for_each(|set| set.freshness.see(now));
        let asked = judge::Asked {
            mesh,
            key_sets: &self.key_sets,
            service,
            client,
            request,
            now,
        };
        let judgement = judge::judge(&asked, &mut self.recent);
        judgement.into_decision(generation)
    }

    /// Puts the target's key into `self.key`, where it mostly is already; false if the
    /// target cannot name a service.
    fn find_key(&mut self, target: &str) -> bool {
        if !target.is_empty() && words::same(target.as_bytes(), self.target.as_bytes()) {
            return true;
        }
        self.target.clear();
        let names_one = Destination::write_key(target, &mut self.key).is_ok();
        if names_one {
            self.target.push_str(target);
        }
        names_one
    }

    /// Checks a presented chain (DER, leaf first) against the loaded roots.
    /// `expected` is the exact SPIFFE ID that the peer must have.
    ///
    /// # Errors
    /// If the chain or its identity breaks a rule, if `expected` is no SPIFFE ID, and
    /// if the roots are not loaded or beyond the staleness budget.
    pub fn verify_peer(
        &mut self,
        chain: &[impl AsRef<[u8]>],
        usage: Usage,
        expected: Option<&str>,
        now: Timestamp,
    ) -> Result<VerifiedPeer, VerifyError> {
        let Some(mesh) = &mut self.mesh else {
            return Err(VerifyError::RootsNotLoaded);
        };
        mesh.freshness.see(now);
        if mesh.freshness.is_stale(now, mesh.max_stale) {
            return Err(VerifyError::RootsStale);
        }
        let expected = expected
            .map(SpiffeId::parse)
            .transpose()
            .map_err(VerifyError::MalformedExpectedIdentity)?;
        chain::verify_peer(
            chain,
            usage,
            expected.as_ref(),
            &mesh.bundles,
            now,
            self.algorithms,
        )
    }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy")
            .field("generation", &self.generation)
            .field("services", &self.services.len())
            .finish_non_exhaustive()
    }
}

impl LoadReport {
    fn refuse(&mut self, document: &str, refused: Refused) {
        self.refused.push(LoadProblem {
            document: Excerpt::of(document).to_string(),
            pointer: refused.pointer,
            text: refused.text,
        });
    }
}

/// Takes a SPIFFE ID apart.
///
/// # Errors
/// If it breaks a rule of the SPIFFE-ID specification; the error names it.
pub fn parse_id(uri: &str) -> Result<SpiffeId, IdentityError> {
    SpiffeId::parse(uri)
}
