//! What an instance knows: settings, policy, and the things it follows at the agent.

mod intake;

use std::collections::{BTreeMap, BTreeSet};

use portcullis_core::agent::default_policy;
use portcullis_core::agent::peerings::{self, Peering};
use portcullis_core::agent::{AllowDeny, HttpRequest, matches, roots};
use portcullis_core::chain;
use portcullis_core::intention::Destination;
use portcullis_core::policy::{Document, Policy};
use portcullis_core::time::Timestamp;
use portcullis_core::watch::WatchRequest;

use crate::bindings::exports::portcullis::mesh::agent as wit;
use crate::bindings::wasi::io::poll;
use crate::clock;
use crate::fetch::{Agent, Fetch};
use crate::settings;
use crate::thing::{Moment, Thing};

/// How many destinations are followed at once; each holds a query open, and hosts limit those
/// (ours to 64). The one that was asked about longest ago gives way, and is fetched again when
/// somebody asks.
const MAX_SERVICES: usize = 48;
/// The default policy is asked for again this often.
const DEFAULT_POLICY_EVERY_MS: u64 = 60_000;

/// One destination.
struct Service {
    destination: Destination,
    thing: Thing,
    asked: u64,
    /// The peers that its intentions name.
    named: BTreeSet<String>,
}

/// An instance's state.
pub(crate) struct Mesh {
    pub(crate) settings: wit::Settings,
    pub(crate) agent: Agent,
    pub(crate) policy: Policy,
    generation: u64,
    questions: u64,
    seed: u64,
    roots: Thing,
    known_roots: Option<roots::Roots>,
    default_policy: Thing,
    known_default: Option<(AllowDeny, &'static str)>,
    services: BTreeMap<String, Service>,
    /// Asked for only while intentions name a peer.
    peerings: Thing,
    known_peerings: Vec<Peering>,
    /// In simple mode: the last failure of `authorize` itself.
    pub(crate) authorize_error: Option<String>,
}

impl Mesh {
    pub(crate) fn new(settings: wit::Settings) -> Self {
        let seed = clock::seed();
        let agent = Agent {
            authority: settings.authority.clone(),
            tls: settings.tls,
        };
        let known_default = match settings.default_policy {
            // In simple mode the agent decides; ours only has to let it.
            _ if settings.mode == wit::Mode::Simple => Some((AllowDeny::Allow, "authorize")),
            wit::DefaultPolicy::Auto => None,
            wit::DefaultPolicy::Allow => Some((AllowDeny::Allow, "flag")),
            wit::DefaultPolicy::Deny => Some((AllowDeny::Deny, "flag")),
        };
        Self {
            agent,
            policy: Policy::new(chain::rustcrypto()),
            generation: 0,
            questions: 0,
            seed,
            roots: Thing::blocking(seed),
            known_roots: None,
            default_policy: Thing::polled(DEFAULT_POLICY_EVERY_MS, seed.rotate_left(7)),
            known_default,
            services: BTreeMap::new(),
            peerings: Thing::blocking(seed.rotate_left(14)),
            known_peerings: Vec::new(),
            authorize_error: None,
            settings,
        }
    }

    pub(crate) fn now(&self, wall: u64) -> Moment {
        Moment {
            monotonic: clock::monotonic(),
            wall,
        }
    }

    fn is_simple(&self) -> bool {
        self.settings.mode == wit::Mode::Simple
    }

    /// Whether the default policy has to be found out.
    fn probes(&self) -> bool {
        !self.is_simple() && self.settings.default_policy == wit::DefaultPolicy::Auto
    }

    /// Takes over what has arrived and sends what is due, without waiting.
    pub(crate) fn pump(&mut self, wall: u64) {
        let now = self.now(wall);
        if let Some(result) = self.roots.arrived(now) {
            self.take_roots(now, result);
        }
        let datacenter = self.settings.datacenter.clone();
        let query = |due: &WatchRequest| {
            let mut query = due.query();
            query.datacenter.clone_from(&datacenter);
            query
        };
        self.roots
            .send(&self.agent, now, |due| Ok(roots::request(&query(due))));
        if self.probes() {
            if let Some(result) = self.default_policy.arrived(now) {
                self.take_default(now, result);
            }
            if let Some(request) = self.probe() {
                self.default_policy.send(&self.agent, now, |_| request);
            }
        }
        if self.is_simple() {
            return;
        }
        let keys: Vec<String> = self.services.keys().cloned().collect();
        for key in keys {
            let Some(service) = self.services.get_mut(&key) else {
                continue;
            };
            if let Some(result) = service.thing.arrived(now) {
                self.take_service(now, &key, result);
            }
            let Some(service) = self.services.get_mut(&key) else {
                continue;
            };
            let name = query_name(&service.destination);
            service.thing.send(&self.agent, now, |due| {
                matches::request(&[name], &query(due)).map_err(|e| e.to_string())
            });
        }
        self.pump_peerings(now);
    }

