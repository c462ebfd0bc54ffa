//! The policy as the host asks it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_core::chain::{Algorithms, Usage, VerifiedPeer, VerifyErrorKind};
use portcullis_core::identity::SpiffeId;
use portcullis_core::intention::{Decision, Reason};
use portcullis_core::policy::{
    self as core, Client, Document, HeaderNeeds, LoadReport, Request, Trace,
};
use portcullis_core::time::Timestamp;
use tokio::sync::watch;

use super::answer::{Failure, IdentityError, VerifyError};
use super::component::Component;
use super::documents::MeshVersion;
use super::limits::Limits;
use super::native::Native;
use super::pool::{Counts, Pool};
use super::trial;

/// The code of errors for which the policy itself is to blame.
const FAILED: &str = "policy-failed";

/// Threads read the clock one after the other and ask in another order; less than
/// this is no clock that was set back.
const CLOCK_SLACK: u64 = 1_000;

/// How a policy is run.
#[derive(Clone, Copy, Debug)]
pub struct PolicyOptions {
    /// Instances at most, which answer at the same time. Default: one for each processor.
    pub instances: usize,
    /// What each may use.
    pub limits: Limits,
}

impl Default for PolicyOptions {
    fn default() -> Self {
        let processors =
            std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        Self {
            instances: processors,
            limits: Limits::default(),
        }
    }
}

/// The policy itself failed: a trap, a limit, a deadline, an impossible answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No instance could be made.
    #[error("{component} cannot be started: {detail}")]
    Start {
        /// Which component.
        component: String,
        /// Why.
        detail: String,
    },
    /// It failed while it read documents; what was in force before still is.
    #[error(
        "{component} failed while it loaded {documents}: {detail}; the last good policy stays in force"
    )]
    Load {
        /// Which component.
        component: String,
        /// The documents.
        documents: String,
        /// Why.
        detail: String,
    },
    /// Another component cannot take over; the one before goes on.
    #[error("{component} does not take over: {detail}; {before} stays in use")]
    Replace {
        /// Which component.
        component: String,
        /// Why.
        detail: String,
        /// The one that decides.
        before: String,
    },
    /// It failed while it answered.
    #[error("{component} failed: {detail}")]
    Answer {
        /// Which component.
        component: String,
        /// Why.
        detail: String,
    },
}

/// A policy: decisions by a component, from documents that can be replaced at any
/// time. Clones share it, and it can be asked from any thread.
///
/// Whatever goes wrong in the component is a denial: [`Reason::PolicyFailed`].
#[derive(Clone)]
pub struct Policy(Arc<Inner>);

struct Inner {
    engine: Engine,
    published: watch::Sender<u64>,
    /// The latest moment asked about since the last confirmation: instances must
    /// agree about it, so that a clock set back makes nothing fresh.
    latest: AtomicU64,
}

enum Engine {
    Component(Box<Pool>),
    Native(Box<Native>),
}

impl Policy {
    /// A policy without documents, decided by `component`.
    ///
    /// # Errors
    /// When no instance of the component can be made.
    pub fn new(component: &Component, options: PolicyOptions) -> Result<Self, PolicyError> {
        let pool = Pool::new(component, options.limits, options.instances).map_err(
            |Failure(detail)| PolicyError::Start {
                component: component.name().to_owned(),
                detail,
            },
        )?;
        Ok(Self::with(Engine::Component(Box::new(pool))))
    }

    /// A policy without documents, decided by the core itself without WebAssembly.
    /// For `eval`, tests and benchmarks: what serves connections asks a component.
    #[must_use]
    pub fn native(algorithms: Algorithms) -> Self {
        Self::with(Engine::Native(Box::new(Native::new(algorithms))))
    }

    fn with(engine: Engine) -> Self {
        Self(Arc::new(Inner {
            engine,
            published: watch::Sender::new(0),
            latest: AtomicU64::new(0),
        }))
    }

    /// The component that decides; none for [`Policy::native`].
    #[must_use]
    pub fn component(&self) -> Option<Component> {
        match &self.0.engine {
            Engine::Component(pool) => Some(pool.component()),
            Engine::Native(_) => None,
        }
    }

    /// Replaces the named documents and publishes a new generation, as soon as every
    /// instance has it. Documents that are refused are listed in the report; their
    /// predecessors stay in force.
    ///
    /// # Errors
    /// When the component fails: then nothing was replaced.
    pub fn load(&self, changes: Vec<Document>) -> Result<LoadReport, PolicyError> {
        let report = match &self.0.engine {
            Engine::Component(pool) => {
                pool.load(&changes, || self.publish())
                    .map_err(|Failure(detail)| PolicyError::Load {
                        component: pool.component().name().to_owned(),
                        documents: names(&changes),
                        detail,
                    })?
            }
            Engine::Native(native) => {
                let report = native.state().load(changes);
                self.publish();
                report
            }
        };
        Ok(report)
    }

