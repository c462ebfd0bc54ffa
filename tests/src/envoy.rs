//! A real Envoy with the filter, configured as `guest/envoy/README.md` says.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_dev_agent::DevAgent;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Process, eventually};
use crate::{components, envoy_process, peers, ports};

/// What takes longer does not come.
const SOON: Duration = Duration::from_secs(90);

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// A running Envoy; killed when dropped.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
    folder: TempDir,
}

/// What an Envoy is started with.
#[derive(Debug)]
pub struct Plan {
    folder: TempDir,
    concurrency: u32,
    listeners: Vec<Value>,
    clusters: Vec<Value>,
    extra: Vec<(String, Value)>,
}

/// One wasm plugin.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// Empty is shared with every other empty one.
    pub vm_id: String,
    /// `FAIL_RELOAD` and its brothers.
    pub failure_policy: String,
    /// Another module than ours.
    pub module: Option<PathBuf>,
    /// The plugin configuration.
    pub configuration: Value,
}

impl Plugin {
    /// Ours, as the documentation says.
    #[must_use]
    pub fn new(configuration: Value) -> Self {
        Self {
            vm_id: "portcullis".to_owned(),
            failure_policy: "FAIL_RELOAD".to_owned(),
            module: None,
            configuration,
        }
    }

    fn filter(&self, chain: &str) -> Value {
        let module = self.module.clone().unwrap_or_else(components::envoy_filter);
        json!({
            "name": format!("envoy.filters.{chain}.wasm"),
            "typed_config": {
                "@type": format!("{TYPES}.filters.{chain}.wasm.v3.Wasm"),
                "config": {
                    "name": "portcullis",
                    "root_id": "portcullis",
                    "failure_policy": self.failure_policy,
                    "reload_config": { "backoff": { "base_interval": "0.1s", "max_interval": "0.5s" } },
                    "vm_config": {
                        "vm_id": self.vm_id,
                        "runtime": "envoy.wasm.runtime.v8",
                        "code": { "local": { "filename": module.display().to_string() } },
                    },
                    "configuration": {
                        "@type": "type.googleapis.com/google.protobuf.StringValue",
                        "value": match &self.configuration {
                            Value::String(text) => text.clone(),
                            other => other.to_string(),
                        },
                    },
                },
            },
        })
    }

    /// As a network filter.
    #[must_use]
    pub fn network(&self) -> Value {
        self.filter("network")
    }

    /// As an HTTP filter.
    #[must_use]
    pub fn http(&self) -> Value {
        self.filter("http")
    }
}

/// The configuration of the filter of `service`, whose agent is the cluster `agent`.
#[must_use]
pub fn settings(service: &str) -> Value {
    // Whoever comes before the first policy waits for it, however slow the machine is.
    json!({ "service": service, "agent": { "cluster": "agent" }, "start_wait_ms": 60_000 })
}

/// A cluster with one address.
#[must_use]
pub fn cluster(name: &str, address: SocketAddr) -> Value {
    let many = json!({ "thresholds": [{ "max_connections": 100_000, "max_requests": 100_000 }] });
    envoy_process::cluster(
        name,
        envoy_process::address(address),
        json!({ "circuit_breakers": many }),
    )
}

/// TLS as the documentation says: client certificates required and verified, no resumption.
#[must_use]
pub fn tls(folder: &Path) -> Value {
    let file = |name: &str| json!({ "filename": folder.join(name).display().to_string() });
    json!({
        "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "disable_stateless_session_resumption": true,
        "disable_stateful_session_resumption": true,
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [{ "certificate_chain": file("chain.pem"), "private_key": file("key.pem") }],
            "validation_context": { "trusted_ca": file("roots.pem") },
        },
    })
}