    /// Follows the peerings while intentions name one.
    fn pump_peerings(&mut self, now: Moment) {
        if !self.names_peers() {
            if self.peerings.current().is_some() {
                self.peerings = Thing::blocking(self.seed.rotate_left(14));
                self.known_peerings.clear();
                // What was loaded a moment ago loads again, with less.
                let _ = self.load_mesh();
            }
            return;
        }
        if let Some(result) = self.peerings.arrived(now) {
            self.take_peerings(now, result);
        }
        let request = |due: &WatchRequest| Ok(peerings::request(&due.query()));
        self.peerings.send(&self.agent, now, request);
    }

    fn names_peers(&self) -> bool {
        !self.is_simple() && self.services.values().any(|one| !one.named.is_empty())
    }

    /// Who has no rule that names it: see [`default_policy::probe`].
    fn probe(&self) -> Option<Result<HttpRequest, String>> {
        let trust_domain = &self.known_roots.as_ref()?.trust_domain;
        let asked = |service: &&Service| service.asked;
        let service = self
            .services
            .values()
            .filter(|service| is_default(&service.destination))
            .max_by_key(asked)?;
        let nonce = self.seed ^ self.questions.rotate_left(20);
        let request = default_policy::probe(service.destination.name(), trust_domain, nonce);
        Some(request.map_err(|error| error.to_string()))
    }

    /// Starts to follow `destination`, if that has not been done.
    pub(crate) fn follow(&mut self, destination: &Destination) {
        self.questions = self.questions.saturating_add(1);
        let asked = self.questions;
        let key = destination.key();
        if let Some(service) = self.services.get_mut(&key) {
            service.asked = asked;
            return;
        }
        if self.services.len() >= MAX_SERVICES {
            let oldest = self
                .services
                .iter()
                .min_by_key(|(_, service)| service.asked);
            if let Some(key) = oldest.map(|(key, _)| key.clone())
                && let Some(service) = self.services.remove(&key)
            {
                self.generation = self.generation.saturating_add(1);
                let name = service.destination.document();
                let gone = Document {
                    name,
                    body: None,
                    confirmed_at: Timestamp::from_millis(0),
                };
                self.policy.load(self.generation, vec![gone]);
            }
        }
        let seed = self.seed ^ asked.rotate_left(32);
        let mut thing = Thing::blocking(seed);
        if self.is_simple() {
            // Nothing is fetched: the document only lets the identity be judged.
            thing = Thing::polled(u64::MAX, seed);
            let body = br#"{"protocol":"tcp","intentions":[]}"#.to_vec();
            // It cannot be refused; were it, the target would stay unknown and be denied.
            let _ = self.load(destination.document(), body, None);
        }
        let destination = destination.clone();
        self.services.insert(
            key,
            Service {
                destination,
                thing,
                asked,
                named: BTreeSet::new(),
            },
        );
    }

    /// Brings up to date what a question about `target` needs, and waits for it only where
    /// there is nothing, or nothing that may still decide, or something that may be out of date.
    pub(crate) fn prepare(&mut self, target: Option<&Destination>, wall: u64) {
        if let Some(destination) = target {
            self.follow(destination);
        }
        let key = target.map(Destination::key).filter(|_| !self.is_simple());
        let max_stale = self.settings.max_stale;
        self.pump(wall);
        let now = self.now(wall);
        let mut refreshed = false;
        for thing in self.needed_mut(key.as_deref()) {
            if thing.is_stale(now, max_stale) {
                thing.refresh(now);
                refreshed = true;
            }
        }
        if refreshed {
            self.pump(wall);
        }
        let deadline = now
            .monotonic
            .saturating_add(u64::from(self.settings.fetch_timeout));
        loop {
            let now = self.now(wall);
            if now.monotonic >= deadline {
                self.needed_mut(key.as_deref()).for_each(Thing::waited);
                self.peerings.waited();
                break;
            }
            let timer = clock::at(deadline);
            let needs_peerings = key
                .as_ref()
                .and_then(|key| self.services.get(key))
                .is_some_and(|service| !service.named.is_empty());
            let peerings = self.peerings.awaited_once().filter(|_| needs_peerings);
            let mut pollables: Vec<_> = self
                .needed(key.as_deref())
                .filter_map(|thing| thing.awaited(now, max_stale))
                .chain(peerings)
                .map(Fetch::pollable)
                .collect();
            if pollables.is_empty() {
                break;
            }
            pollables.push(&timer);
            poll::poll(&pollables);
            self.pump(wall);
        }
        self.age(key.as_deref(), wall);
    }

