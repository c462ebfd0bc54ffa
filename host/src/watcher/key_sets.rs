//! Keeps the key sets of JWT providers current, each by its own clock.
//!
//! One task decides and loads, so that what is taken away cannot come back. A set that
//! cannot be had leaves the last good one in force, which ages; when its provider names
//! another place or is gone, it is removed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portcullis_core::time::Timestamp;
use portcullis_core::watch::Backoff;
use rand::Rng as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::hub::Hub;
use super::providers::KnownProviders;
use crate::jwks::{FetchError, JwksSettings, Source, fetch, shown};

/// So many are fetched at once.
const AT_ONCE: usize = 8;
/// How often the age of the providers is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// What is known of the keys of one provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownKeySet {
    /// Where they come from, without what stands in a query.
    pub from: String,
    /// When they were last read whole and taken; absent before.
    pub confirmed_at: Option<Timestamp>,
    /// Why the last look failed, if it did.
    pub error: Option<String>,
    /// How many looks were good.
    pub good: u64,
    /// How many were not, by reason: a closed list.
    pub failed: BTreeMap<&'static str, u64>,
}

/// The key sets by provider; those inside config entries are not among them.
pub type KnownKeySets = BTreeMap<String, KnownKeySet>;

struct Kept {
    source: Source,
    /// Distinguishes it from one of the same name before.
    epoch: u64,
    due: Instant,
    is_running: bool,
    backoff: Backoff,
    /// The body that the policy accepted last.
    last: Option<Vec<u8>>,
}

type Fetched = (String, u64, Timestamp, Result<Vec<u8>, FetchError>);

struct Keeper {
    hub: Arc<Hub>,
    settings: Arc<JwksSettings>,
    state: watch::Sender<KnownKeySets>,
    kept: BTreeMap<String, Kept>,
    running: JoinSet<Fetched>,
    epochs: u64,
}

/// Keeps them, for ever.
pub(super) async fn keep(
    hub: Arc<Hub>,
    settings: JwksSettings,
    mut providers: watch::Receiver<KnownProviders>,
    state: watch::Sender<KnownKeySets>,
) {
    let mut keeper = Keeper {
        hub,
        settings: Arc::new(settings),
        state,
        kept: BTreeMap::new(),
        running: JoinSet::new(),
        epochs: 0,
    };
    loop {
        let known = providers.borrow_and_update().clone();
        if let Err(error) = keeper.hub.age_providers().await {
            tracing::warn!(error, "stale jwt providers are still in force");
        }
        let is_settled = keeper.reconcile(known.sources).await;
        let look = match is_settled {
            true => keeper.look(),
            false => Duration::from_secs(1),
        };
        let look = Instant::now() + look;
        loop {
            keeper.start_due();
            let next = keeper.next().map_or(look, |next| next.min(look));
            tokio::select! {
                changed = providers.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                Some(Ok(fetched)) = keeper.running.join_next() => keeper.take(fetched).await,
                () = sleep_until(next) => if Instant::now() >= look {
                    break;
                },
            }
        }
    }
}

impl Keeper {
    fn look(&self) -> Duration {
        let budget = self.hub.max_stale();
        budget.map_or(LOOK, |budget| LOOK.min(budget / 4).max(LOOK / 100))
    }

    /// Takes away what is wanted no longer, and adds what is new. False if that has to
    /// be tried again.
    async fn reconcile(&mut self, sources: Vec<Source>) -> bool {
        // Two of one name are no provider that the policy takes.
        let wanted: BTreeMap<String, Source> = sources
            .into_iter()
            .map(|source| (source.provider.clone(), source))
            .collect();
        let gone: Vec<String> = self
            .kept
            .iter()
            .filter(|(name, kept)| {
                wanted
                    .get(*name)
                    .is_none_or(|source| source.place != kept.source.place)
            })
            .map(|(name, _)| name.clone())
            .collect();
        let mut is_settled = true;
        for name in gone {
            match self
                .hub
                .set_key_set(&name, None, Timestamp::default())
                .await
            {
                Ok(()) => {
                    tracing::info!(provider = name, "its keys are removed");
                    self.kept.remove(&name);
                    self.state.send_modify(|state| drop(state.remove(&name)));
                }
                Err(error) => {
                    tracing::warn!(provider = name, error, "its keys cannot be removed");
                    is_settled = false;
                }
            }
        }
        for (name, source) in wanted {
            if let Some(kept) = self.kept.get_mut(&name) {
                if kept.source.place == source.place && kept.source != source {
                    kept.due = Instant::now();
                    kept.backoff = backoff(&source);
                    kept.source = source;
                }
                continue;
            }
            self.epochs += 1;
            let known = KnownKeySet {
                from: shown(&source.place),
                ..KnownKeySet::default()
            };
            self.state
                .send_modify(|state| drop(state.insert(name.clone(), known)));
            let kept = Kept {
                backoff: backoff(&source),
                source,
                epoch: self.epochs,
                due: Instant::now(),
                is_running: false,
                last: None,
            };
            self.kept.insert(name, kept);
        }
        is_settled
    }

