//! What config entries say about how a service is spoken to: its protocol, and how requests
//! are normalised. They change seldom, so they are read now and then, not watched.

use std::sync::Arc;
use std::time::Duration;

use portcullis_core::agent::{HttpReply, HttpRequest, Query, ReplyError, RequestError, config};
use portcullis_core::intention::Protocol;
use portcullis_core::watch::Backoff;
use rand::Rng as _;
use tokio::sync::watch;
use tokio::time::sleep;

use super::hub::{Hub, Which};
use super::intentions::document_name;
use crate::agent_client::{AgentClient, AgentError};

/// How often they are read.
const AGAIN: Duration = Duration::from_secs(30);

/// How soon after a first failure, in milliseconds; doubles.
const FIRST: u64 = 1_000;

/// The longest wait after failures, in milliseconds.
const LONGEST: u64 = 30_000;

/// What a service speaks, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownProtocol {
    /// The protocol; absent until it was found out.
    pub protocol: Option<Protocol>,
    /// Why the last look failed, if it did.
    pub error: Option<String>,
}

impl From<Protocol> for KnownProtocol {
    fn from(protocol: Protocol) -> Self {
        Self {
            protocol: Some(protocol),
            error: None,
        }
    }
}

/// Why a protocol could not be found out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The agent refuses; only a flag can say it then.
    #[error("the token may not read what `{service}` speaks ({0}): say it with {flag}", service = .1, flag = .2)]
    Denied(AgentError, String, &'static str),
    /// The agent cannot be asked.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// It says what is none.
    #[error(
        "the agent says that `{service}` speaks `{protocol}`, which is none of `tcp`, `http`, `http2` and `grpc`"
    )]
    Unknown {
        /// The service.
        service: String,
        /// What it says.
        protocol: String,
    },
    /// The name cannot be asked about.
    #[error(transparent)]
    Name(#[from] RequestError),
}

impl ProtocolError {
    /// For how long the agent asks to be left alone (`Retry-After`), if it does.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Denied(error, ..) | Self::Agent(error) => error.retry_after(),
            Self::Unknown { .. } | Self::Name(_) => None,
        }
    }
}

/// Why a look at the entries failed.
struct Unread {
    text: String,
    retry_after: Option<Duration>,
}

impl From<AgentError> for Unread {
    fn from(error: AgentError) -> Self {
        Self {
            text: error.to_string(),
            retry_after: error.retry_after(),
        }
    }
}

impl From<ProtocolError> for Unread {
    fn from(error: ProtocolError) -> Self {
        Self {
            text: error.to_string(),
            retry_after: error.retry_after(),
        }
    }
}

impl From<String> for Unread {
    fn from(text: String) -> Self {
        Self {
            text,
            retry_after: None,
        }
    }
}

/// Asks what `service` speaks: by its own `service-defaults`, else by `proxy-defaults`, else
/// `tcp`. `flag` is the one that says it where the agent does not.
///
/// # Errors
/// When the agent cannot be asked, refuses, or names no protocol.
pub async fn protocol_of(
    agent: &AgentClient,
    service: &str,
    flag: &'static str,
) -> Result<Protocol, ProtocolError> {
    let query = Query::default();
    let own = config::get("service-defaults", service, &query)?;
    let all = config::get("proxy-defaults", "global", &query)?;
    let denied = |error| match error {
        AgentError::Denied { .. } => ProtocolError::Denied(error, service.to_owned(), flag),
        error => ProtocolError::Agent(error),
    };
    let found = match read(agent, &own, config::decode_own_protocol)
        .await
        .map_err(denied)?
    {
        Some(own) => Some(own),
        None => read(agent, &all, config::decode_default_protocol)
            .await
            .map_err(denied)?,
    };
    match found {
        None => Ok(Protocol::Tcp),
        Some(name) => Protocol::from_code(&name).ok_or_else(|| ProtocolError::Unknown {
            service: service.to_owned(),
            protocol: crate::escape::visible(&name, 40),
        }),
    }
}

