//! The wall clock as an argument, so that tests can turn it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis_core::time::Timestamp;
use tokio::sync::watch;

/// Where `now` comes from.
///
/// The policy takes every time as an argument; the proxy, the watchers and the
/// TLS verifiers read it here.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<watch::Sender<Timestamp>>>);

impl Clock {
    /// The machine's wall clock.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands still until [`Clock::set`] moves it, in either direction.
    #[must_use]
    pub fn manual(now: Timestamp) -> Self {
        Self(Some(Arc::new(watch::Sender::new(now))))
    }

    /// The time. A machine clock before 1970 reads as 1970.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Some(now) => *now.borrow(),
            None => {
                let since = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }

    /// Moves a manual clock; a system clock stays as it is.
    pub fn set(&self, now: Timestamp) {
        if let Some(cell) = &self.0 {
            cell.send_replace(now);
        }
    }

    /// Waits for `time` to pass, at most until a manual clock is moved.
    pub(crate) async fn sleep(&self, time: Duration) {
        let moved = async {
            match &self.0 {
                // The sender is ours, so this ends with a move only.
                Some(cell) => drop(cell.subscribe().changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = moved => {}
        }
    }
}
