//! What a host offers to these tests.

use serde::{Deserialize, Serialize};

/// `settings` of `wit/agent.wit`, as far as the tests change them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settings {
    pub(crate) mode: &'static str,
    pub(crate) default_policy: &'static str,
    pub(crate) max_stale: u64,
    pub(crate) fetch_timeout: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: "intentions",
            default_policy: "auto",
            max_stale: 24 * 3_600_000,
            // Consul may be slow on a busy machine; a question that has its answer does not wait.
            fetch_timeout: 20_000,
        }
    }
}

/// `decision`, as far as the tests look at it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Decision {
    pub(crate) effect: String,
    pub(crate) code: String,
    pub(crate) generation: u64,
}

/// `watched`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Watched {
    pub(crate) name: String,
    pub(crate) confirmed_at: u64,
    pub(crate) last_error: Option<String>,
}

/// An instance of the component in some host, with the host's HTTP.
pub(crate) trait Host {
    fn configure(&mut self, settings: &Settings) -> Result<(), String>;
    fn authorize(&mut self, target: &str, uris: &[&str], now: u64) -> Decision;
    /// The same about a request for this path; and what `explain` says.
    fn authorize_request(
        &mut self,
        target: &str,
        uris: &[&str],
        path: &str,
        now: u64,
    ) -> (Decision, String);
    /// The decision that `explain` gives.
    fn explain(&mut self, target: &str, uris: &[&str], now: u64) -> Decision;
    /// The URI of the identity, or the kind of the refusal.
    fn verify(&mut self, chain: &[Vec<u8>], now: u64) -> Result<String, String>;
    fn status(&mut self) -> Vec<Watched>;
    /// Requests that were let through or refused since the last call: method and path.
    fn requests(&mut self) -> Vec<String>;
}
