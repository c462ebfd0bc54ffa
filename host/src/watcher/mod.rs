//! Follows the agent in the background and keeps the policy, the leaf and the
//! instances of upstreams current.
//!
//! Whatever goes wrong leaves the last good state in use, which ages visibly: see
//! [`Readiness`]. Without a first good answer there is no state, and everything is denied.

mod activity;
mod batch;
mod defaults;
mod entries;
mod follow;
mod hub;
mod instances;
mod intentions;
mod key_sets;
mod leaf;
mod peers;
mod providers;
mod registration;
mod roots;
mod state;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portcullis_core::agent::matches;
use portcullis_core::intention::{Matching, Protocol};
use portcullis_core::time::Timestamp;
use portcullis_core::watch::{Key, Mode, Settings};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use activity::WatchActivity;
pub use defaults::{DefaultPolicySource, find as find_default_policy};
pub use entries::{KnownProtocol, ProtocolError, protocol_of};
pub use hub::MeshRoots;
pub use instances::KnownEndpoints;
pub use key_sets::{KnownKeySet, KnownKeySets};
pub use peers::{KnownPeer, KnownPeers};
pub use registration::KnownRegistration;
pub(crate) use state::key;
pub use state::{DefaultPolicy, Lack, Part, Readiness};

use crate::agent_client::{AgentClient, AgentReply};
use crate::clock::Clock;
use crate::jwks::JwksSettings;
use crate::runtime::Policy;
use crate::tls::LeafStore;
use activity::Activity;
use follow::follow;
use hub::Hub;
use providers::KnownProviders;

/// How long the agent may hold a question.
pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// How many different upstreams are followed at once: each keeps a question open, and an
/// agent takes 200 connections of one client unless it is told otherwise.
const MOST_UPSTREAMS: usize = 128;

/// What to follow.
#[derive(Clone, Debug)]
pub struct WatcherConfig {
    /// The agent.
    pub agent: AgentClient,
    /// The policy that is kept current.
    pub policy: Policy,
    /// The clock.
    pub clock: Clock,
    /// Our service: its leaf and its intentions.
    pub service: String,
    /// Further destinations whose intentions are needed.
    pub destinations: Vec<String>,
    /// Where the default policy comes from.
    pub default_policy: DefaultPolicySource,
    /// The staleness budget; absent for none.
    pub max_stale: Option<Duration>,
    /// How what can be read in two ways is judged.
    pub matching: Matching,
    /// What our service speaks; the agent is asked if absent.
    pub protocol: Option<Protocol>,
    /// From whom keys of JWT providers are fetched; nobody by default.
    pub jwks: JwksSettings,
    /// How long a question to the agent may wait for a change.
    pub wait: Duration,
    /// Within how long after a change of roots another leaf is asked for, at random.
    pub leaf_spread: Duration,
}

impl WatcherConfig {
    /// The settings for `service`, with the staleness budget of 24 hours.
    #[must_use]
    pub fn new(agent: AgentClient, policy: Policy, service: impl Into<String>) -> Self {
        Self {
            agent,
            policy,
            clock: Clock::system(),
            service: service.into(),
            destinations: Vec::new(),
            default_policy: DefaultPolicySource::Auto,
            max_stale: Some(Duration::from_secs(24 * 3600)),
            matching: Matching::default(),
            protocol: None,
            jwks: JwksSettings::default(),
            wait: WAIT,
            leaf_spread: Duration::from_secs(10),
        }
    }
}

/// The watchers. Clones share them; the last one dropped ends them.
#[derive(Clone)]
pub struct Watcher(Arc<Inner>);

struct Inner {
    config: WatcherConfig,
    hub: Arc<Hub>,
    leaf: Arc<LeafStore>,
    refresh_leaf: Arc<Notify>,
    activity: Activity,
    tasks: TaskTracker,
    ended: CancellationToken,
    _guard: DropGuard,
    upstreams: Mutex<Upstreams>,
    protocol: watch::Sender<KnownProtocol>,
    given_protocol: watch::Sender<Option<Protocol>>,
    protocols: Mutex<HashMap<String, Spoken>>,
    providers: watch::Sender<KnownProviders>,
    key_sets: watch::Sender<KnownKeySets>,
    peers: watch::Sender<KnownPeers>,
}

/// What an upstream speaks, followed until this is dropped.
struct Spoken {
    known: watch::Sender<KnownProtocol>,
    _guard: DropGuard,
}

/// What is followed, by service and datacenter.
type Upstreams = HashMap<(String, Option<String>), Followed>;