    fn next(&self) -> Option<Instant> {
        if self.running.len() >= AT_ONCE {
            return None;
        }
        let waiting = self.kept.values().filter(|kept| !kept.is_running);
        waiting.map(|kept| kept.due).min()
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        let due = self.kept.iter_mut().filter(|(_, kept)| !kept.is_running);
        for (name, kept) in due.filter(|(_, kept)| kept.due <= now) {
            if self.running.len() >= AT_ONCE {
                return;
            }
            kept.is_running = true;
            let (name, epoch, source) = (name.clone(), kept.epoch, kept.source.clone());
            let (settings, clock) = (Arc::clone(&self.settings), self.hub.clock.clone());
            self.running.spawn(async move {
                // As of when it was asked for, not of when a slow server was done.
                let at = clock.now();
                (name, epoch, at, fetch(&source, &settings).await)
            });
        }
    }

    async fn take(&mut self, (name, epoch, at, fetched): Fetched) {
        let most = self.hub.max_stale().map(|budget| budget / 4);
        let kept = self.kept.get_mut(&name);
        let Some(kept) = kept.filter(|kept| kept.epoch == epoch) else {
            return;
        };
        kept.is_running = false;
        let used = match fetched {
            Err(error) => Err((error.reason(), error.to_string())),
            Ok(body) if kept.last.as_ref() == Some(&body) => {
                self.hub.touch_key_set(&name, at).await;
                Ok(())
            }
            Ok(body) => match self.hub.set_key_set(&name, Some(body.clone()), at).await {
                Ok(()) => {
                    tracing::info!(
                        provider = name,
                        from = shown(&kept.source.place),
                        "new keys"
                    );
                    kept.last = Some(body);
                    Ok(())
                }
                Err(error) => {
                    // What was in force before is not confirmed by anything that follows.
                    kept.last = None;
                    Err(("unusable", error))
                }
            },
        };
        let wait = match &used {
            Ok(()) => {
                kept.backoff.succeed();
                let every = Duration::from_millis(kept.source.every_ms);
                let every = most.map_or(every, |most| every.min(most));
                // Proxies that started together do not go on asking together.
                every.mul_f64(rand::rng().random_range(0.75..=1.0))
            }
            Err(_) => Duration::from_millis(kept.backoff.fail()),
        };
        kept.due = Instant::now() + wait;
        let from = shown(&kept.source.place);
        self.state.send_modify(|state| {
            let known = state.entry(name.clone()).or_default();
            match used {
                Ok(()) => {
                    if known.error.take().is_some() {
                        tracing::info!(provider = name, from, "its keys are read again");
                    }
                    known.confirmed_at = Some(at);
                    known.good = known.good.saturating_add(1);
                }
                Err((reason, error)) => {
                    let error = crate::escape::visible(&error, 400);
                    if known.error.as_ref() != Some(&error) {
                        tracing::warn!(
                            provider = name,
                            from,
                            error,
                            "its keys cannot be had: the last good ones stay in use"
                        );
                    }
                    known.error = Some(error);
                    let count = known.failed.entry(reason).or_default();
                    *count = count.saturating_add(1);
                }
            }
        });
    }
}

/// The waits after failures that the provider's entry asks for.
fn backoff(source: &Source) -> Backoff {
    Backoff::new(
        source.retry_first_ms,
        source.retry_longest_ms,
        rand::random(),
    )
}