    /// Tells the policy about an age that only the monotonic clock knows (callers may set
    /// theirs back).
    fn age(&mut self, key: Option<&str>, wall: u64) {
        let now = self.now(wall);
        let max_stale = self.settings.max_stale;
        let confirmed = |thing: &Thing| {
            let at = thing.current().filter(|_| thing.is_stale(now, max_stale))?;
            let age = now.monotonic.saturating_sub(at.monotonic);
            Some(Moment {
                wall: at.wall.min(now.wall.saturating_sub(age)),
                ..at
            })
        };
        let mesh = confirmed(&self.roots);
        if self.probes()
            && self.known_default.is_some()
            && self.default_policy.is_stale(now, max_stale)
        {
            self.known_default = None;
            // What was loaded a moment ago loads again.
            let _ = self.load_mesh();
        }
        if !self.known_peerings.is_empty() && self.peerings.is_stale(now, max_stale) {
            self.known_peerings.clear();
            let _ = self.load_mesh();
        }
        self.touch("mesh", &[mesh]);
        let service = key.and_then(|key| self.services.get(key));
        if let Some(service) = service {
            let (name, at) = (service.destination.document(), confirmed(&service.thing));
            self.touch(&name, &[at]);
        }
    }

    fn needed<'m>(&'m self, key: Option<&str>) -> impl Iterator<Item = &'m Thing> {
        let service = key
            .and_then(|key| self.services.get(key))
            .map(|service| &service.thing);
        let default = self
            .probes()
            .then_some(&self.default_policy)
            .filter(|_| service.is_some());
        [Some(&self.roots), service, default].into_iter().flatten()
    }

    fn needed_mut<'m>(&'m mut self, key: Option<&str>) -> impl Iterator<Item = &'m mut Thing> {
        let probes = self.probes();
        let service = key
            .and_then(|key| self.services.get_mut(key))
            .map(|service| &mut service.thing);
        let default = Some(&mut self.default_policy).filter(|_| probes && service.is_some());
        [Some(&mut self.roots), service, default]
            .into_iter()
            .flatten()
    }

    /// Whether the agent has ever answered what a question about `target` needs.
    pub(crate) fn is_ready(&self, target: &Destination) -> bool {
        let service = || {
            self.services
                .get(&target.key())
                .and_then(|s| s.thing.current())
        };
        self.roots.current().is_some() && (self.is_simple() || service().is_some())
    }

    /// In simple mode: the target's document is nobody's data and does not age.
    pub(crate) fn confirm(&mut self, target: &Destination, wall: u64) {
        self.policy
            .touch(&[target.document()], Timestamp::from_millis(wall));
    }

    /// The policy's generation.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// What is watched.
    pub(crate) fn status(&self) -> Vec<wit::Watched> {
        let watched = |name: String, thing: &Thing| wit::Watched {
            name,
            index: thing.index(),
            confirmed_at: thing.current().map_or(0, |at| at.wall),
            last_error: thing.last_error().map(str::to_owned),
        };
        let mut all = vec![watched("roots".to_owned(), &self.roots)];
        if self.probes() {
            all.push(watched("default-policy".to_owned(), &self.default_policy));
        }
        if self.names_peers() {
            all.push(watched("peerings".to_owned(), &self.peerings));
        }
        for service in self.services.values() {
            let mut one = watched(service.destination.document(), &service.thing);
            if self.is_simple() {
                one.last_error.clone_from(&self.authorize_error);
            }
            all.push(one);
        }
        all
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new(settings::default())
    }
}

/// Whether a destination is one that Consul without a licence has.
pub(crate) fn is_default(destination: &Destination) -> bool {
    destination.partition() == "default" && destination.namespace() == "default"
}

/// The shortest name that the match query takes: without a licence it takes no partition.
fn query_name(destination: &Destination) -> String {
    if is_default(destination) {
        destination.name().to_owned()
    } else if destination.partition() == "default" {
        format!("{}/{}", destination.namespace(), destination.name())
    } else {
        destination.key()
    }
}
