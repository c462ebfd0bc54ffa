//! How a proxy is run by systemd, in a container, and from a shell.

mod container;
mod shell;
mod systemd;

use std::net::SocketAddr;
use std::time::Duration;

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig};

/// Anything that takes longer has hung.
const SOON: Duration = Duration::from_secs(60);

/// A development agent that denies what nobody allows.
struct Agent {
    runtime: tokio::runtime::Runtime,
    agent: DevAgent,
}

impl Agent {
    fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let config = DevAgentConfig {
            default_intention_policy: Some(DefaultPolicy::Deny),
            ..DevAgentConfig::for_tests()
        };
        let agent = runtime
            .block_on(DevAgent::start(config))
            .expect("the agent starts");
        Self { runtime, agent }
    }

    fn address(&self) -> SocketAddr {
        self.agent.address()
    }

    fn stop(self) {
        self.runtime.block_on(self.agent.shutdown());
    }
}
