//! An agent, an application, and the proxy process in front of it.

use std::net::SocketAddr;
use std::time::Duration;

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig};
use portcullis_tests::process::eventually;
use portcullis_tests::proxy::Proxy;
use portcullis_tests::{ports, program};
use serde_json::{Value, json};

use crate::application::Application;
use crate::client::Client;

/// What takes longer does not come.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The service `api` behind its proxy.
pub(crate) struct Scene {
    pub(crate) agent: DevAgent,
    pub(crate) application: Application,
    pub(crate) proxy: Proxy,
    pub(crate) listen: SocketAddr,
    pub(crate) metrics: SocketAddr,
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
    intentions(
        agent,
        json!([{ "Name": "web", "Permissions": permissions }]),
    );
}

pub(crate) fn intentions(agent: &DevAgent, sources: Value) {
    agent
        .put_config_entry(&json!({
            "Kind": "service-intentions", "Name": "api", "Sources": sources,
        }))
        .expect("intentions");
}

/// What `api` speaks, by its entry.
pub(crate) fn speaks(agent: &DevAgent, protocol: &str) {
    agent
        .put_config_entry(&json!({
            "Kind": "service-defaults", "Name": "api", "Protocol": protocol,
        }))
        .expect("an entry");
}

/// A running proxy with these flags; logs are JSON.
pub(crate) fn proxy(agent: SocketAddr, flags: &[String]) -> Proxy {
    // Compiled once, not by all of them at once.
    let _ = portcullis_tests::stage::component();
    let mut command = program::portcullis(["proxy", "-log-json"]);
    command
        .args(flags)
        .env("CONSUL_HTTP_ADDR", agent.to_string())
        .env("RUST_LOG", "info");
    Proxy::spawn(command)
}

impl Scene {
    /// `api` speaks `protocol`, and `web` may do what `permissions` say.
    pub(crate) async fn start(protocol: &str, permissions: Value, flags: &[&str]) -> Self {
        let sources = json!([{ "Name": "web", "Permissions": permissions }]);
        Self::with_sources(protocol, sources, flags).await
    }

    /// The same with intentions of any form.
    pub(crate) async fn with_sources(protocol: &str, sources: Value, flags: &[&str]) -> Self {
        let application = Application::start().await;
        Self::before(application, protocol, sources, flags).await
    }

    /// The same with this application.
    pub(crate) async fn before(
        application: Application,
        protocol: &str,
        sources: Value,
        flags: &[&str],
    ) -> Self {
        Self::start_on(agent().await, application, protocol, sources, flags).await
    }

    /// The same on an agent that has something already.
    pub(crate) async fn start_on(
        agent: DevAgent,
        application: Application,
        protocol: &str,
        sources: Value,
        flags: &[&str],
    ) -> Self {
        speaks(&agent, protocol);
        intentions(&agent, sources);
        let [listen, metrics] = ports::free::<2>();
        let mut all = vec![
            "-service=api".to_owned(),
            format!("-service-addr={}", application.address),
            format!("-listen=127.0.0.1:{listen}"),
            format!("-metrics=127.0.0.1:{metrics}"),
            "-register".to_owned(),
        ];
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let proxy = tokio::task::block_in_place(|| {
            let proxy = proxy(agent.address(), &all);
            proxy.logs("ready: connections are taken");
            proxy
        });
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            agent,
            application,
            proxy,
            listen: local(listen),
            metrics: local(metrics),
        }
    }

    /// A client with the certificate of `service`.
    pub(crate) fn client(&self, service: &str) -> Client {
        Client::new(&self.agent, service, self.listen)
    }

    /// The lines of the access log about requests, once there are so many.
    pub(crate) fn lines(&self, count: usize) -> Vec<Value> {
        lines(&self.proxy, count)
    }

    /// Waits until the metrics have all of these lines: some follow their answer.
    pub(crate) async fn counts(&self, lines: &[&str]) {
        portcullis_tests::stage::eventually(&lines.join(", "), async || {
            let metrics = self.metrics();
            lines.iter().all(|line| metrics.contains(line))
        })
        .await;
    }

    /// The metrics as they are now.
    pub(crate) fn metrics(&self) -> String {
        let api = portcullis_tests::api::Api::new(self.metrics, None);
        tokio::task::block_in_place(|| api.get("/metrics").body)
    }
}

/// What a proxy has logged about requests, once there are so many lines.
pub(crate) fn lines(proxy: &Proxy, count: usize) -> Vec<Value> {
    tokio::task::block_in_place(|| {
        eventually("lines of the access log", SOON, || {
            let log = proxy.log();
            let lines: Vec<Value> = log
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .filter(|line| line.to_string().contains("http.method"))
                .collect();
            (lines.len() >= count).then_some(lines)
        })
    })
}
