//! A candidate beside the live policy: other intentions are asked about each connection and
//! each request, and never enforced.
//!
//! The candidate is a policy of its own with the live documents, in which the intentions of
//! our service are replaced as `consul config write` would do it. It follows the live one;
//! answers are compared only where both rest on the same documents.

mod candidate;
mod counts;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use portcullis_core::intention::{Decision, Effect, Reason};
use portcullis_core::policy::HeaderNeeds;

use crate::decisions::{Decided, is_beyond_intentions};
use crate::entries::{Entries, EntriesError};
use crate::runtime::{Policy, PolicyError};
use candidate::Candidate;
pub use counts::Counts;
pub(crate) use counts::{EFFECTS, KINDS};

/// Why there is no candidate, or not the one that the files hold.
#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    /// The files cannot be read.
    #[error("the candidate cannot be read: {0}")]
    Entries(#[from] EntriesError),
    /// Nothing is in them.
    #[error("the candidate has no config entry")]
    Empty,
    /// The live documents cannot be understood.
    #[error("the live policy cannot be compared with: {0}")]
    Live(String),
    /// The policy refuses the candidate.
    #[error("the policy refuses the candidate's `{document}` at `{pointer}`: {text}")]
    Refused {
        /// Which document.
        document: String,
        /// Where in it.
        pointer: String,
        /// Why.
        text: String,
    },
    /// The policy itself failed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// A candidate. Clones share it.
#[derive(Clone, Debug)]
pub struct Shadow(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Vec<PathBuf>,
    live: Policy,
    service: String,
    /// What is compared with; none while there is none.
    current: ArcSwapOption<Candidate>,
    counts: Counts,
    /// Held by whoever changes the candidate.
    read: Mutex<Read>,
}

/// What was read, and the policy that has been told of it.
#[derive(Debug, Default)]
struct Read {
    entries: Option<Entries>,
    policy: Option<candidate::Told>,
}

/// What the candidate says.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) decision: Decision,
    /// The same in a sentence; empty where the live policy says the same.
    pub(crate) reason: String,
    /// Whether a client would see something else.
    pub(crate) differs: bool,
    /// What the candidate's rules look at.
    pub(crate) needs: Arc<HeaderNeeds>,
}

impl Shadow {
    /// A candidate from config entries in these files and directories, beside `live`, for
    /// what is decided about `service`. Nothing is read yet.
    #[must_use]
    pub fn new(files: Vec<PathBuf>, live: Policy, service: &str) -> Self {
        Self(Arc::new(Inner {
            files,
            live,
            service: service.to_owned(),
            current: ArcSwapOption::empty(),
            counts: Counts::default(),
            read: Mutex::default(),
        }))
    }

    /// Where the candidate comes from.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.0.files
    }

    /// What was compared since the start.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Whether a candidate is compared with.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.current.load().is_some()
    }

    /// Reads the files again. Call it where that may block.
    ///
    /// # Errors
    /// When they cannot be used: then the last candidate that could goes on.
    pub fn read(&self) -> Result<(), ShadowError> {
        let entries = Entries::read(&self.0.files)?;
        if entries.is_empty() {
            return Err(ShadowError::Empty);
        }
        let mut read = self.0.read.lock().unwrap_or_else(PoisonError::into_inner);
        let before = read.entries.replace(entries);
        let told = self.tell(&mut read);
        if told.is_err() && before.is_some() {
            read.entries = before;
            // It was good a moment ago.
            self.tell(&mut read)?;
        }
        told
    }

    /// Follows the live policy, for ever.
    pub async fn keep(&self) {
        let mut generations = self.0.live.subscribe();
        loop {
            generations.mark_unchanged();
            let own = self.clone();
            let refreshed = tokio::task::spawn_blocking(move || own.refresh()).await;
            if let Ok(Err(error)) = refreshed {
                tracing::error!(%error, "the candidate in the shadow is not compared with");
            }
            if generations.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Brings the candidate up to the live documents.
    fn refresh(&self) -> Result<(), ShadowError> {
        let mut read = self.0.read.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(&mut read)
    }

    fn tell(&self, read: &mut Read) -> Result<(), ShadowError> {
        let Some(entries) = &read.entries else {
            return Ok(());
        };
        // Without documents there is nothing to compare with yet.
        if self.0.live.generation() == 0 {
            return Ok(());
        }
        let told = candidate::tell(&self.0.live, &self.0.service, entries, read.policy.take());
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                self.0.current.store(None);
                return Err(error);
            }
        };
        self.0.current.store(Some(Arc::new(told.candidate())));
        read.policy = Some(told);
        Ok(())
    }

    /// Asks the candidate what was just decided, and counts what it says.
    pub(crate) fn compare(&self, decided: &Decided<'_>) -> Option<Verdict> {
        let counts = &self.0.counts;
        let kind = usize::from(decided.request.is_some());
        let current = self.0.current.load();
        let live = decided.decision;
        let Some(candidate) = current.as_deref() else {
            counts.skipped(kind);
            return None;
        };
        // Differences that no intention makes are none, nor those between two states.
        if candidate.live_generation != live.generation || is_beyond_intentions(live.code) {
            counts.skipped(kind);
            return None;
        }
        let decision = candidate.ask(&self.0.service, decided);
        let failed = matches!(decision.code, Reason::PolicyFailed | Reason::NotReady);
        if decision.generation != candidate.generation || failed {
            counts.skipped(kind);
            return None;
        }
        let differs = answer(live) != answer(&decision);
        if differs {
            counts.different(kind, live.effect, decision.effect);
        } else {
            counts.same(kind);
        }
        let reason = match differs {
            true => candidate.policy.describe(&self.0.service, &decision),
            false => String::new(),
        };
        Some(Verdict {
            decision,
            reason,
            differs,
            needs: Arc::clone(&candidate.needs),
        })
    }
}

/// What a client sees of a decision: the effect, and what goes upstream.
fn answer(decision: &Decision) -> (Effect, Option<&[u8]>) {
    (decision.effect, decision.path.as_deref())
}
