//! The policy of one filter: what it follows, what it has loaded, what it decides.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::settings::{DefaultPolicySetting, Settings};
use super::topic::Topic;
use super::{Shelf, head};
use crate::agent::default_policy::{self, Discovery};
use crate::agent::{
    AllowDeny, HttpReply, HttpRequest, ReplyError, ReplyHeaders, authorize, config, matches, roots,
    self_info,
};
use crate::chain::{self, Usage, VerifiedPeer, VerifyError};
use crate::http::Request;
use crate::intention::{Decision, Destination, Protocol, Reason};
use crate::policy::{Client, Document, LoadProblem, Policy};
use crate::time::Timestamp;
use crate::watch::{Mode, Position, Settings as WatchSettings, WatchRequest};

/// How often the agent is asked for what it cannot be asked to wait for.
const POLLED_EVERY_MS: u64 = 60_000;

/// What a filter judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// Connections: a network filter.
    Connections,
    /// Requests: an HTTP filter.
    Requests,
}

impl Layer {
    const fn protocol(self) -> Protocol {
        match self {
            Self::Connections => Protocol::Tcp,
            Self::Requests => Protocol::Http,
        }
    }
}

/// What the agent is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Asks {
    /// Trust domain and roots.
    Roots,
    /// The service's intentions.
    Intentions,
    /// What holds where no intention matches.
    DefaultPolicy,
    /// The `mesh` config entry.
    MeshEntry,
}

impl Asks {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Roots => "roots",
            Self::Intentions => "intentions",
            Self::DefaultPolicy => "default policy",
            Self::MeshEntry => "mesh entry",
        }
    }
}

/// A reply in full.
#[derive(Debug, Default)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The headers that matter.
    pub headers: ReplyHeaders,
    /// Body.
    pub body: Vec<u8>,
}

impl Reply {
    fn as_reply(&self) -> HttpReply<'_> {
        HttpReply {
            status: self.status,
            headers: self.headers.clone(),
            body: &self.body,
        }
    }

    /// A status that says nothing about what was asked for.
    const fn is_no_answer(&self) -> bool {
        self.status >= 500 || self.status == 429
    }
}

/// What a tick led to.
#[derive(Debug, Default)]
pub struct Ticked {
    /// Requests to send; each goes back by [`Supply::sent`], and its reply by [`Supply::reply`].
    pub requests: Vec<(Asks, HttpRequest)>,
    /// The policy has changed: whatever lives is judged again.
    pub has_changed: bool,
    /// For the log: what could not be read, and rules that deny because of it.
    pub problems: Vec<String>,
}

/// The agent's roots, as a leader publishes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishedRoots {
    trust_domain: String,
    roots: Vec<String>,
    intermediates: Vec<String>,
}

/// The document `mesh`.
#[derive(Serialize)]
struct MeshDocument<'a> {
    trust_domain: &'a str,
    roots: &'a [String],
    default_policy: &'a str,
    default_policy_source: &'a str,
    matching: &'a str,
    ambiguous_path: &'a str,
    max_stale_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_normalization: Option<&'a RawValue>,
}

/// The policy of one filter, in one worker.
#[derive(Debug)]
pub struct Supply {
    settings: Settings,
    target: String,
    /// Differs between workers.
    name: u64,
    roots: Topic,
    intentions: Topic,
    default_policy: Option<Topic>,
    mesh_entry: Option<Topic>,
    /// `agent/self` did not tell: the agent is probed.
    is_probing: bool,
    probes: u64,
    known_roots: Option<PublishedRoots>,
    known_default: Option<(AllowDeny, String)>,
    known_normalization: Option<Box<RawValue>>,
    policies: Vec<(Protocol, Policy)>,
    generation: u64,
}

impl Supply {
    /// Knows nothing yet. `name` is a random number.
    #[must_use]
    pub fn new(settings: Settings, name: u64) -> Self {
        let blocking = Mode::Blocking {
            wait_ms: settings.agent.wait_ms,
        };
        let every_ms = match settings.max_stale_ms {
            0 => POLLED_EVERY_MS,
            budget => POLLED_EVERY_MS.min((budget / 4).max(1)),
        };
        let polled = Mode::ShortPoll {
            wait_ms: 0,
            every_ms,
        };
        let topic = |what: &str, mode: Mode| {
            let watch = WatchSettings {
                mode,
                seed: name,
                ..WatchSettings::default()
            };
            Topic::new(&key(&settings, what), name, watch)
        };
        let service = settings.service.key();
        let known_default = match settings.default_policy {
            DefaultPolicySetting::Auto => None,
            DefaultPolicySetting::Allow => Some((AllowDeny::Allow, "flag".to_owned())),
            DefaultPolicySetting::Deny => Some((AllowDeny::Deny, "flag".to_owned())),
        };
        let known_normalization = settings
            .request_normalization
            .clone()
            .and_then(|json| RawValue::from_string(json).ok());
        let may_be_http = settings.protocol.is_none_or(Protocol::is_http);
        Self {
            roots: topic("roots", blocking),
            intentions: topic(&format!("intentions/{service}"), blocking),
            default_policy: known_default
                .is_none()
                .then(|| topic(&format!("default-policy/{service}"), polled)),
            mesh_entry: (may_be_http && known_normalization.is_none())
                .then(|| topic("mesh-entry", polled)),
            is_probing: false,
            probes: 0,
            known_roots: None,
            known_default,
            known_normalization,
            policies: Vec::new(),
            generation: 0,
            target: service,
            name,
            settings,
        }
    }

