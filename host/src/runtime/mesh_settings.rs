//! What a `mesh-policy` component is told, and what it tells about itself.

use std::time::Duration;

use portcullis_core::time::Timestamp;

use super::component::ComponentError;
use super::limits::Limits;
use super::mesh_bindings::exports::portcullis::mesh::agent::{DefaultPolicy, Mode};
use crate::agent_client::AgentClient;

/// Settings of a `mesh-policy` component; `wit/agent.wit` says what they mean.
#[derive(Clone, Debug)]
pub struct MeshSettings {
    /// `host:port` by which the component names the agent. For a unix socket any name does.
    pub authority: String,
    /// Where answers come from.
    pub mode: Mode,
    /// What holds where no intention matches.
    pub default_policy: DefaultPolicy,
    /// Read requests as Envoy does.
    pub envoy_matching: bool,
    /// For how long the last good data decides; zero for no limit.
    pub max_stale: Duration,
    /// How long a call waits for data that it needs.
    pub fetch_timeout: Duration,
    /// What a call may take beyond that. Default 5 s.
    pub margin: Duration,
    /// What the instance may use.
    pub limits: Limits,
}

impl MeshSettings {
    /// The defaults, for the agent of `client`.
    #[must_use]
    pub fn new(client: &AgentClient) -> Self {
        Self {
            authority: client.config().address.authority(),
            mode: Mode::Intentions,
            default_policy: DefaultPolicy::Auto,
            envoy_matching: false,
            max_stale: Duration::from_secs(86_400),
            fetch_timeout: Duration::from_secs(2),
            margin: Duration::from_secs(5),
            limits: Limits::default(),
        }
    }
}

/// What the component knows about one thing that it watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// `roots` or `service/<partition>/<namespace>/<name>`.
    pub name: String,
    /// The last index that the agent gave.
    pub index: u64,
    /// When the agent last answered well; the epoch if never.
    pub confirmed_at: Timestamp,
    /// The last failure since then.
    pub last_error: Option<String>,
}

/// Why a `mesh-policy` component cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The component itself.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// It cannot be started, or it failed.
    #[error("{component} failed: {detail}")]
    Failed {
        /// Which one.
        component: String,
        /// Why.
        detail: String,
    },
    /// It refuses its settings.
    #[error("{component} refuses its settings: {detail}")]
    Settings {
        /// Which one.
        component: String,
        /// Why.
        detail: String,
    },
}
