//! Drives one watch of `portcullis_core::watch` with tokio.

use std::future::Future;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use portcullis_core::agent::{HttpRequest, Query, RequestError};
use portcullis_core::watch::{Backoff, Digest, Event, Position, Settings, Watch};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::activity::{self, Activity};
use crate::agent_client::{AgentClient, AgentError, AgentReply};

/// The start of the monotonic time that watches run by.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn now() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// What is followed.
pub(super) trait Subject: Send {
    /// For metrics: one of few.
    const KIND: &'static str;

    /// For logs.
    fn name(&self) -> String;

    /// The question.
    fn request(&self, query: &Query) -> Result<HttpRequest, RequestError>;

    /// Reads an answer without using it: what matters in it, or why it cannot be read.
    fn digest(&self, reply: &AgentReply) -> Result<Digest, String>;

    /// Uses a good answer: `changed` tells whether it differs from the last one used.
    fn used(
        &mut self,
        reply: &AgentReply,
        changed: bool,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// Whether a question that failed so is better asked in parts.
    fn divides(&self, _error: &AgentError) -> bool {
        false
    }

    /// The agent refused, or cannot be asked; [`Subject::failed`] follows.
    fn refused(&mut self, _error: &AgentError) {}

    /// The question failed; whatever there is stays in use.
    fn failed(&mut self, error: &str);
}

/// Why a subject is no longer followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It is to be asked about in parts.
    Divide,
    /// It can never be asked about.
    Never,
}

/// Follows `subject`, nearly always for ever. `refresh` asks again at once, without blocking.
pub(super) async fn follow<S: Subject>(
    subject: S,
    client: AgentClient,
    settings: Settings,
    refresh: Arc<Notify>,
    activity: Activity,
) -> Ended {
    let unusable = Backoff::new(
        settings.backoff_first_ms,
        settings.backoff_max_ms,
        settings.seed,
    );
    let mut follower = Follower {
        subject,
        client,
        activity,
        watch: Watch::new(settings),
        unusable,
        failures: 0,
    };
    loop {
        let Some(ask) = follower.watch.poll_request(now()) else {
            let due = follower.watch.poll_timeout().unwrap_or_default();
            tokio::select! {
                () = sleep_until(*START + Duration::from_millis(due)) => {}
                () = refresh.notified() => follower.watch.refresh(now()),
                () = follower.client.renewed() => follower.watch.retry(now()),
            }
            continue;
        };
        let request = match follower.subject.request(&ask.query()) {
            Ok(request) => request,
            Err(error) => {
                // A name that cannot be asked about never can.
                tracing::error!(watch = follower.subject.name(), %error, "cannot be watched");
                follower.subject.failed(&error.to_string());
                return Ended::Never;
            }
        };
        let client = follower.client.clone();
        let answer = tokio::select! {
            answer = client.execute_ok(&request) => answer,
            () = refresh.notified() => {
                follower.watch.refresh(now());
                continue;
            }
        };
        match answer {
            Ok(reply) => follower.take(&request, &reply).await,
            Err(error) if follower.subject.divides(&error) => return Ended::Divide,
            Err(error) => {
                follower.activity.failed(S::KIND, activity::reason(&error));
                follower.subject.refused(&error);
                let mut retry_ms = follower.watch.handle_error(now(), error.to_string());
                if let Some(wait) = error.retry_after() {
                    let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                    retry_ms = follower.watch.hold_back(now(), wait);
                }
                follower.failed(&error.to_string(), retry_ms);
            }
        }
    }
}

struct Follower<S> {
    subject: S,
    client: AgentClient,
    activity: Activity,
    watch: Watch,
    /// Holds back answers that are good but cannot be used.
    unusable: Backoff,
    /// Since the last answer that was used.
    failures: u32,
}

impl<S: Subject> Follower<S> {
    async fn take(&mut self, request: &HttpRequest, reply: &AgentReply) {
        let digest = match self.subject.digest(reply) {
            Ok(digest) => digest,
            Err(detail) => {
                let error = self.client.unreadable(request, reply, &detail).to_string();
                let retry_ms = self.watch.handle_error(now(), error.as_str());
                self.activity.failed(S::KIND, "unreadable");
                return self.failed(&error, retry_ms);
            }
        };
        let position = Position::of(&reply.as_core());
        let changed = match self.watch.handle_reply(now(), &position, digest) {
            Event::Changed => true,
            Event::Unchanged => false,
            Event::WentBack { from, to } => {
                tracing::warn!(
                    watch = self.subject.name(),
                    from,
                    to,
                    "the agent answers with an older state, which is read again before it is used"
                );
                return;
            }
        };
        if let Err(error) = self.subject.used(reply, changed).await {
            self.watch.handle_error(now(), error.as_str());
            self.activity.failed(S::KIND, "unusable");
            let wait = self.unusable.fail();
            self.failed(&error, wait);
            tokio::time::sleep(Duration::from_millis(wait)).await;
            return;
        }
        self.unusable.succeed();
        self.activity.succeeded(S::KIND, position.index);
        if self.failures > 0 {
            tracing::info!(
                watch = self.subject.name(),
                failures = self.failures,
                "good again"
            );
            self.failures = 0;
        }
    }

    fn failed(&mut self, error: &str, retry_ms: u64) {
        let watch = self.subject.name();
        // Said when it begins and now and then, not every time.
        if self.failures.is_multiple_of(16) {
            tracing::warn!(watch, error, retry_ms, "the last good state stays in use");
        } else {
            tracing::debug!(watch, error, retry_ms, "still failing");
        }
        self.failures = self.failures.saturating_add(1);
        self.subject.failed(error);
    }
}
