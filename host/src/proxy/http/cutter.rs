//! Ends what is under way: one side says so, others wait for it.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Why something was cut off: the code, and the same in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) code: &'static str,
    pub(super) reason: String,
}

/// Can be cut once. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Cutter(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    cause: Option<Cause>,
    waiting: Vec<Waker>,
}

impl Cutter {
    /// Cuts it off; only the first cause counts.
    pub(super) fn cut(&self, cause: Cause) {
        let mut state = self.state();
        if state.cause.is_none() {
            state.cause = Some(cause);
            for waker in state.waiting.drain(..) {
                waker.wake();
            }
        }
    }

    /// Waits until it is cut off.
    pub(super) async fn wait(&self) -> Cause {
        poll_fn(|cx| self.poll(cx)).await
    }

    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Cause> {
        let mut state = self.state();
        if let Some(cause) = &state.cause {
            return Poll::Ready(cause.clone());
        }
        if !state
            .waiting
            .iter()
            .any(|waker| waker.will_wake(cx.waker()))
        {
            // Tasks that wait are few: a request, a response, a tunnel.
            if state.waiting.len() >= 8 {
                for waker in state.waiting.drain(..) {
                    waker.wake();
                }
            }
            state.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