/// A listener on `port` with these network filters.
#[must_use]
pub fn listener(port: u16, tls: &Value, filters: &[Value]) -> Value {
    json!({
        "name": format!("listener-{port}"),
        "address": envoy_process::address(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        "access_log": [],
        "filter_chains": [{
            "transport_socket": { "name": "tls", "typed_config": tls },
            "filters": filters,
        }],
    })
}

/// `tcp_proxy` to `cluster`, which goes on when the handshake is done (or with the first
/// bytes, if `mode` is `ON_DOWNSTREAM_DATA`).
#[must_use]
pub fn tcp_proxy(cluster: &str, mode: &str, log: &Path) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "tcp",
            "cluster": cluster,
            "upstream_connect_mode": mode,
            "max_early_data_bytes": 8192,
            "access_log": [file_log(log, "tcp %FILTER_STATE(wasm.portcullis.decision:PLAIN)% %DOWNSTREAM_LOCAL_CLOSE_REASON%\n")],
        },
    })
}

/// The HTTP connection manager to `cluster` with these HTTP filters before the router.
#[must_use]
pub fn http_manager(cluster: &str, filters: &[Value], log: &Path) -> Value {
    let mut filters = filters.to_vec();
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") },
    }));
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "http",
            "codec_type": "AUTO",
            "normalize_path": true,
            "stream_idle_timeout": "0s",
            "upgrade_configs": [{ "upgrade_type": "websocket" }],
            "http2_protocol_options": { "allow_connect": true },
            "route_config": { "virtual_hosts": [{
                "name": "all", "domains": ["*"],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster, "timeout": "0s" } }],
            }]},
            "http_filters": filters,
            "access_log": [file_log(log, "http %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %FILTER_STATE(wasm.portcullis.decision:PLAIN)% %REQ(:PATH)%\n")],
        },
    })
}

fn file_log(path: &Path, format: &str) -> Value {
    json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"),
            "path": path.display().to_string(),
            "log_format": { "text_format_source": { "inline_string": format } },
        },
    })
}

impl Plan {
    /// Nothing yet; the folder has the certificate of `service` and the roots of `agent`.
    ///
    /// # Panics
    /// When the agent issues none.
    #[must_use]
    pub fn new(agent: &DevAgent, service: &str) -> Self {
        let leaf = agent.issue(service).expect("a leaf");
        let plan = Self::with(&leaf.chain_pem, &leaf.key_pem, &agent.roots_pem().concat());
        plan.cluster(cluster("agent", agent.address()))
    }