/// A service whose instances are followed, until this is dropped.
struct Followed {
    known: watch::Sender<KnownEndpoints>,
    _guard: DropGuard,
}

impl Watcher {
    /// Starts to follow. Needs a tokio runtime; returns at once.
    #[must_use]
    pub fn start(config: WatcherConfig) -> Self {
        let hub = Hub::new(
            config.policy.clone(),
            config.clock.clone(),
            config.max_stale,
            config.matching,
        );
        let ended = CancellationToken::new();
        let watcher = Self(Arc::new(Inner {
            leaf: Arc::new(LeafStore::new()),
            refresh_leaf: Arc::new(Notify::new()),
            activity: Activity::default(),
            tasks: TaskTracker::new(),
            _guard: ended.clone().drop_guard(),
            ended,
            upstreams: Mutex::default(),
            protocol: watch::Sender::default(),
            given_protocol: watch::Sender::new(config.protocol),
            protocols: Mutex::default(),
            providers: watch::Sender::default(),
            key_sets: watch::Sender::default(),
            peers: watch::Sender::default(),
            hub,
            config,
        }));
        watcher.0.follow_own();
        watcher
    }

    /// What there is and what is missing.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.0.hub.readiness().borrow().clone()
    }

    /// Tells of every change of [`Watcher::readiness`].
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Readiness> {
        self.0.hub.readiness()
    }

    /// What the watches have done so far, by kind.
    #[must_use]
    pub fn activity(&self) -> BTreeMap<&'static str, WatchActivity> {
        self.0.activity.snapshot()
    }

    /// Trust domain and roots in force; none before the first good answer.
    #[must_use]
    pub fn roots(&self) -> Option<MeshRoots> {
        self.0.hub.roots().borrow().clone()
    }

    /// Tells of every change of [`Watcher::roots`].
    #[must_use]
    pub fn subscribe_roots(&self) -> watch::Receiver<Option<MeshRoots>> {
        self.0.hub.roots()
    }

    /// What holds when no intention matches; none before it was looked for.
    pub async fn default_policy(&self) -> Option<DefaultPolicy> {
        self.0.hub.default_policy().await
    }

    /// Waits until nothing is missing.
    pub async fn ready(&self) {
        let mut readiness = self.subscribe();
        let clock = &self.0.config.clock;
        // The sender lives as long as this watcher.
        let _ = readiness
            .wait_for(|readiness| readiness.is_ready(clock.now()))
            .await;
    }

    /// Our leaf.
    #[must_use]
    pub fn leaf(&self) -> &Arc<LeafStore> {
        &self.0.leaf
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &WatcherConfig {
        &self.0.config
    }

    /// What our own service speaks.
    #[must_use]
    pub fn protocol(&self) -> watch::Receiver<KnownProtocol> {
        self.0.protocol.subscribe()
    }

    /// How many JWT providers there are, and why that is not known, if so; nothing
    /// before it was looked for, which only a service that speaks HTTP does.
    #[must_use]
    pub fn jwt_providers(&self) -> Option<(usize, Option<String>)> {
        let known = self.0.providers.borrow();
        known
            .is_looked_for
            .then(|| (known.count, known.error.clone()))
    }

    /// The keys of JWT providers that are fetched or read from files.
    #[must_use]
    pub fn key_sets(&self) -> KnownKeySets {
        self.0.key_sets.borrow().clone()
    }

    /// The cluster peers that intentions name, with their bundles or why they have none.
    #[must_use]
    pub fn peers(&self) -> KnownPeers {
        self.0.peers.borrow().clone()
    }

    /// Tells of every change of [`Watcher::peers`].
    #[must_use]
    pub fn subscribe_peers(&self) -> watch::Receiver<KnownPeers> {
        self.0.peers.subscribe()
    }

    /// Says what our own service speaks, or with nothing that the agent is asked, whatever
    /// the settings said.
    pub fn give_protocol(&self, protocol: Option<Protocol>) {
        self.0
            .given_protocol
            .send_if_modified(|given| std::mem::replace(given, protocol) != protocol);
    }

    /// What an upstream speaks, followed from the first call on.
    #[must_use]
    pub fn upstream_protocol(&self, service: &str) -> watch::Receiver<KnownProtocol> {
        let inner = &self.0;
        let mut protocols = inner
            .protocols
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(spoken) = protocols.get(service) {
            return spoken.known.subscribe();
        }
        let known = watch::Sender::<KnownProtocol>::default();
        let receiver = known.subscribe();
        let ended = inner.ended.child_token();
        let _guard = ended.clone().drop_guard();
        let following = entries::follow_upstream(
            inner.config.agent.clone(),
            service.to_owned(),
            known.clone(),
            inner.config.max_stale,
        );
        protocols.insert(service.to_owned(), Spoken { known, _guard });
        inner.spawn(async move { ended.run_until_cancelled(following).await });
        receiver
    }

    /// Asks for another leaf now, without waiting for the agent's time.
    pub fn refresh_leaf(&self) {
        self.0.refresh_leaf.notify_one();
    }

    /// The instances of a service, followed from the first call on.
    ///
    /// # Errors
    /// When too many different upstreams are followed already.
    pub fn endpoints(
        &self,
        service: &str,
        datacenter: Option<&str>,
    ) -> Result<watch::Receiver<KnownEndpoints>, String> {
        let inner = &self.0;
        let key = (service.to_owned(), datacenter.map(str::to_owned));
        let mut upstreams = inner
            .upstreams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = upstreams.get(&key) {
            return Ok(known.known.subscribe());
        }
        if upstreams.len() >= MOST_UPSTREAMS {
            return Err(format!("more than {MOST_UPSTREAMS} upstreams"));
        }
        let sender = watch::Sender::new(KnownEndpoints::default());
        let receiver = sender.subscribe();
        let subject = instances::Instances {
            service: service.to_owned(),
            datacenter: key.1.clone(),
            roots: inner.hub.roots(),
            known: sender.clone(),
            trust_domain: None,
            failed_at: None,
            holding: false,
        };
        let ended = inner.ended.child_token();
        let _guard = ended.clone().drop_guard();
        let known = sender;
        upstreams.insert(key, Followed { known, _guard });
        let following = follow(
            subject,
            inner.config.agent.clone(),
            inner.settings(),
            Arc::new(Notify::new()),
            inner.activity.clone(),
        );
        inner.spawn(async move { ended.run_until_cancelled(following).await });
        Ok(receiver)
    }

    /// The registration with this ID on the agent, followed from now on.
    #[must_use]
    pub fn registration(&self, id: &str) -> watch::Receiver<KnownRegistration> {
        let (known, receiver) = watch::channel(KnownRegistration::default());
        let subject = registration::Registered {
            id: id.to_owned(),
            known,
        };
        let settings = Settings {
            key: Key::Hash,
            ..self.0.settings()
        };
        let agent = self.0.config.agent.clone();
        self.0.spawn(follow(
            subject,
            agent,
            settings,
            Arc::new(Notify::new()),
            self.0.activity.clone(),
        ));
        receiver
    }

    /// Follows the instances of a service no longer, nor what services speak that nobody uses.
    /// Who still holds a receiver of [`Watcher::upstream_protocol`] uses one.
    pub fn forget(&self, service: &str, datacenter: Option<&str>) {
        let key = (service.to_owned(), datacenter.map(str::to_owned));
        let mut upstreams = self
            .0
            .upstreams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        upstreams.remove(&key);
        let mut protocols = self
            .0
            .protocols
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        protocols.retain(|service, spoken| {
            spoken.known.receiver_count() > 0 || upstreams.keys().any(|(name, _)| name == service)
        });
    }

    /// Ends all watchers and waits for them.
    pub async fn stop(&self) {
        self.0.ended.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Inner {
    fn follow_own(&self) {
        let (agent, hub) = (&self.config.agent, &self.hub);
        let roots = roots::Roots {
            hub: Arc::clone(hub),
            refused: None,
        };
        self.spawn(follow(
            roots,
            agent.clone(),
            self.settings(),
            Arc::new(Notify::new()),
            self.activity.clone(),
        ));

        let leaf = leaf::Leaf {
            hub: Arc::clone(hub),
            service: self.config.service.clone(),
            store: Arc::clone(&self.leaf),
            refused: None,
        };
        self.spawn(follow(
            leaf,
            agent.clone(),
            self.settings(),
            Arc::clone(&self.refresh_leaf),
            self.activity.clone(),
        ));
        let (store, refresh) = (Arc::clone(&self.leaf), Arc::clone(&self.refresh_leaf));
        self.spawn(leaf::renew(
            Arc::clone(hub),
            store,
            refresh,
            self.config.leaf_spread,
        ));

        let own = vec![self.config.service.clone()];
        let own = intentions::Intentions::new(Arc::clone(hub), own, true);
        let own = follow(
            own,
            agent.clone(),
            self.settings(),
            Arc::new(Notify::new()),
            self.activity.clone(),
        );
        self.spawn(entries::follow_own(
            Arc::clone(hub),
            agent.clone(),
            self.config.service.clone(),
            self.given_protocol.subscribe(),
            self.protocol.clone(),
            self.config.max_stale,
        ));
        let mut protocol = self.protocol.subscribe();
        let mut providers = self.providers.subscribe();
        self.spawn(async move {
            // Intentions are about a protocol.
            let known = protocol.wait_for(|known| known.protocol.is_some()).await;
            let Ok(protocol) = known.map(|known| known.protocol) else {
                return;
            };
            // What requires a token is not judged before somebody has looked for providers.
            let looked = async {
                providers
                    .wait_for(|known| known.is_looked_for)
                    .await
                    .is_ok()
            };
            if protocol == Some(Protocol::Tcp) || looked.await {
                own.await;
            }
        });
        self.spawn(key_sets::keep(
            Arc::clone(hub),
            self.config.jwks.clone(),
            self.providers.subscribe(),
            self.key_sets.clone(),
        ));
        self.spawn(peers::follow_named(
            Arc::clone(hub),
            agent.clone(),
            self.settings(),
            self.activity.clone(),
        ));
        self.spawn(peers::keep(Arc::clone(hub), self.peers.clone()));
        let subject = providers::Providers {
            hub: Arc::clone(hub),
            known: self.providers.clone(),
        };
        let providers = follow(
            subject,
            agent.clone(),
            self.settings(),
            Arc::new(Notify::new()),
            self.activity.clone(),
        );
        let mut protocol = self.protocol.subscribe();
        self.spawn(async move {
            // Nobody shows a token to a service that speaks anything else.
            let is_http = |known: &KnownProtocol| {
                known
                    .protocol
                    .is_some_and(|protocol| protocol != Protocol::Tcp)
            };
            if protocol.wait_for(is_http).await.map(drop).is_ok() {
                providers.await;
            }
        });
        let mut others = self.config.destinations.clone();
        others.retain(|name| *name != self.config.service);
        others.sort_unstable();
        others.dedup();
        for names in matches::batches(&others) {
            let (names, settings) = (names.to_vec(), self.settings());
            self.spawn(batch::follow_batch(
                Arc::clone(hub),
                agent.clone(),
                settings,
                names,
                self.activity.clone(),
            ));
        }

        let service = self.config.service.clone();
        self.spawn(defaults::discover(
            Arc::clone(hub),
            agent.clone(),
            service,
            self.config.default_policy,
            self.config.max_stale,
        ));
    }

    /// Asks often enough that an agent which has nothing new confirms that within the
    /// staleness budget, with room for a slow one.
    fn settings(&self) -> Settings {
        let wait = match self.config.max_stale {
            Some(budget) => self.config.wait.min(budget / 4),
            None => self.config.wait,
        };
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        Settings {
            mode: Mode::Blocking { wait_ms },
            seed: rand::random(),
            ..Settings::default()
        }
    }

    fn spawn<T: Send>(&self, task: impl Future<Output = T> + Send + 'static) {
        let ended = self.ended.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                _ = task => {}
                () = ended.cancelled() => {}
            }
        });
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Watcher")
            .field("service", &self.0.config.service)
            .finish_non_exhaustive()
    }
}

