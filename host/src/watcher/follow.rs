//! Drives one watch of `portcullis_core::watch` with tokio.

use std::future::Future;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use portcullis_core::agent::{HttpRequest, Query, RequestError};
use portcullis_core::watch::{Digest, Event, Position, Settings, Watch};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::agent_client::{AgentClient, AgentError, AgentReply};

/// The start of the monotonic time that watches run by.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn now() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// What is followed.
pub(super) trait Subject: Send {
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

    /// The question failed; whatever there is stays in use.
    fn failed(&mut self, error: &str);
}

/// Follows `subject` for ever. `refresh` asks again at once, without blocking.
pub(super) async fn follow<S: Subject>(
    mut subject: S,
    client: AgentClient,
    settings: Settings,
    refresh: Arc<Notify>,
) {
    let mut watch = Watch::new(settings);
    loop {
        let Some(ask) = watch.poll_request(now()) else {
            let at = *START + Duration::from_millis(watch.poll_timeout().unwrap_or_default());
            tokio::select! {
                () = sleep_until(at) => {}
                () = refresh.notified() => watch.refresh(now()),
            }
            continue;
        };
        let request = match subject.request(&ask.query()) {
            Ok(request) => request,
            Err(error) => {
                // A name that cannot be asked about never can.
                tracing::error!(watch = subject.name(), %error, "cannot be watched");
                subject.failed(&error.to_string());
                return;
            }
        };
        tokio::select! {
            answer = client.execute_ok(&request) => {
                let failure = match answer {
                    Ok(reply) => take(&mut subject, &mut watch, &client, &request, &reply).await.err(),
                    Err(error) => Some(error.to_string()),
                };
                if let Some(error) = failure {
                    fail(&mut subject, &mut watch, &error);
                }
            }
            () = refresh.notified() => watch.refresh(now()),
        }
    }
}

async fn take<S: Subject>(
    subject: &mut S,
    watch: &mut Watch,
    client: &AgentClient,
    request: &HttpRequest,
    reply: &AgentReply,
) -> Result<(), String> {
    let digest = subject.digest(reply).map_err(|detail| {
        if reply.as_core().is_consul() {
            detail
        } else {
            let address = client.address().to_owned();
            AgentError::NotConsul {
                address,
                detail: format!(
                    "{} {detail}",
                    request.path_and_query.split('?').next().unwrap_or_default()
                ),
            }
            .to_string()
        }
    })?;
    let failures = watch.failures();
    let changed = match watch.handle_reply(now(), &Position::of(&reply.as_core()), digest) {
        Event::Changed => true,
        Event::Unchanged => false,
        Event::WentBack { from, to } => {
            tracing::warn!(
                watch = subject.name(),
                from,
                to,
                "the agent answers with an older state, which is read again before it is used"
            );
            return Ok(());
        }
    };
    if failures > 0 {
        tracing::info!(watch = subject.name(), failures, "the agent answers again");
    }
    subject.used(reply, changed).await
}

fn fail<S: Subject>(subject: &mut S, watch: &mut Watch, error: &str) {
    let failures = watch.failures();
    let retry_ms = watch.handle_error(now(), error);
    // Said when it begins and now and then, not every time.
    if failures == 0 || failures % 16 == 15 {
        tracing::warn!(
            watch = subject.name(),
            error,
            retry_ms,
            "the last good state stays in use"
        );
    } else {
        tracing::debug!(watch = subject.name(), error, retry_ms, "still failing");
    }
    subject.failed(error);
}