/// An entry, absent or not; an error if the agent gave no word about it.
async fn read<T>(
    agent: &AgentClient,
    request: &HttpRequest,
    decode: impl FnOnce(&HttpReply<'_>) -> Result<Option<T>, ReplyError>,
) -> Result<Option<T>, AgentError> {
    let reply = agent.execute(request).await?;
    if reply.status == 404 {
        return Ok(None);
    }
    if let Some(refusal) = agent.refusal(request, &reply) {
        return Err(refusal);
    }
    decode(&reply.as_core()).map_err(|error| agent.unreadable(request, &reply, &error.to_string()))
}

/// Keeps the hub informed about our own service and the mesh, for ever. With a `given`
/// protocol the agent is not asked for it.
pub(super) async fn follow_own(
    hub: Arc<Hub>,
    agent: AgentClient,
    service: String,
    mut given: watch::Receiver<Option<Protocol>>,
    known: watch::Sender<KnownProtocol>,
    max_stale: Option<Duration>,
) {
    let mut backoff = Backoff::new(FIRST, LONGEST, rand::random());
    let mut was_read = false;
    loop {
        let now = *given.borrow_and_update();
        let looked = look(&hub, &agent, &service, now, &mut was_read).await;
        let wait = match looked {
            Ok(protocol) => {
                set(&known, protocol);
                backoff.succeed();
                next(max_stale)
            }
            Err(Unread { text, retry_after }) => {
                if known.borrow().protocol.is_none() {
                    hub.failed(Which::Intentions, &text);
                }
                failed(&known, &service, text);
                later(backoff.fail(), retry_after)
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            Ok(()) = given.changed() => {}
        }
    }
}

async fn look(
    hub: &Arc<Hub>,
    agent: &AgentClient,
    service: &str,
    given: Option<Protocol>,
    was_read: &mut bool,
) -> Result<Protocol, Unread> {
    let mesh = config::get("mesh", "mesh", &Query::default()).map_err(|error| error.to_string())?;
    let found = read(agent, &mesh, config::decode_normalization).await;
    hub.set_normalization(normalization(found, was_read)?)
        .await?;
    let protocol = match given {
        Some(given) => given,
        None => protocol_of(agent, service, "-protocol").await?,
    };
    hub.set_protocol(&document_name(service), protocol).await?;
    Ok(protocol)
}

/// How requests are normalised by what came of reading the `mesh` entry. A token that may not
/// read it is told from one that may no longer by whether the entry `was_read` before.
fn normalization(
    found: Result<Option<String>, AgentError>,
    was_read: &mut bool,
) -> Result<Option<String>, AgentError> {
    match found {
        Ok(found) => {
            *was_read = true;
            Ok(found)
        }
        // What Consul normalises by itself holds; strict matching also sees the other readings.
        Err(error @ AgentError::Denied { .. }) if !*was_read => {
            tracing::debug!(%error, "the mesh entry is taken as absent");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Finds out what an upstream speaks, for ever.
pub(super) async fn follow_upstream(
    agent: AgentClient,
    service: String,
    known: watch::Sender<KnownProtocol>,
    max_stale: Option<Duration>,
) {
    let mut backoff = Backoff::new(FIRST, LONGEST, rand::random());
    loop {
        let wait = match protocol_of(&agent, &service, "-upstream-protocol").await {
            Ok(protocol) => {
                set(&known, protocol);
                backoff.succeed();
                next(max_stale)
            }
            Err(error @ ProtocolError::Denied(..)) => {
                // Bytes are passed on as they are, whatever they mean.
                failed(&known, &service, error.to_string());
                known.send_if_modified(|known| {
                    let first = known.protocol.is_none();
                    known.protocol.get_or_insert(Protocol::Tcp);
                    first
                });
                next(max_stale)
            }
            Err(error) => {
                failed(&known, &service, error.to_string());
                later(backoff.fail(), error.retry_after())
            }
        };
        sleep(wait).await;
    }
}

fn set(known: &watch::Sender<KnownProtocol>, protocol: Protocol) {
    known.send_if_modified(|known| {
        let news = KnownProtocol::from(protocol);
        let changed = *known != news;
        *known = news;
        changed
    });
}

fn failed(known: &watch::Sender<KnownProtocol>, service: &str, error: String) {
    known.send_if_modified(|known| {
        if known.error.as_ref() != Some(&error) {
            tracing::warn!(service, error, "what it speaks cannot be read");
        }
        known.error = Some(error);
        false
    });
}

/// After failures: by our own count in milliseconds, or as the agent asks if that is later
/// and not too late.
fn later(backoff: u64, told: Option<Duration>) -> Duration {
    let told = told.unwrap_or_default().min(Duration::from_millis(LONGEST));
    Duration::from_millis(backoff).max(told)
}

/// Those who started together do not go on asking together.
fn next(max_stale: Option<Duration>) -> Duration {
    let again = max_stale.map_or(AGAIN, |budget| AGAIN.min(budget / 4));
    again.mul_f64(rand::rng().random_range(0.75..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_may_ask_to_be_left_alone_but_not_for_ever() {
        let seconds = Duration::from_secs;
        assert_eq!(later(1_500, None), Duration::from_millis(1_500));
        assert_eq!(later(1_500, Some(seconds(7))), seconds(7));
        assert_eq!(later(9_000, Some(seconds(7))), seconds(9));
        assert_eq!(later(1_500, Some(seconds(3_600))), seconds(30));
        let refused = AgentError::Status {
            path: "/v1/config/mesh/mesh".to_owned(),
            status: 429,
            detail: String::new(),
            retry_after: Some(seconds(7)),
        };
        let unread = Unread::from(ProtocolError::from(refused));
        assert_eq!(unread.retry_after, Some(seconds(7)));
    }

    #[test]
    fn a_refusal_says_nothing_about_an_entry_that_was_read() {
        let denied = || {
            Err(AgentError::Denied {
                path: "/v1/config/mesh/mesh".to_owned(),
                token: "the given token".to_owned(),
                detail: "ACL not found".to_owned(),
            })
        };
        let mut was_read = false;
        assert_eq!(normalization(denied(), &mut was_read).unwrap(), None);
        let found = Some(r#"{"MergeSlashes":true}"#.to_owned());
        let kept = normalization(Ok(found.clone()), &mut was_read);
        assert_eq!(kept.unwrap(), found);
        normalization(denied(), &mut was_read).unwrap_err();
        assert_eq!(normalization(Ok(None), &mut was_read).unwrap(), None);
        normalization(denied(), &mut was_read).unwrap_err();
    }
}
