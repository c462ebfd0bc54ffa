//! Agents and the commands that serve Envoy, as processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig};
use portcullis_tests::api::Api;
use portcullis_tests::consul::{Consul, MANAGEMENT_TOKEN};
use portcullis_tests::program;
use portcullis_tests::proxy::Proxy;
use portcullis_tests::stage::HUNG;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What takes longer does not come.
pub(crate) const SOON: Duration = HUNG;

/// A development agent that denies by default, beside a test without a runtime.
pub(crate) struct Dev {
    pub(crate) agent: DevAgent,
    _runtime: Runtime,
}

impl Dev {
    pub(crate) fn start(config: DevAgentConfig) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let config = DevAgentConfig {
            default_intention_policy: Some(DefaultPolicy::Deny),
            ..config
        };
        let agent = runtime
            .block_on(DevAgent::start(config))
            .expect("the agent starts");
        Self {
            agent,
            _runtime: runtime,
        }
    }
}

/// An agent of either kind.
pub(crate) trait Agent {
    fn address(&self) -> SocketAddr;

    /// A token that may do everything, if one is needed.
    fn token(&self) -> Option<&str>;

    fn api(&self) -> Api {
        Api::new(self.address(), self.token())
    }

    /// The identity of a service.
    fn id(&self, service: &str) -> String {
        let roots = self.api().get("/v1/agent/connect/ca/roots").good().json();
        let domain = roots["TrustDomain"].as_str().expect("a trust domain");
        format!("spiffe://{domain}/ns/default/dc/dc1/svc/{service}")
    }

    /// Another root, whose key has `bits` bits.
    fn rotate(&self, bits: u32) {
        let config = json!({ "Provider": "consul", "Config": {
            "LeafCertTTL": "72h", "PrivateKeyType": "ec", "PrivateKeyBits": bits,
        }});
        let _ = self
            .api()
            .put("/v1/connect/ca/configuration", &config)
            .good();
    }
}

impl Agent for Dev {
    fn address(&self) -> SocketAddr {
        self.agent.address()
    }

    fn token(&self) -> Option<&str> {
        None
    }
}

/// A real Consul agent with ACLs.
pub(crate) struct WithAcls(pub(crate) Consul);

impl Agent for WithAcls {
    fn address(&self) -> SocketAddr {
        self.0.address()
    }

    fn token(&self) -> Option<&str> {
        Some(MANAGEMENT_TOKEN)
    }
}

/// `portcullis sds`.
pub(crate) struct Server {
    pub(crate) process: Proxy,
    pub(crate) socket: PathBuf,
    folder: TempDir,
}

impl Server {
    /// `portcullis COMMAND -service SERVICE -listen SOCKET` with these flags; waits until it
    /// is ready.
    pub(crate) fn start(command: &str, agent: &dyn Agent, service: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = Self::start_in(folder, command, agent, service, flags);
        server.process.logs("ready: ");
        server
    }

    /// The same in a folder that there is already; does not wait.
    pub(crate) fn start_in(
        folder: TempDir,
        command: &str,
        agent: &dyn Agent,
        service: &str,
        flags: &[&str],
    ) -> Self {
        let socket = folder.path().join("socket");
        let mut run = program::portcullis([command, "-service", service, "-log-level=debug"]);
        run.arg(format!("-listen=unix:{}", socket.display()))
            .args(flags)
            .env("CONSUL_HTTP_ADDR", agent.address().to_string());
        if let Some(token) = agent.token() {
            run.env("CONSUL_HTTP_TOKEN", token);
        }
        Self {
            process: Proxy::spawn(run),
            socket,
            folder,
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until it ends by itself, well.
    pub(crate) fn ends(mut self) {
        let ended = self.process.process().wait(SOON);
        assert!(
            ended.is_some_and(|status| status.success()),
            "{}",
            self.process.log()
        );
    }

    /// Ends it, and leaves its folder.
    pub(crate) fn stop(mut self) -> TempDir {
        assert_eq!(self.process.stop(), Some(0), "{}", self.process.log());
        self.folder
    }
}