    /// Lets another component decide from now on, once it has answered questions whose
    /// answers are known and has accepted every document in force. That is a new
    /// generation: open connections are judged again, and no certificate that the
    /// component before verified is believed any more. No question is lost meanwhile.
    ///
    /// Takes as long as some decisions and a load; call it where that may block.
    ///
    /// # Errors
    /// When the component fails any of this, or this policy has none: then nothing changed.
    pub fn replace(&self, component: &Component) -> Result<(), PolicyError> {
        let refused = |before: String, detail: String| PolicyError::Replace {
            component: component.name().to_owned(),
            detail,
            before,
        };
        match &self.0.engine {
            Engine::Component(pool) => {
                trial::passes(component, pool.limits())
                    .and_then(|()| pool.replace(component))
                    .map_err(|Failure(detail)| {
                        refused(pool.component().name().to_owned(), detail)
                    })?;
            }
            Engine::Native(_) => {
                let detail = "this policy is decided without a component".to_owned();
                return Err(refused("the native core".to_owned(), detail));
            }
        }
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        let generation = self.generation();
        self.0.published.send_if_modified(|published| {
            let newer = generation > *published;
            *published = generation.max(*published);
            newer
        });
    }

    /// The agent has confirmed that these documents are current; no names mean all.
    pub fn touch<S: AsRef<str>>(&self, names: &[S], confirmed_at: Timestamp) {
        match &self.0.engine {
            Engine::Component(pool) => pool.touch(names, confirmed_at),
            Engine::Native(native) => native.state().touch(names, confirmed_at),
        }
        self.0.latest.store(0, Ordering::Relaxed);
    }

    /// The generation in force: 0 before the first load.
    #[must_use]
    pub fn generation(&self) -> u64 {
        match &self.0.engine {
            Engine::Component(pool) => pool.generation(),
            Engine::Native(native) => native.state().generation(),
        }
    }

    /// How often instances failed and were made anew; none for [`Policy::native`].
    #[must_use]
    pub fn counts(&self) -> Counts {
        match &self.0.engine {
            Engine::Component(pool) => pool.counts(),
            Engine::Native(_) => Counts::default(),
        }
    }

    /// SHA-256 over the sorted documents in force, in lower-case hexadecimal: equal on
    /// every host that decides by the same documents.
    #[must_use]
    pub fn digest(&self) -> String {
        match &self.0.engine {
            Engine::Component(pool) => pool.digest(),
            Engine::Native(native) => native.state().digest(),
        }
    }

    /// The generation in force with its digest and its documents.
    pub(crate) fn in_force(&self) -> (u64, String, Vec<Document>) {
        let (generation, digest, documents) = match &self.0.engine {
            Engine::Component(pool) => pool.in_force(),
            Engine::Native(native) => native.state().in_force(),
        };
        (generation, digest, documents.all())
    }

    /// The generation in force and its digest.
    pub(crate) fn revision(&self) -> (u64, String) {
        let (generation, digest, _) = match &self.0.engine {
            Engine::Component(pool) => pool.in_force(),
            Engine::Native(native) => native.state().in_force(),
        };
        (generation, digest)
    }

    /// The mesh document in force, unless there is none or at `now` it is older than
    /// its staleness budget. What was verified with another version is worth nothing.
    #[must_use]
    pub fn mesh_version(&self, now: Timestamp) -> Option<MeshVersion> {
        let now = now.max(Timestamp::from_millis(
            self.0.latest.load(Ordering::Relaxed),
        ));
        match &self.0.engine {
            Engine::Component(pool) => pool.mesh_version(now),
            Engine::Native(native) => native.state().mesh_version(now),
        }
    }