/// As of when a reply holds: an agent's cache says how long it has not been confirmed.
fn confirmed_at(reply: &AgentReply, clock: &Clock) -> Timestamp {
    let header = |name: &str| {
        reply
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let cached = header("x-cache").is_some_and(|cache| cache.eq_ignore_ascii_case("hit"));
    let age: Option<u64> = header("age")
        .filter(|_| cached)
        .and_then(|age| age.parse().ok());
    clock
        .now()
        .saturating_sub_millis(age.unwrap_or(0).saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_client::AgentConfig;
    use crate::runtime::aws_lc;

    #[tokio::test]
    async fn what_an_upstream_speaks_is_followed_while_somebody_uses_it() {
        let agent = AgentClient::new(AgentConfig::default()).unwrap();
        let config = WatcherConfig::new(agent, Policy::native(aws_lc()), "web");
        let watcher = Watcher::start(config);
        let is_followed = || watcher.0.protocols.lock().unwrap().contains_key("db");
        let used = watcher.upstream_protocol("db");
        // Another listener, of another datacenter, was dialled and is gone.
        drop(watcher.endpoints("db", Some("dc2")).unwrap());
        watcher.forget("db", Some("dc2"));
        assert!(is_followed(), "its listener was never dialled");
        drop(used);
        watcher.forget("other", None);
        assert!(!is_followed());
        watcher.stop().await;
    }
}