    /// What it was told.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How often what the agent says has changed, as all workers count it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.topics()
            .fold(0, |sum, (_, topic)| sum.saturating_add(topic.number()))
    }

    /// Milliseconds since what decides was last confirmed; `None` before the first policy.
    #[must_use]
    pub fn age(&self, now: u64) -> Option<u64> {
        let oldest = [&self.roots, &self.intentions]
            .map(Topic::confirmed_at)
            .into_iter()
            .min()??;
        Some(now.saturating_sub(oldest))
    }

    /// Whether everything is known that a question to `layer` needs.
    #[must_use]
    pub fn is_ready(&self, layer: Layer) -> bool {
        let known = |topic: &Topic| topic.confirmed_at().is_some();
        let needs_entry = self.protocol(layer).is_http();
        known(&self.roots)
            && known(&self.intentions)
            && self.default_policy.as_ref().is_none_or(known)
            && (!needs_entry || self.mesh_entry.as_ref().is_none_or(known))
    }

    fn protocol(&self, layer: Layer) -> Protocol {
        self.settings.protocol.unwrap_or(layer.protocol())
    }

    fn topics(&self) -> impl Iterator<Item = (Asks, &Topic)> {
        [
            Some((Asks::Roots, &self.roots)),
            Some((Asks::Intentions, &self.intentions)),
            self.default_policy
                .as_ref()
                .map(|topic| (Asks::DefaultPolicy, topic)),
            self.mesh_entry
                .as_ref()
                .map(|topic| (Asks::MeshEntry, topic)),
        ]
        .into_iter()
        .flatten()
    }

    fn topic(&mut self, asks: Asks) -> Option<&mut Topic> {
        match asks {
            Asks::Roots => Some(&mut self.roots),
            Asks::Intentions => Some(&mut self.intentions),
            Asks::DefaultPolicy => self.default_policy.as_mut(),
            Asks::MeshEntry => self.mesh_entry.as_mut(),
        }
    }

    /// The failures that the agent's replies led to, if this worker leads.
    pub fn errors(&self) -> impl Iterator<Item = (Asks, &str)> {
        self.topics()
            .filter_map(|(asks, topic)| Some((asks, topic.last_error()?)))
    }

    /// Takes over what was published, and gives the requests that are due. To be called about
    /// twice a second; `wall` is the present time by the clock of certificates.
    pub fn tick(&mut self, shelf: &impl Shelf, now: u64, wall: Timestamp) -> Ticked {
        let mut ticked = Ticked::default();
        for asks in [
            Asks::Roots,
            Asks::Intentions,
            Asks::DefaultPolicy,
            Asks::MeshEntry,
        ] {
            let Some(topic) = self.topic(asks) else {
                continue;
            };
            let Some(due) = topic.due(shelf, now) else {
                continue;
            };
            match self.request(asks, &due) {
                Ok(request) => ticked.requests.push((asks, request)),
                Err(error) => self.failed(asks, now, &error),
            }
        }
        self.take_over(shelf, now, &mut ticked);
        self.touch(now, wall);
        ticked
    }

    fn request(&mut self, asks: Asks, due: &WatchRequest) -> Result<HttpRequest, String> {
        let mut query = due.query();
        query.datacenter.clone_from(&self.settings.agent.datacenter);
        let result = match asks {
            Asks::Roots => Ok(roots::request(&query)),
            Asks::Intentions => matches::request(&[query_name(&self.settings.service)], &query),
            Asks::DefaultPolicy => {
                self.is_probing = false;
                Ok(self_info::request())
            }
            Asks::MeshEntry => config::get("mesh", "mesh", &query),
        };
        result.map_err(|error| error.to_string())
    }

    /// The request was handed over and may take `time_out` milliseconds.
    pub fn sent(&mut self, asks: Asks, now: u64, time_out: u64) {
        if let Some(topic) = self.topic(asks) {
            topic.sent(now, time_out);
        }
    }

    /// The request under way will not be answered.
    pub fn lost(&mut self, asks: Asks, now: u64) {
        if let Some(topic) = self.topic(asks) {
            topic.lost(now);
        }
    }

    /// The request could not be sent, or came to nothing.
    pub fn failed(&mut self, asks: Asks, now: u64, error: &str) {
        if let Some(topic) = self.topic(asks) {
            topic.failed(now, error);
        }
    }

    /// A reply came. Gives a request that follows from it.
    pub fn reply(
        &mut self,
        shelf: &impl Shelf,
        asks: Asks,
        now: u64,
        reply: &Reply,
    ) -> Option<HttpRequest> {
        let result = match asks {
            Asks::Roots => self.take_roots(shelf, now, reply).map(|()| None),
            Asks::Intentions => self.take_intentions(shelf, now, reply).map(|()| None),
            Asks::DefaultPolicy => self.take_default(shelf, now, reply),
            Asks::MeshEntry => self.take_entry(shelf, now, reply).map(|()| None),
        };
        match result {
            Ok(next) => next,
            Err(error) => {
                self.failed(asks, now, &error);
                None
            }
        }
    }

    fn take_roots(&mut self, shelf: &impl Shelf, now: u64, reply: &Reply) -> Result<(), String> {
        let reply = reply.as_reply();
        let read = roots::decode(&reply).map_err(|error| error.to_string())?;
        let published = PublishedRoots {
            roots: read.pems().map(str::to_owned).collect(),
            intermediates: read
                .roots
                .iter()
                .flat_map(|root| root.intermediates.clone())
                .collect(),
            trust_domain: read.trust_domain,
        };
        self.check_trust_domain(&published)?;
        let value = serde_json::to_vec(&published).map_err(|error| error.to_string())?;
        let document = mesh_document(&self.settings, &published, None, None)?;
        let check = || trial("mesh".to_owned(), document);
        // What is refused has been noted by the topic, with its wait.
        let _ = self
            .roots
            .good(shelf, now, &Position::of(&reply), &value, check);
        Ok(())
    }

    fn check_trust_domain(&self, roots: &PublishedRoots) -> Result<(), String> {
        match &self.settings.trust_domain {
            Some(own) if own.as_str() != roots.trust_domain => Err(format!(
                "the agent's trust domain is not the configured `{own}`"
            )),
            _ => Ok(()),
        }
    }

    fn take_intentions(
        &mut self,
        shelf: &impl Shelf,
        now: u64,
        reply: &Reply,
    ) -> Result<(), String> {
        let name = query_name(&self.settings.service);
        let reply = reply.as_reply();
        let matches = matches::decode(&reply, &[&name]).map_err(|error| error.to_string())?;
        let list = matches
            .lists
            .into_iter()
            .next()
            .map(|(_, list)| list)
            .unwrap_or(Err(ReplyError::Missing { field: name }))
            .map_err(|error| error.to_string())?;
        let document = service_document(Protocol::Tcp, list.json);
        let name = self.settings.service.document();
        let check = || trial(name, document);
        let _ = self.intentions.good(
            shelf,
            now,
            &Position::of(&reply),
            list.json.as_bytes(),
            check,
        );
        Ok(())
    }

    fn take_default(
        &mut self,
        shelf: &impl Shelf,
        now: u64,
        reply: &Reply,
    ) -> Result<Option<HttpRequest>, String> {
        if reply.is_no_answer() {
            return Err(format!("the agent answered {}", reply.status));
        }
        let discovery = if self.is_probing {
            default_policy::from_probe(&authorize::decode(&reply.as_reply()))
        } else {
            default_policy::from_self(&self_info::decode(&reply.as_reply()))
        };
        let value = match discovery {
            Discovery::Probe => {
                let Some(roots) = &self.known_roots else {
                    return Err("the trust domain is not known yet".to_owned());
                };
                self.is_probing = true;
                self.probes = self.probes.saturating_add(1);
                let nonce = self.name ^ self.probes.rotate_left(20);
                let service = self.settings.service.name();
                let probe = default_policy::probe(service, &roots.trust_domain, nonce);
                return probe.map(Some).map_err(|error| error.to_string());
            }
            Discovery::Known { policy, source } => {
                let policy = match policy {
                    AllowDeny::Allow => "allow",
                    AllowDeny::Deny => "deny",
                };
                format!("{policy} {source}")
            }
            Discovery::Unknown { because } => format!("unknown {because}"),
        };
        if let Some(topic) = &mut self.default_policy {
            let at = Position::default();
            let _ = topic.good(shelf, now, &at, value.as_bytes(), || Ok(()));
        }
        Ok(None)
    }

    fn take_entry(&mut self, shelf: &impl Shelf, now: u64, reply: &Reply) -> Result<(), String> {
        if reply.is_no_answer() {
            return Err(format!("the agent answered {}", reply.status));
        }
        let value = match config::decode_normalization(&reply.as_reply()) {
            Ok(found) => found.unwrap_or_else(|| "null".to_owned()),
            // Whoever may not read the entry takes Consul's default, as if there were none.
            Err(error) if error.is_forbidden() => "null".to_owned(),
            Err(error) => return Err(error.to_string()),
        };
        let normalization =
            RawValue::from_string(value.clone()).map_err(|error| error.to_string())?;
        let document = match &self.known_roots {
            Some(roots) => Some(mesh_document(
                &self.settings,
                roots,
                None,
                Some(&normalization),
            )?),
            None => None,
        };
        let check = || document.map_or(Ok(()), |document| trial("mesh".to_owned(), document));
        if let Some(topic) = &mut self.mesh_entry {
            let _ = topic.good(shelf, now, &Position::default(), value.as_bytes(), check);
        }
        Ok(())
    }

    /// Loads what was published.
    fn take_over(&mut self, shelf: &impl Shelf, now: u64, ticked: &mut Ticked) {
        let mut mesh_changed = self.take_over_roots(shelf, now, ticked);
        if let Some(topic) = &mut self.default_policy {
            if let Some(value) = topic.take(shelf, now) {
                topic.accepted();
                self.known_default = published_default(&value);
                mesh_changed = true;
            }
            let budget = self.settings.max_stale_ms;
            let age = topic.confirmed_at().map(|at| now.saturating_sub(at));
            if self.known_default.is_some() && budget != 0 && age.is_some_and(|age| age > budget) {
                self.known_default = None;
                topic.again();
                mesh_changed = true;
            }
        }
        if let Some(topic) = &mut self.mesh_entry
            && let Some(value) = topic.take(shelf, now)
        {
            let raw = String::from_utf8(value)
                .ok()
                .and_then(|json| RawValue::from_string(json).ok());
            match raw {
                Some(raw) => {
                    topic.accepted();
                    self.known_normalization = Some(raw).filter(|raw| raw.get() != "null");
                    mesh_changed = true;
                }
                None => topic.refused(),
            }
        }
        if mesh_changed {
            self.load_mesh(ticked);
        }
        if let Some(list) = self.intentions.take(shelf, now) {
            match std::str::from_utf8(&list) {
                Ok(list) => self.load_intentions(list, ticked),
                Err(_) => self.intentions.refused(),
            }
        }
    }

    fn take_over_roots(&mut self, shelf: &impl Shelf, now: u64, ticked: &mut Ticked) -> bool {
        let Some(value) = self.roots.take(shelf, now) else {
            return false;
        };
        let read = serde_json::from_slice::<PublishedRoots>(&value)
            .map_err(|error| error.to_string())
            .and_then(|roots| self.check_trust_domain(&roots).map(|()| roots));
        match read {
            Ok(roots) => {
                self.roots.accepted();
                self.known_roots = Some(roots);
                true
            }
            Err(error) => {
                ticked.problems.push(format!("roots are refused: {error}"));
                self.roots.refused();
                false
            }
        }
    }

    /// Loads the document `mesh` into every policy.
    fn load_mesh(&mut self, ticked: &mut Ticked) {
        let Some(roots) = &self.known_roots else {
            return;
        };
        let default = self
            .known_default
            .as_ref()
            .map(|(policy, source)| (*policy, source.as_str()));
        let document = mesh_document(
            &self.settings,
            roots,
            default,
            self.known_normalization.as_deref(),
        );
        match document {
            Ok(body) => {
                if !self.load("mesh".to_owned(), &|_| body.clone(), ticked) {
                    self.roots.refused();
                }
            }
            Err(error) => ticked.problems.push(error),
        }
    }

    fn load_intentions(&mut self, list: &str, ticked: &mut Ticked) {
        let body = |protocol| service_document(protocol, list);
        if self.load(self.settings.service.document(), &body, ticked) {
            self.intentions.accepted();
        } else {
            self.intentions.refused();
        }
    }

    /// Loads one document into every policy; whether all took it.
    fn load(
        &mut self,
        name: String,
        body: &dyn Fn(Protocol) -> Vec<u8>,
        ticked: &mut Ticked,
    ) -> bool {
        self.generation = self.generation.saturating_add(1);
        let mut is_taken = true;
        for (protocol, policy) in &mut self.policies {
            let document = Document {
                name: name.clone(),
                body: Some(body(*protocol)),
                confirmed_at: Timestamp::from_millis(0),
            };
            let report = policy.load(self.generation, vec![document]);
            is_taken &= report.refused.is_empty();
            for problem in report.refused.iter().chain(&report.warnings) {
                ticked.problems.push(in_words(problem));
            }
        }
        ticked.has_changed |= is_taken;
        is_taken
    }

    /// Tells the policies how old their documents are.
    fn touch(&mut self, now: u64, wall: Timestamp) {
        let at = |topic: &Topic| {
            let age = now.saturating_sub(topic.confirmed_at()?);
            Some(wall.saturating_sub_millis(age))
        };
        let mesh = at(&self.roots);
        let service = at(&self.intentions);
        let name = self.settings.service.document();
        for (_, policy) in &mut self.policies {
            if let Some(at) = mesh {
                policy.touch(&["mesh".to_owned()], at);
            }
            if let Some(at) = service {
                policy.touch(std::slice::from_ref(&name), at);
            }
        }
    }

    /// The policy of a layer; made when it is first asked for, as only the filter's first
    /// connection tells where it stands.
    fn prepare(&mut self, shelf: &impl Shelf, layer: Layer, now: u64, wall: Timestamp) {
        let protocol = self.protocol(layer);
        if self.policies.iter().any(|(known, _)| *known == protocol) {
            return;
        }
        self.policies
            .push((protocol, Policy::new(chain::rustcrypto())));
        let mut ticked = Ticked::default();
        self.load_mesh(&mut ticked);
        self.intentions.again();
        self.take_over(shelf, now, &mut ticked);
        self.touch(now, wall);
    }

    /// What is decided. Before everything is known it is denied as `not-ready`.
    pub fn authorize(
        &mut self,
        shelf: &impl Shelf,
        layer: Layer,
        client: &Client,
        request: Option<&Request>,
        now: u64,
        wall: Timestamp,
    ) -> Decision {
        self.prepare(shelf, layer, now, wall);
        let generation = self.generation();
        if !self.is_ready(layer) {
            return Decision::denied(Reason::NotReady, generation);
        }
        let protocol = self.protocol(layer);
        let policy = self
            .policies
            .iter_mut()
            .find_map(|(known, policy)| (*known == protocol).then_some(policy));
        match policy {
            Some(policy) => Decision {
                generation,
                ..policy.authorize(&self.target, client, request, wall)
            },
            None => Decision::denied(Reason::PolicyFailed, generation),
        }
    }

    /// Verifies a certificate that Envoy has not verified, with the intermediates that the
    /// agent lists and those that the peer presented.
    ///
    /// # Errors
    /// As [`Policy::verify_peer`].
    pub fn verify(
        &mut self,
        shelf: &impl Shelf,
        layer: Layer,
        leaf: &[u8],
        presented: &[Vec<u8>],
        now: u64,
        wall: Timestamp,
    ) -> Result<VerifiedPeer, VerifyError> {
        self.prepare(shelf, layer, now, wall);
        let mut certificates = vec![leaf.to_vec()];
        certificates.extend_from_slice(presented);
        let listed = self.known_roots.iter().flat_map(|roots| {
            roots
                .intermediates
                .iter()
                .flat_map(|pem| super::Peer::certificates(pem))
        });
        for certificate in listed {
            let bytes: usize = certificates.iter().map(Vec::len).sum();
            let fits = certificates.len() < chain::MAX_CERTIFICATES
                && bytes.saturating_add(certificate.len()) <= chain::MAX_CHAIN_BYTES;
            if fits && !certificates.contains(&certificate) {
                certificates.push(certificate);
            }
        }
        let protocol = self.protocol(layer);
        self.policies
            .iter_mut()
            .find_map(|(known, policy)| (*known == protocol).then_some(policy))
            .ok_or(VerifyError::RootsNotLoaded)?
            .verify_peer(&certificates, Usage::Client, None, wall)
    }

    /// The number of the roots in force: what was verified with others counts no more.
    #[must_use]
    pub fn roots_number(&self) -> u64 {
        self.roots.number()
    }

    /// A decision in one sentence.
    #[must_use]
    pub fn describe(&self, layer: Layer, decision: &Decision) -> String {
        let protocol = self.protocol(layer);
        let policy = self
            .policies
            .iter()
            .find_map(|(known, policy)| (*known == protocol).then_some(policy));
        match policy {
            Some(policy) => {
                let decision = Decision {
                    generation: policy.generation(),
                    ..decision.clone()
                };
                policy.describe(&self.target, &decision)
            }
            None => decision.code.to_string(),
        }
    }
}