    /// Published generations. Live connections are judged again when it changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.published.subscribe()
    }

    /// May `client` open a connection to `target`, or with a request, send it?
    /// `target` is `name`, `namespace/name` or `partition/namespace/name`.
    #[must_use]
    pub fn authorize(
        &self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Decision {
        let earlier = self.set_back(now);
        match &self.0.engine {
            Engine::Component(pool) => pool
                .ask(|instance| {
                    if let Some(earlier) = earlier {
                        instance.authorize(target, client, None, earlier)?;
                    }
                    instance.authorize(target, client, request, now)
                })
                .unwrap_or_else(|_| Decision::denied(Reason::PolicyFailed, pool.generation())),
            Engine::Native(native) => native
                .state()
                .policy
                .authorize(target, client, request, now),
        }
    }

    /// Checks a presented chain (DER, leaf first) against the loaded roots. This proves
    /// that a mesh CA issued the certificate, not that the peer holds its key.
    ///
    /// # Errors
    /// When the chain or its identity breaks a rule, or is not `expected`; when there
    /// are no roots; when the policy fails.
    pub fn verify_peer(
        &self,
        chain: &[impl AsRef<[u8]>],
        usage: Usage,
        expected: Option<&str>,
        now: Timestamp,
    ) -> Result<VerifiedPeer, VerifyError> {
        let earlier = self.set_back(now);
        match &self.0.engine {
            Engine::Component(pool) => {
                let chain: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
                let asked = pool.ask(|instance| {
                    if let Some(earlier) = earlier {
                        // The answer about no certificate is known; the time is what it is told.
                        let _ = instance.verify_peer(&[], usage, None, earlier)?;
                    }
                    instance.verify_peer(&chain, usage, expected, now)
                });
                asked.unwrap_or_else(|_| {
                    Err(VerifyError::new(
                        VerifyErrorKind::NotReady,
                        FAILED,
                        "the policy itself failed",
                    ))
                })
            }
            Engine::Native(native) => {
                let verdict = native
                    .state()
                    .policy
                    .verify_peer(chain, usage, expected, now);
                verdict.map_err(|error| VerifyError::from(&error))
            }
        }
    }

    /// Which headers of a request the rules of `target` look at; all of them if the
    /// policy fails.
    #[must_use]
    pub fn needed_headers(&self, target: &str) -> HeaderNeeds {
        match &self.0.engine {
            Engine::Component(pool) => pool
                .ask(|instance| instance.needed_headers(target))
                .unwrap_or(HeaderNeeds::All),
            Engine::Native(native) => native.state().policy.needed_headers(target),
        }
    }

    /// The decision of [`Policy::authorize`] for the same arguments, with the way to it.
    ///
    /// # Errors
    /// When the policy fails.
    pub fn explain(
        &self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Result<Trace, PolicyError> {
        let earlier = self.set_back(now);
        match &self.0.engine {
            Engine::Component(pool) => {
                let asked = pool.ask(|instance| {
                    if let Some(earlier) = earlier {
                        instance.authorize(target, client, None, earlier)?;
                    }
                    instance.explain(target, client, request, now)
                });
                asked.map_err(|failure| failed(pool, failure))
            }
            Engine::Native(native) => {
                Ok(native.state().policy.explain(target, client, request, now))
            }
        }
    }

    /// A decision about `target` in one sentence.
    #[must_use]
    pub fn describe(&self, target: &str, decision: &Decision) -> String {
        match &self.0.engine {
            Engine::Component(pool) => pool
                .ask(|instance| instance.describe(target, decision))
                .unwrap_or_else(|_| format!("{}: {}", decision.effect, decision.code)),
            Engine::Native(native) => native.state().policy.describe(target, decision),
        }
    }

    /// Takes a SPIFFE ID apart.
    ///
    /// # Errors
    /// When it is none, or the policy fails.
    pub fn parse_id(&self, uri: &str) -> Result<SpiffeId, IdentityError> {
        match &self.0.engine {
            Engine::Component(pool) => pool
                .ask(|instance| instance.parse_id(uri))
                .unwrap_or_else(|_| Err(IdentityError::new(FAILED, "the policy itself failed"))),
            Engine::Native(_) => core::parse_id(uri).map_err(|error| IdentityError::from(&error)),
        }
    }

    /// The latest moment asked about, if the clock was set back since.
    fn set_back(&self, now: Timestamp) -> Option<Timestamp> {
        let latest = self.0.latest.load(Ordering::Relaxed);
        if now.as_millis() > latest {
            self.0.latest.fetch_max(now.as_millis(), Ordering::Relaxed);
        }
        (latest.saturating_sub(now.as_millis()) > CLOCK_SLACK)
            .then(|| Timestamp::from_millis(latest))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Policy")
            .field("component", &self.component())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

fn failed(pool: &Pool, Failure(detail): Failure) -> PolicyError {
    PolicyError::Answer {
        component: pool.component().name().to_owned(),
        detail,
    }
}

/// Some of the names, for one line.
fn names(changes: &[Document]) -> String {
    const SHOWN: usize = 3;
    let mut text: Vec<String> = changes
        .iter()
        .take(SHOWN)
        .map(|change| format!("`{}`", change.name))
        .collect();
    if changes.len() > SHOWN {
        text.push(format!("{} more", changes.len() - SHOWN));
    }
    text.join(", ")
}