    /// The same with a certificate, its key and roots of any origin.
    ///
    /// # Panics
    /// When the folder cannot be written.
    #[must_use]
    pub fn with(chain: &str, key: &str, roots: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in [("chain.pem", chain), ("key.pem", key), ("roots.pem", roots)] {
            fs::write(folder.path().join(name), text).expect("the folder can be written");
        }
        Self {
            folder,
            concurrency: 1,
            listeners: Vec::new(),
            clusters: Vec::new(),
            extra: Vec::new(),
        }
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where access is logged.
    #[must_use]
    pub fn access_log(&self) -> PathBuf {
        self.folder().join("access.log")
    }

    /// So many workers.
    #[must_use]
    pub fn workers(mut self, count: u32) -> Self {
        self.concurrency = count;
        self
    }

    /// A further cluster.
    #[must_use]
    pub fn cluster(mut self, cluster: Value) -> Self {
        self.clusters.push(cluster);
        self
    }

    /// A further listener.
    #[must_use]
    pub fn listener(mut self, listener: Value) -> Self {
        self.listeners.push(listener);
        self
    }

    /// A further field of the bootstrap, or of `static_resources` in its place.
    #[must_use]
    pub fn field(mut self, name: &str, value: Value) -> Self {
        self.extra.push((name.to_owned(), value));
        self
    }

    /// A listener for bytes to the cluster `app`; its port.
    #[must_use]
    pub fn tcp(self, plugin: &Plugin, mode: &str) -> (Self, SocketAddr) {
        let [port] = ports::free::<1>();
        let filters = [plugin.network(), tcp_proxy("app", mode, &self.access_log())];
        let listener = listener(port, &tls(self.folder()), &filters);
        (self.listener(listener), local(port))
    }

    /// A listener for HTTP to the cluster `app`; its port.
    #[must_use]
    pub fn http(self, plugin: &Plugin) -> (Self, SocketAddr) {
        let [port] = ports::free::<1>();
        let manager = http_manager("app", &[plugin.http()], &self.access_log());
        let listener = listener(port, &tls(self.folder()), &[manager]);
        (self.listener(listener), local(port))
    }

    /// Starts it and waits until it is live; `None` where peers are left out on purpose.
    ///
    /// # Panics
    /// If Envoy is missing or does not get ready.
    #[must_use]
    pub fn start(self, test: &str) -> Option<Envoy> {
        let mut envoy = self.spawn(test)?;
        envoy.live();
        Some(envoy)
    }

    /// Starts it without waiting.
    ///
    /// # Panics
    /// If Envoy is missing.
    #[must_use]
    pub fn spawn(self, test: &str) -> Option<Envoy> {
        let binary = peers::require(test, "envoy/bin/envoy")?;
        let [admin] = ports::free::<1>();
        let mut bootstrap = json!({
            "node": { "id": "test", "cluster": "test" },
            "admin": envoy_process::admin(admin),
            "static_resources": { "listeners": self.listeners, "clusters": self.clusters },
        });
        for (name, value) in self.extra {
            bootstrap[name] = value;
        }
        let file = self.folder.path().join("bootstrap.json");
        fs::write(&file, bootstrap.to_string()).expect("the bootstrap can be written");
        let workers = self.concurrency.to_string();
        let flags = [
            "--log-level",
            "warning",
            "--component-log-level",
            "wasm:info",
        ];
        let flags = [&flags[..], &["--concurrency", &workers]].concat();
        let log = self.folder.path().join("log");
        Some(Envoy {
            process: envoy_process::spawn(&binary, &file, &log, &flags),
            admin: local(admin),
            folder: self.folder,
        })
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Envoy {
    /// Waits until it serves.
    ///
    /// # Panics
    /// When it ends or never does.
    pub fn live(&mut self) {
        eventually("Envoy is live", SOON, || {
            if let Some(status) = self.process.wait(Duration::ZERO) {
                panic!("Envoy ended with {status}\n{}", self.log());
            }
            envoy_process::get(self.admin, "/ready").map(drop)
        });
    }

    /// How it ended.
    ///
    /// # Panics
    /// When it does not end.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        self.process.wait(SOON).expect("Envoy ends")
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits for a line in the access log.
    ///
    /// # Panics
    /// When it never comes.
    pub fn logged(&self, line: &str) {
        let path = self.folder.path().join("access.log");
        let read = || fs::read_to_string(&path).unwrap_or_default();
        let began = std::time::Instant::now();
        while !read().lines().any(|other| other == line) {
            assert!(
                began.elapsed() < SOON,
                "no `{line}` in the access log:\n{}",
                read()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the admin interface answers.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn admin(&self, path: &str) -> String {
        envoy_process::get(self.admin, path).expect("the admin interface answers")
    }

    /// A statistic; `None` if there is none of that name.
    #[must_use]
    pub fn stat(&self, name: &str) -> Option<u64> {
        let stats = self.admin(&format!("/stats?filter={name}"));
        stats
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(other, _)| *other == name)
            .and_then(|(_, value)| value.trim().parse().ok())
    }

    /// Waits until a statistic is at least `least`.
    ///
    /// # Panics
    /// When it never is.
    pub fn stat_reaches(&self, name: &str, least: u64) -> u64 {
        let began = std::time::Instant::now();
        loop {
            match self.stat(name) {
                Some(value) if value >= least => return value,
                other => assert!(
                    began.elapsed() < SOON,
                    "`{name}` is {other:?}, not {least}\n{}\n{}",
                    self.admin("/stats?filter=wasm"),
                    self.log()
                ),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