/// The key under which workers share something: what differs between filters that must not
/// share it.
fn key(settings: &Settings, what: &str) -> String {
    let plain = |text: &str| text.replace('%', "%25").replace('/', "%2F");
    let or_none = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), plain);
    format!(
        "{}/{}/{}/{}/{what}",
        head::FORMAT,
        plain(&settings.agent.cluster),
        or_none(settings.agent.datacenter.as_deref()),
        or_none(settings.trust_domain.as_ref().map(|name| name.as_str())),
    )
}

/// The shortest name that the match query takes: without a licence it takes no partition.
fn query_name(destination: &Destination) -> String {
    destination.to_string()
}

fn published_default(value: &[u8]) -> Option<(AllowDeny, String)> {
    let (policy, source) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    Some((AllowDeny::parse(policy)?, source.to_owned()))
}

fn mesh_document(
    settings: &Settings,
    roots: &PublishedRoots,
    default: Option<(AllowDeny, &str)>,
    normalization: Option<&RawValue>,
) -> Result<Vec<u8>, String> {
    let (default_policy, default_policy_source) = match default {
        Some((AllowDeny::Allow, source)) => ("allow", source),
        Some((AllowDeny::Deny, source)) => ("deny", source),
        None => ("unknown", "auto"),
    };
    let document = MeshDocument {
        trust_domain: &roots.trust_domain,
        roots: &roots.roots,
        default_policy,
        default_policy_source,
        matching: settings.matching,
        ambiguous_path: settings.ambiguous_path,
        max_stale_ms: settings.max_stale_ms,
        request_normalization: normalization,
    };
    serde_json::to_vec(&document).map_err(|error| error.to_string())
}

