//! Why the agent could not be asked: one line each, with what to do.

use std::time::Duration;

/// A question to the agent that got no usable answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AgentError {
    /// The name does not resolve.
    #[error("unknown host `{host}` in the agent address `{address}`")]
    UnknownHost {
        /// The agent's address.
        address: String,
        /// The name.
        host: String,
    },
    /// Nothing listens there.
    #[error("no agent at `{address}`: {detail}; is it running, and is CONSUL_HTTP_ADDR right?")]
    Refused {
        /// The agent's address.
        address: String,
        /// The system's words.
        detail: String,
    },
    /// The connection broke.
    #[error("lost the agent at `{address}`: {detail}")]
    Broken {
        /// The agent's address.
        address: String,
        /// What happened.
        detail: String,
    },
    /// No answer in time.
    #[error("no answer from the agent at `{address}` within {after:?}")]
    Timeout {
        /// The agent's address.
        address: String,
        /// How long we waited.
        after: Duration,
    },
    /// The TLS handshake failed.
    #[error("TLS with the agent at `{address}` failed: {detail}")]
    Tls {
        /// The agent's address.
        address: String,
        /// What failed.
        detail: String,
    },
    /// Something else answers there.
    #[error("what answers at `{address}` is not a Consul agent: {detail}")]
    NotConsul {
        /// The agent's address.
        address: String,
        /// What it did.
        detail: String,
    },
    /// The answer is larger than any good one.
    #[error("the agent's answer to `{path}` is larger than {limit} bytes")]
    TooLarge {
        /// What was asked.
        path: String,
        /// The limit.
        limit: usize,
    },
    /// 403: a permission is missing.
    #[error("the agent refuses `{path}` with {token}: {detail}")]
    Denied {
        /// What was asked.
        path: String,
        /// Which token was sent, in words.
        token: String,
        /// The agent's words, which name the permission.
        detail: String,
    },
    /// Any other status that is not 200.
    #[error("the agent answers `{path}` with status {status}: {detail}")]
    Status {
        /// What was asked.
        path: String,
        /// The status.
        status: u16,
        /// The agent's words.
        detail: String,
        /// For how long it asks to be left alone (`Retry-After`), if it does.
        retry_after: Option<Duration>,
    },
    /// The request itself cannot be sent.
    #[error("`{path}` cannot be asked: {detail}")]
    Request {
        /// What was to be asked.
        path: String,
        /// Why not.
        detail: String,
    },
    /// The reply cannot be read.
    #[error("the agent's answer to `{path}` cannot be read: {detail}")]
    Reply {
        /// What was asked.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl AgentError {
    /// For how long the agent asks to be left alone, if it does.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
