//! An agent and an example application, each as a user runs it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig};
use portcullis_tests::ports;
use portcullis_tests::program;
use portcullis_tests::proxy::Proxy;
use serde_json::{Value, json};

use crate::client::Client;

/// The file of an example, built once for each test program.
pub(crate) fn example(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--release"])
            .args(["--package", "portcullis-examples", "--examples"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .status()
            .expect("cargo starts");
        assert!(built.success(), "the examples cannot be built");
    });
    let here = std::env::current_exe().expect("a test program has a file");
    let release = here
        .ancestors()
        .nth(2)
        .expect("it is in target/release/deps");
    release.join("examples").join(name)
}

/// An example as a process that asks the agent at `agent`.
pub(crate) fn run(name: &str, agent: SocketAddr, arguments: &[String]) -> Proxy {
    // Compiled once, not by all of them at once.
    let _ = portcullis_tests::stage::component();
    let _ = program::path();
    let mut command = Command::new(example(name));
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("CONSUL_") {
            command.env_remove(&variable);
        }
    }
    command
        .args(arguments)
        .env("NO_COLOR", "1")
        .env("CONSUL_HTTP_ADDR", agent.to_string());
    Proxy::spawn(command)
}

/// What takes longer does not come.
pub(crate) const SOON: std::time::Duration = std::time::Duration::from_secs(60);

/// The service `api`, native, as one of the examples.
pub(crate) struct Scene {
    pub(crate) agent: DevAgent,
    pub(crate) api: Proxy,
    pub(crate) listen: SocketAddr,
    pub(crate) metrics: SocketAddr,
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// An agent that denies what nobody allows.
pub(crate) async fn agent() -> DevAgent {
    let config = DevAgentConfig {
        default_intention_policy: Some(DefaultPolicy::Deny),
        ..DevAgentConfig::for_tests()
    };
    DevAgent::start(config).await.expect("the agent starts")
}

/// Intentions for `api`, of the source `web`.
pub(crate) fn permit(agent: &DevAgent, permissions: Value) {
    let defaults = json!({ "Kind": "service-defaults", "Name": "api", "Protocol": "http" });
    agent.put_config_entry(&defaults).expect("an entry");
    let sources = json!([{ "Name": "web", "Permissions": permissions }]);
    let intentions = json!({ "Kind": "service-intentions", "Name": "api", "Sources": sources });
    agent.put_config_entry(&intentions).expect("intentions");
}

/// `web` may do nothing.
pub(crate) fn forbid(agent: &DevAgent) {
    let sources = json!([{ "Name": "web", "Action": "deny" }]);
    let intentions = json!({ "Kind": "service-intentions", "Name": "api", "Sources": sources });
    agent.put_config_entry(&intentions).expect("intentions");
}

/// What the tests begin with.
pub(crate) fn usual() -> Value {
    json!([
        { "Action": "deny", "HTTP": { "PathPrefix": "/items/secret" } },
        { "Action": "allow", "HTTP": { "PathPrefix": "/items/", "Methods": ["GET"] } },
        { "Action": "allow", "HTTP": { "PathExact": "/echo", "Header": [{ "Name": "x-key", "Exact": "1" }] } },
        { "Action": "allow", "HTTP": { "PathExact": "/ticks" } },
    ])
}

impl Scene {
    pub(crate) async fn start(name: &str) -> Self {
        let agent = agent().await;
        permit(&agent, usual());
        let [listen, metrics] = ports::free::<2>();
        let (listen, metrics) = (local(listen), local(metrics));
        let arguments = [listen.to_string(), metrics.to_string()];
        let api = tokio::task::block_in_place(|| {
            let api = run(name, agent.address(), &arguments);
            api.logs("api listens on");
            api
        });
        Self {
            agent,
            api,
            listen,
            metrics,
        }
    }

    /// A client with the certificate of `service`.
    pub(crate) fn client(&self, service: &str) -> Client {
        Client::new(&self.agent, service, self.listen)
    }
}