fn service_document(protocol: Protocol, list: &str) -> Vec<u8> {
    format!(
        r#"{{"protocol":"{}","intentions":{list}}}"#,
        protocol.code()
    )
    .into_bytes()
}

/// Whether a policy would take a document.
fn trial(name: String, body: Vec<u8>) -> Result<(), String> {
    let document = Document {
        name,
        body: Some(body),
        confirmed_at: Timestamp::from_millis(0),
    };
    let report = Policy::new(chain::rustcrypto()).load(1, vec![document]);
    match report.refused.first() {
        Some(problem) => Err(in_words(problem)),
        None => Ok(()),
    }
}

fn in_words(problem: &LoadProblem) -> String {
    format!(
        "document `{}`{}{}: {}",
        problem.document,
        if problem.pointer.is_empty() {
            ""
        } else {
            " at "
        },
        problem.pointer,
        problem.text
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::FakeShelf;
    use super::*;
    use crate::intention::Effect;

    const WALL: u64 = 1_800_000_000_000;
    const WEB: &str = "spiffe://t.consul/ns/default/dc/dc1/svc/web";

    fn settings(more: &str) -> Settings {
        let text = format!(r#"{{"service":"db","agent":{{"cluster":"agent"}}{more}}}"#);
        Settings::parse(text.as_bytes()).unwrap()
    }

    fn root() -> String {
        portcullis_testkit::TestCa::new("t.consul").pem()
    }

    fn reply(index: u64, body: String) -> Reply {
        Reply {
            status: 200,
            headers: ReplyHeaders {
                index: Some(index),
                ..ReplyHeaders::default()
            },
            body: body.into_bytes(),
        }
    }

    fn roots_body(trust_domain: &str, root: &str) -> String {
        serde_json::json!({"ActiveRootID": "1", "TrustDomain": trust_domain, "Roots": [
            {"ID": "1", "Name": "", "RootCert": root, "IntermediateCerts": null, "Active": true}]})
        .to_string()
    }

    fn list(action: &str) -> String {
        format!(
            r#"{{"db":[{{"SourceName":"web","DestinationName":"db","SourceNS":"default","DestinationNS":"default","Action":"{action}","SourceType":"consul","Precedence":9}}]}}"#
        )
    }

    /// An agent that answers everything at once.
    struct Agent {
        root: String,
        list: String,
        index: u64,
        entry: (u16, String),
        default_policy: &'static str,
        asked: Vec<Asks>,
    }

    impl Agent {
        fn new(action: &str) -> Self {
            Self {
                root: root(),
                list: list(action),
                index: 1,
                entry: (404, String::new()),
                default_policy: "deny",
                asked: Vec::new(),
            }
        }

        fn answer(&mut self, supply: &mut Supply, shelf: &FakeShelf, now: u64) -> bool {
            let wall = Timestamp::from_millis(WALL + now);
            let mut ticked = supply.tick(shelf, now, wall);
            let mut requests = std::mem::take(&mut ticked.requests);
            while let Some((asks, request)) = requests.pop() {
                self.asked.push(asks);
                supply.sent(asks, now, request.read_timeout_ms);
                let answer = match asks {
                    Asks::Roots => reply(self.index, roots_body("t.consul", &self.root)),
                    Asks::Intentions => reply(self.index, self.list.clone()),
                    Asks::DefaultPolicy if request.path_and_query.contains("self") => Reply {
                        status: 403,
                        ..Reply::default()
                    },
                    Asks::DefaultPolicy => {
                        let allowed = self.default_policy == "allow";
                        let body = format!(
                            r#"{{"Authorized":{allowed},"Reason":"Default intention policy"}}"#
                        );
                        reply(1, body)
                    }
                    Asks::MeshEntry => Reply {
                        status: self.entry.0,
                        body: self.entry.1.clone().into_bytes(),
                        ..Reply::default()
                    },
                };
                if let Some(next) = supply.reply(shelf, asks, now, &answer) {
                    requests.push((asks, next));
                }
            }
            ticked.has_changed
        }
    }

    fn asked(supply: &mut Supply, shelf: &FakeShelf, now: u64, uri: &str) -> (Effect, Reason) {
        let wall = Timestamp::from_millis(WALL + now);
        let client = Client::from_uri(uri);
        let decision = supply.authorize(shelf, Layer::Connections, &client, None, now, wall);
        (decision.effect, decision.code)
    }

    /// Ticks of half a second from `from` to `to`.
    fn run(agent: &mut Agent, shelf: &FakeShelf, supplies: &mut [Supply], from: u64, to: u64) {
        for now in (from..=to).step_by(500) {
            for supply in &mut *supplies {
                agent.answer(supply, shelf, now);
            }
        }
    }

    #[test]
    fn one_worker_asks_and_all_decide_alike() {
        let shelf = FakeShelf::default();
        let mut agent = Agent::new("allow");
        let mut workers: Vec<Supply> = (1..4).map(|n| Supply::new(settings(""), n)).collect();
        assert_eq!(
            asked(&mut workers[0], &shelf, 0, WEB),
            (Effect::Deny, Reason::NotReady)
        );
        run(&mut agent, &shelf, &mut workers, 0, 3_000);
        let other = "spiffe://t.consul/ns/default/dc/dc1/svc/other";
        let foreign = "spiffe://other.consul/ns/default/dc/dc1/svc/web";
        for worker in &mut workers {
            let mut ask = |uri| asked(worker, &shelf, 3_000, uri);
            assert_eq!(ask(WEB), (Effect::Allow, Reason::Intention));
            assert_eq!(ask(other), (Effect::Deny, Reason::DefaultPolicy));
            assert_eq!(ask(foreign), (Effect::Deny, Reason::ForeignTrustDomain));
        }
        let generations: Vec<u64> = workers.iter().map(Supply::generation).collect();
        assert_eq!(generations, [generations[0]; 3]);
        agent.list = list("deny");
        agent.index = 2;
        run(&mut agent, &shelf, &mut workers, 4_000, 6_000);
        for worker in &mut workers {
            assert_eq!(
                asked(worker, &shelf, 6_000, WEB),
                (Effect::Deny, Reason::Intention)
            );
            assert!(worker.generation() > generations[0]);
        }
    }

    #[test]
    fn a_change_is_told_to_every_worker_once() {
        let shelf = FakeShelf::default();
        let mut agent = Agent::new("allow");
        let mut workers: Vec<Supply> = (1..3).map(|n| Supply::new(settings(""), n)).collect();
        for worker in &mut workers {
            asked(worker, &shelf, 0, WEB);
        }
        run(&mut agent, &shelf, &mut workers, 0, 3_000);
        agent.list = list("deny");
        agent.index = 2;
        for worker in &mut workers {
            let changes = (3_500..8_000)
                .step_by(500)
                .filter(|now| agent.answer(worker, &shelf, *now))
                .count();
            assert_eq!(changes, 1);
        }
    }

    #[test]
    fn without_the_agent_the_last_good_decides_within_the_budget() {
        let shelf = FakeShelf::default();
        let mut agent = Agent::new("allow");
        let settings = settings(r#","max_stale_ms":10000,"default_policy":"deny""#);
        let mut worker = [Supply::new(settings, 1)];
        run(&mut agent, &shelf, &mut worker, 0, 3_000);
        let [worker] = &mut worker;
        for now in (3_500..20_000).step_by(500) {
            let wall = Timestamp::from_millis(WALL + now);
            let ticked = worker.tick(&shelf, now, wall);
            for (asks, _) in ticked.requests {
                worker.failed(asks, now, "connection refused");
            }
            let stale = now - 3_000 > 10_000;
            let expected = if stale {
                (Effect::Deny, Reason::Stale)
            } else {
                (Effect::Allow, Reason::Intention)
            };
            assert_eq!(asked(worker, &shelf, now, WEB), expected, "{now}");
        }
        assert!(
            worker
                .errors()
                .any(|(_, error)| error == "connection refused")
        );
    }

    #[test]
    fn the_default_is_asked_for_and_ages() {
        let shelf = FakeShelf::default();
        let mut agent = Agent::new("deny");
        agent.default_policy = "allow";
        let mut worker = [Supply::new(settings(r#","max_stale_ms":10000"#), 1)];
        run(&mut agent, &shelf, &mut worker, 0, 3_000);
        let [worker] = &mut worker;
        let other = "spiffe://t.consul/ns/default/dc/dc1/svc/other";
        assert_eq!(
            asked(worker, &shelf, 3_000, other),
            (Effect::Allow, Reason::DefaultPolicy)
        );
        assert_eq!(
            asked(worker, &shelf, 3_000, WEB),
            (Effect::Deny, Reason::Intention)
        );
    }

    #[test]
    fn another_trust_domain_than_the_configured_is_refused() {
        let shelf = FakeShelf::default();
        let mut agent = Agent::new("allow");
        let mut worker = [Supply::new(settings(r#","trust_domain":"u.consul""#), 1)];
        run(&mut agent, &shelf, &mut worker, 0, 3_000);
        let [worker] = &mut worker;
        assert_eq!(
            asked(worker, &shelf, 3_000, WEB),
            (Effect::Deny, Reason::NotReady)
        );
        assert!(
            worker
                .errors()
                .any(|(asks, error)| asks == Asks::Roots && error.contains("u.consul"))
        );
    }

    #[test]
    fn requests_are_judged_by_the_mesh_entry() {
        let shelf = FakeShelf::default();
        let mut agent = Agent::new("allow");
        agent.entry = (
            200,
            r#"{"HTTP":{"Incoming":{"RequestNormalization":{"MergeSlashes":true}}}}"#.to_owned(),
        );
        let mut worker = [Supply::new(settings(""), 1)];
        run(&mut agent, &shelf, &mut worker, 0, 3_000);
        let [worker] = &mut worker;
        let request = Request {
            method: b"GET".to_vec(),
            path: b"/a//b".to_vec(),
            headers: crate::http::encode_headers([(&b"host"[..], &b"db"[..])]).unwrap(),
            ..Request::default()
        };
        let client = Client::from_uri(WEB);
        let wall = Timestamp::from_millis(WALL);
        let decision = worker.authorize(
            &shelf,
            Layer::Requests,
            &client,
            Some(&request),
            3_000,
            wall,
        );
        assert_eq!(decision.effect, Effect::Allow);
        assert_eq!(decision.path.as_deref(), Some(&b"/a/b"[..]));
        let text = worker.describe(Layer::Requests, &decision);
        assert!(text.contains("web"), "{text}");
    }

    #[test]
    fn filters_share_what_is_the_same_and_nothing_else() {
        let shelf = FakeShelf::default();
        let mut agent = Agent::new("allow");
        let mut same = [
            Supply::new(settings(""), 1),
            Supply::new(settings(r#","mode":"shadow""#), 2),
        ];
        run(&mut agent, &shelf, &mut same, 0, 3_000);
        assert_eq!(same[0].generation(), same[1].generation());
        let keys = shelf.keys();
        assert!(
            keys.iter()
                .all(|key| key.starts_with("portcullis/1/agent/-/-/"))
        );
        for other in [
            r#"{"service":"db","agent":{"cluster":"other"}}"#,
            r#"{"service":"db","agent":{"cluster":"agent","datacenter":"dc2"}}"#,
            r#"{"service":"db","agent":{"cluster":"agent"},"trust_domain":"t.consul"}"#,
            r#"{"service":"db","agent":{"cluster":"agent/-"}}"#,
        ] {
            let other = key(&Settings::parse(other.as_bytes()).unwrap(), "roots");
            assert!(!keys.iter().any(|key| key.starts_with(&other)), "{other}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_read_is_not_published() {
        let shelf = FakeShelf::default();
        let mut agent = Agent::new("allow");
        let mut worker = [Supply::new(settings(""), 1)];
        run(&mut agent, &shelf, &mut worker, 0, 3_000);
        let [worker] = &mut worker;
        for broken in [r#"{"db":{}}"#, r#"{"other":[]}"#, "", r#"{"db":[1]"#] {
            agent.list = broken.to_owned();
            agent.index += 1;
            for now in (3_500..5_000).step_by(500) {
                agent.answer(worker, &shelf, now);
            }
            assert_eq!(
                asked(worker, &shelf, 5_000, WEB),
                (Effect::Allow, Reason::Intention),
                "{broken}"
            );
        }
        let key = shelf.key_with("intentions/default/default/db/value");
        assert!(shelf.text(&key).unwrap().contains("allow"));
    }
}
