//! The agent without its sockets: state, writes, and reads that block.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::acl::Acl;
use crate::api::peerings::Peerings;
use crate::ca::roots::CaState;
use crate::catalog::{Catalog, Node};
use crate::clock::Clock;
use crate::config::DevAgentConfig;
use crate::entry::Entries;
use crate::faults::Faults;
use crate::http::options::Options;
use crate::http::reply::Reply;
use crate::persist::DataDir;

/// How long a query blocks that does not say, and at most.
const DEFAULT_WAIT: Duration = Duration::from_secs(300);
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(600);

/// How many answers are remembered for `X-Cache`.
const MAX_SEEN: usize = 10_000;

/// Everything that can change.
#[derive(Clone)]
pub(crate) struct State {
    /// Rises with every write, as Consul's raft index.
    pub(crate) index: u64,
    pub(crate) entries: Entries,
    pub(crate) catalog: Catalog,
    pub(crate) ca: CaState,
    /// Not kept on disk.
    pub(crate) peerings: Peerings,
}

/// Whether a write goes to the data directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    OnDisk,
    /// Leafs and reports of checks: their owners bring or fetch them again.
    InMemory,
}

/// The agent that handlers see.
pub(crate) struct Core {
    pub(crate) config: DevAgentConfig,
    pub(crate) acl: Acl,
    pub(crate) clock: Clock,
    pub(crate) node: Node,
    pub(crate) faults: Faults,
    /// What has been answered before, for `X-Cache`.
    pub(crate) seen: Mutex<std::collections::BTreeSet<String>>,
    data_dir: Option<DataDir>,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

impl Core {
    pub(crate) fn new(
        config: DevAgentConfig,
        acl: Acl,
        clock: Clock,
        node: Node,
        data_dir: Option<DataDir>,
        state: State,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            acl,
            clock,
            node,
            faults: Faults::default(),
            seen: Mutex::default(),
            data_dir,
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.lock())
    }

    /// Changes the state, all or nothing. The change gets the next index and
    /// answers whether it did anything. What cannot be stored is not done.
    pub(crate) fn write<T>(
        &self,
        keep: Keep,
        change: impl FnOnce(&mut State, u64) -> Result<(T, bool), Reply>,
    ) -> Result<T, Reply> {
        let mut state = self.lock();
        let mut next = state.clone();
        let index = state.index + 1;
        let (answer, changed) = change(&mut next, index)?;
        if !changed {
            return Ok(answer);
        }
        next.index = index;
        next.catalog.settle_aliases(Instant::now(), index);
        if let (Some(data_dir), Keep::OnDisk) = (&self.data_dir, keep) {
            data_dir.save(&next, &self.node).map_err(|error| {
                tracing::error!(%error, "a change was not stored and so not made");
                Reply::server_error(format!("the change was not made: {error}"))
            })?;
        }
        *state = next;
        drop(state);
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
        Ok(answer)
    }

    /// A receiver that wakes with every change.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Reads, blocking as `options` ask: until the index is higher than theirs
    /// and the value differs from the first one, or the time is over.
    pub(crate) async fn blocking<T: PartialEq>(
        &self,
        options: &Options,
        read: impl Fn(&State) -> (u64, T),
    ) -> (u64, T) {
        let wait = options.wait.unwrap_or(DEFAULT_WAIT).min(MAX_WAIT);
        let jitter = rand::rng().random_range(Duration::ZERO..=wait / 16);
        let deadline = Instant::now() + wait + jitter;
        self.block_until(options.index, Some(deadline), true, read)
            .await
    }

    /// As [`Core::blocking`], with a deadline of one's own. Without
    /// `by_content` a higher index is enough.
    pub(crate) async fn block_until<T: PartialEq>(
        &self,
        index: u64,
        deadline: Option<Instant>,
        by_content: bool,
        read: impl Fn(&State) -> (u64, T),
    ) -> (u64, T) {
        let mut changed = self.watch();
        let first = self.read(&read);
        if index == 0 || first.0 > index {
            return first;
        }
        let timeout = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(timeout);
        loop {
            tokio::select! {
                () = &mut timeout => return self.read(&read),
                woken = changed.changed() => if woken.is_err() {
                    return self.read(&read);
                },
            }
            let now = self.read(&read);
            if now.0 > index && (!by_content || now.1 != first.1) {
                return now;
            }
        }
    }

    /// Whether `key` was asked for before; it is from now on.
    pub(crate) fn seen_before(&self, key: String) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_SEEN {
            seen.clear();
        }
        !seen.insert(key)
    }

    /// Lets TTL checks run out and old roots go, until the agent is dropped.
    pub(crate) async fn maintain(self: Arc<Self>) {
        let mut changed = self.watch();
        loop {
            let next = self.read(|state| state.catalog.next_deadline());
            let hour = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                () = tokio::time::sleep_until(next.unwrap_or(hour).min(hour)) => {}
                woken = changed.changed() => if woken.is_err() { return },
            }
            let now = Instant::now();
            let date = self.clock.now();
            let due = self.read(|state| {
                let expired = state.catalog.next_deadline().is_some_and(|at| at <= now);
                expired || state.ca.has_old_roots(date)
            });
            if !due {
                continue;
            }
            let kept = self.write(Keep::InMemory, |state, index| {
                let expired = state.catalog.expire(now, index);
                let forgotten = state.ca.forget_old_roots(date, index);
                Ok(((), expired || forgotten))
            });
            debug_assert!(kept.is_ok(), "this write has no way to fail");
        }
    }
}
