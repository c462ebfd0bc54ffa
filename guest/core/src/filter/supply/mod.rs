//! The policy of one filter: what it follows, what it has loaded, what it decides.

mod documents;
mod judging;
mod loading;
mod peers;
mod replies;
#[cfg(test)]
mod tests;
mod tokens;

use serde_json::value::RawValue;

use self::documents::PublishedRoots;
use self::peers::Peers;
pub use self::replies::Reply;
pub use self::tokens::Route;
use self::tokens::Tokens;
use super::settings::{DefaultPolicySetting, Settings};
use super::topic::Topic;
use super::{Shelf, head};
use crate::agent::{AllowDeny, HttpRequest};
use crate::intention::Protocol;
use crate::policy::Policy;
use crate::time::Timestamp;
use crate::watch::{Mode, Settings as WatchSettings};

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
    /// The cluster peers, while intentions name one.
    Peerings,
    /// The `jwt-provider` config entries, while intentions name one.
    Providers,
    /// The keys of a provider, by a number of the supply.
    Keys(u32),
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
            Self::Peerings => "peerings",
            Self::Providers => "jwt providers",
            Self::Keys(_) => "keys of a provider",
        }
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
    peers: Peers,
    tokens: Tokens,
    /// `agent/self` did not tell: the agent is probed.
    is_probing: bool,
    probes: u64,
    known_roots: Option<PublishedRoots>,
    /// The policies did not take the document `mesh` with these roots.
    is_mesh_refused: bool,
    /// The default policy that was published last, however old.
    published_default: Option<(AllowDeny, String)>,
    known_default: Option<(AllowDeny, String)>,
    known_normalization: Option<Box<RawValue>>,
    policies: Vec<(Protocol, Policy)>,
    /// What a policy that was made between two ticks led to.
    pending: Ticked,
    generation: u64,
    /// Rises when it changes whose certificates are believed.
    anchors: u64,
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
            // A relay tells each service of its own peers alone.
            peers: Peers::new(topic(&format!("peerings/{service}"), blocking)),
            // A relay tells each service of its own alone.
            tokens: Tokens::new(
                &settings,
                topic(&format!("jwt-providers/{service}"), blocking),
            ),
            is_probing: false,
            probes: 0,
            known_roots: None,
            is_mesh_refused: false,
            published_default: None,
            known_default,
            known_normalization,
            policies: Vec::new(),
            pending: Ticked::default(),
            generation: 0,
            anchors: 0,
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
        self.topics().fold(self.tokens.number(), |sum, (_, topic)| {
            sum.saturating_add(topic.number())
        })
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
            Some((Asks::Peerings, &self.peers.topic)),
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
            Asks::Peerings => Some(&mut self.peers.topic),
            Asks::Providers => Some(&mut self.tokens.providers),
            Asks::Keys(id) => self.tokens.key_topic(id),
        }
    }

    /// The failures that the agent's replies led to, if this worker leads.
    pub fn errors(&self) -> impl Iterator<Item = (Asks, &str)> {
        let providers = [(Asks::Providers, &self.tokens.providers)];
        self.topics()
            .chain(providers)
            .filter_map(|(asks, topic)| Some((asks, topic.last_error()?)))
            .chain(self.tokens.errors())
    }

    /// Whether this worker asks for it.
    #[must_use]
    pub fn leads(&self, asks: Asks) -> bool {
        let keys = match asks {
            Asks::Keys(id) => return self.tokens.leads(id),
            Asks::Providers => Some((asks, &self.tokens.providers)),
            _ => None,
        };
        let mut topics = self.topics().chain(keys);
        topics.any(|(other, topic)| other == asks && topic.leads())
    }

    /// What is asked for, in words, and of whom.
    #[must_use]
    pub fn subject(&self, asks: Asks) -> String {
        let keys = match asks {
            Asks::Keys(id) => self.tokens.subject(id),
            _ => None,
        };
        keys.unwrap_or_else(|| format!("{} from the agent", asks.name()))
    }

    /// Where a request goes.
    #[must_use]
    pub fn route(&self, asks: Asks) -> Route<'_> {
        let keys = match asks {
            Asks::Keys(id) => self.tokens.route(id),
            _ => None,
        };
        keys.unwrap_or(Route {
            cluster: &self.settings.agent.cluster,
            authority: &self.settings.agent.authority,
            scheme: "http",
        })
    }

    /// The most that a reply may weigh, where that is less than for others.
    #[must_use]
    pub const fn limit(asks: Asks) -> usize {
        match asks {
            Asks::Keys(_) => crate::jwt::MAX_KEY_SET,
            _ => usize::MAX,
        }
    }

    /// Whether a rule asks for a token.
    #[must_use]
    pub fn asks_for_tokens(&self) -> bool {
        self.tokens.are_asked_for()
    }

    /// Whether providers or keys that rules need have been asked for and have not come yet:
    /// requests can wait for them a moment.
    #[must_use]
    pub const fn awaits_tokens(&self) -> bool {
        self.tokens.is_awaited()
    }

    /// How many peers that intentions name have no bundle: nobody of them is let in.
    #[must_use]
    pub fn peers_without_bundle(&self) -> usize {
        self.peers.lacking()
    }

    /// How many JWT providers that intentions name are not known, or have no keys that count: no
    /// token of theirs is good.
    #[must_use]
    pub fn providers_without_keys(&self) -> usize {
        self.tokens.lacking()
    }

    /// How long ago the oldest of the fetched keys in force were confirmed, in milliseconds.
    #[must_use]
    pub fn keys_age(&self, now: u64) -> Option<u64> {
        let confirmed = self.tokens.ages().map(|(_, at)| at).min()?;
        Some(now.saturating_sub(confirmed))
    }

    /// Takes over what was published, and gives the requests that are due. To be called about
    /// twice a second; `wall` is the present time by the clock of certificates.
    pub fn tick(&mut self, shelf: &impl Shelf, now: u64, wall: Timestamp) -> Ticked {
        let mut ticked = std::mem::take(&mut self.pending);
        for asks in [
            Asks::Roots,
            Asks::Intentions,
            Asks::DefaultPolicy,
            Asks::MeshEntry,
            Asks::Peerings,
            Asks::Providers,
        ] {
            let rests = match asks {
                Asks::Peerings => self.peers.rest(shelf, now),
                Asks::Providers => self.tokens.rest(shelf, now),
                _ => false,
            };
            if rests {
                continue;
            }
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
        // Of the key sets that are wanted now.
        for (asks, request) in self.tokens.due(shelf, now) {
            match request {
                Ok(request) => ticked.requests.push((asks, request)),
                Err(error) => self.failed(asks, now, &error.to_string()),
            }
        }
        self.touch(now, wall);
        ticked
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
}

/// The key under which workers share something: what differs between filters that must not
/// share it.
fn key(settings: &Settings, what: &str) -> String {
    let plain = |text: &str| text.replace('%', "%25").replace('/', "%2F");
    let or_none = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), plain);
    // Whoever asks seldom would let the policy of others grow too old.
    let (wait_ms, max_stale_ms) = (settings.agent.wait_ms, settings.max_stale_ms);
    format!(
        "{}/{}/{}/{}/{wait_ms}-{max_stale_ms}/{what}",
        head::FORMAT,
        plain(&settings.agent.cluster),
        or_none(settings.agent.datacenter.as_deref()),
        or_none(settings.trust_domain.as_ref().map(|name| name.as_str())),
    )
}
