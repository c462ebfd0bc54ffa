//! Connections without pause, each with its own mTLS handshake between the
//! proxies: none is resumed, none is reused.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::children::PATIENCE;
use super::service::ask;
use crate::cli::failure::Failure;

/// Connections that are open at the same time.
const AT_ONCE: usize = 8;

/// A running load; it breaks off when this is dropped.
pub(crate) struct Load {
    counts: Arc<Counts>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct Counts {
    done: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
    enough: AtomicBool,
}

impl Counts {
    fn note(&self, failure: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut first = self
            .first_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(failure);
    }
}

impl Load {
    /// Starts to connect to `address`, where something answers `ping` with `pong`.
    pub(crate) fn start(address: SocketAddr) -> Self {
        let counts = Arc::new(Counts::default());
        let mut tasks = JoinSet::new();
        for _ in 0..AT_ONCE {
            let counts = Arc::clone(&counts);
            tasks.spawn(async move {
                while !counts.enough.load(Ordering::Relaxed) {
                    let failure = match ask(address, "ping").await {
                        Ok(answer) if answer == "pong" => None,
                        Ok(answer) => Some(format!("the answer was `{answer}`")),
                        Err(error) => Some(error.to_string()),
                    };
                    if let Some(failure) = failure {
                        counts.note(failure);
                        // What fails at once must not keep a core busy.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    counts.done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { counts, tasks }
    }

    /// How many connections have ended, well or not.
    pub(crate) fn done(&self) -> u64 {
        self.counts.done.load(Ordering::Relaxed)
    }

    /// Lets the connections that are open end: how many there were in all, how
    /// many failed, and how the first one did.
    pub(crate) async fn finish(mut self) -> (u64, u64, Option<String>) {
        self.counts.enough.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        let (failed, first) = self.failed();
        (self.done(), failed, first)
    }

    fn failed(&self) -> (u64, Option<String>) {
        let first = self
            .counts
            .first_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (self.counts.failed.load(Ordering::Relaxed), first.clone())
    }

    /// Waits until `wanted` connections have ended.
    ///
    /// Fails when they stop coming.
    pub(crate) async fn reach(&self, wanted: u64) -> Result<(), Failure> {
        let (mut last, mut since) = (self.done(), Instant::now());
        while self.done() < wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if self.done() != last {
                (last, since) = (self.done(), Instant::now());
            } else if since.elapsed() > PATIENCE {
                return Err(Failure::runtime(format_args!(
                    "the load stands still after {last} connections"
                )));
            }
        }
        Ok(())
    }
}
