//! Runs one client's connection: HTTP/1.1 or HTTP/2, judged again while it lasts, ended
//! when it must.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::access::Ending;
use super::super::lifetime::Lifetime;
use super::super::live::{Fallen, Standing};
use super::admission::Judged;
use super::conversation::Conversation;
use super::cutter::Cause;
use super::gate::{Gate, HeadLimits, Resets, Speaks};
use super::settings::HttpSettings;
use crate::tls::Refusal;

/// How long requests that are cut off may take to tell their clients.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// How often an HTTP/2 client must show that it is there.
const PING: Duration = Duration::from_secs(60);

/// What a connection lives by.
pub(super) struct Life {
    pub(super) lifetime: Lifetime,
    /// The client's certificate, if it came through the mesh.
    pub(super) standing: Option<Standing>,
    /// Published generations of the policy, if it judges.
    pub(super) generations: Option<watch::Receiver<u64>>,
    /// No more requests are wanted.
    pub(super) stopping: CancellationToken,
}

/// The limits of heads, as the settings have them.
pub(super) fn limits(settings: &HttpSettings) -> HeadLimits {
    HeadLimits {
        bytes: settings.header_bytes,
        headers: settings.headers,
        time: settings.header_time,
    }
}

/// Serves a connection until it ends: nothing if it ended well.
pub(super) async fn serve<S>(
    gate: Gate<S>,
    speaks: Speaks,
    conversation: Conversation,
    mut life: Life,
) -> Result<(), Ending>
where
    S: AsyncRead + AsyncWrite + Resets + Unpin + Send + 'static,
{
    let settings = conversation.settings.clone();
    let conversation = Arc::new(conversation);
    let one = Arc::clone(&conversation);
    let service = service_fn(move |request| Arc::clone(&one).answer(request));
    match speaks {
        Speaks::Http1 => {
            let mut builder = http1::Builder::new();
            builder
                .half_close(false)
                .max_headers(settings.headers.max(4))
                .max_buf_size((2 * settings.header_bytes).max(16 * 1024))
                .header_read_timeout(None)
                .auto_date_header(false);
            let connection = builder
                .serve_connection(TokioIo::new(gate), service)
                .with_upgrades();
            let mut connection = Box::pin(connection);
            let end = |connection: Pin<&mut _>| {
                http1::UpgradeableConnection::graceful_shutdown(connection);
            };
            let served = run(connection.as_mut(), end, &conversation, &mut life).await?;
            drop(connection);
            let tunnel = conversation
                .tunnel
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(tunnel) = tunnel {
                let mut tunnel = Box::pin(tunnel.run());
                // What is no longer HTTP has no end in peace.
                run(tunnel.as_mut(), |_| {}, &conversation, &mut life).await?;
                return Ok(());
            }
            served.map_err(|error| broken(&error))
        }
        Speaks::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(settings.streams)
                .max_header_list_size(u32::try_from(settings.header_bytes).unwrap_or(u32::MAX))
                .max_pending_accept_reset_streams(20)
                .max_local_error_reset_streams(Some(256))
                .max_send_buf_size(256 * 1024)
                .keep_alive_interval(PING)
                .keep_alive_timeout(PING / 3)
                .auto_date_header(false);
            let connection = builder.serve_connection(TokioIo::new(gate), service);
            let mut connection = Box::pin(connection);
            let end = |connection: Pin<&mut _>| {
                http2::Connection::graceful_shutdown(connection);
            };
            let served = run(connection.as_mut(), end, &conversation, &mut life).await?;
            served.map_err(|error| broken(&error))
        }
    }
}

fn broken(error: &hyper::Error) -> Ending {
    let source = std::error::Error::source(error);
    let text = source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    Ending {
        refused: false,
        code: "connected".into(),
        reason: "the connection broke".to_owned(),
        error: Some(text),
    }
}

/// Runs `work` until it ends, or until the connection must; `end` asks it to end in peace.
async fn run<W: Future>(
    mut work: Pin<&mut W>,
    end: impl Fn(Pin<&mut W>),
    conversation: &Conversation,
    life: &mut Life,
) -> Result<W::Output, Ending> {
    let Life {
        lifetime,
        standing,
        generations,
        stopping: stop,
    } = life;
    // These go on over the turns of the loop: a judgement is not begun anew, nor is quiet.
    let mut fallen = std::pin::pin!(fallen(standing));
    let mut lived = std::pin::pin!(lifetime.over(&conversation.access.counts));
    let mut stopping = false;
    // What ended it, and until when its requests may tell their clients.
    let mut over: Option<(Ending, Instant)> = None;
    loop {
        let until = over.as_ref().map(|(_, until)| *until);
        tokio::select! {
            done = work.as_mut() => {
                return match over {
                    Some((ending, _)) => Err(ending),
                    None => Ok(done),
                };
            }
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                if let Some((ending, _)) = over {
                    return Err(ending);
                }
            }
            published = published(generations) => {
                if published && let Some(judged) = &conversation.judged {
                    conversation.live.judge(&judged.judge, &judged.peer);
                    if over.is_none() && let Some(decision) = judged.judge.refuses_all(&judged.peer) {
                        tracing::debug!(code = decision.code.code(), "nothing more is taken on a connection");
                        end(work.as_mut());
                    }
                }
            }
            judged = token_ended(conversation) => {
                conversation.live.judge_ended(&judged.judge, &judged.peer, judged.judge.clock());
            }
            ending = &mut fallen, if over.is_none() => {
                conversation.live.cut(&Cause {
                    code: "certificate-expired",
                    reason: ending.reason.clone(),
                });
                end(work.as_mut());
                over = Some((ending, Instant::now() + FAREWELL));
            }
            ended = &mut lived, if over.is_none() => {
                end(work.as_mut());
                let ending = ended.ending(&conversation.stats);
                over = Some((ending, Instant::now() + FAREWELL));
            }
            cause = conversation.calm.wait() => {
                return Err(Ending::refused(cause.code, cause.reason));
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                end(work.as_mut());
            }
        }
    }
}

/// Waits for another generation; false when there will be none.
pub(super) async fn published(generations: &mut Option<watch::Receiver<u64>>) -> bool {
    let Some(published) = generations else {
        return std::future::pending().await;
    };
    let changed = published.changed().await.is_ok();
    if !changed {
        *generations = None;
    }
    changed
}

/// Waits until a token of a request has ended, where requests are judged.
async fn token_ended(conversation: &Conversation) -> &Judged {
    let Some(judged) = &conversation.judged else {
        return std::future::pending().await;
    };
    conversation.live.token_ended(judged.judge.clock()).await;
    judged
}

/// Waits until the client's certificate is no longer good.
pub(super) async fn fallen(standing: &mut Option<Standing>) -> Ending {
    let Some(standing) = standing else {
        return std::future::pending().await;
    };
    match standing.fallen().await {
        Fallen::Expired => Ending::refused(
            "certificate-expired",
            "cut off: the client's certificate has expired",
        ),
        Fallen::Chain(Refusal::Chain(error)) => Ending::refused(
            error.code().to_owned(),
            format!("cut off: the client's certificate is no longer good: {error}"),
        ),
        Fallen::Chain(refusal) => Ending::refused("policy-failed", format!("cut off: {refusal}")),
        Fallen::Denied(decision) => Ending::refused(decision.code.code(), "cut off"),
    }
}
