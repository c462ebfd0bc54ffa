//! The two agents: a real one as a child process, and ours in this process.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::Method;
use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig, KeyType, Token};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Answer, Call, send};

pub(crate) const NODE: &str = "parity";

/// A token that both agents get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenSetup {
    pub(crate) name: &'static str,
    pub(crate) accessor: &'static str,
    pub(crate) secret: &'static str,
    pub(crate) rules: &'static str,
}

/// How both agents are set up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup {
    /// ACLs with default deny: the management token's secret.
    pub(crate) management: Option<&'static str>,
    pub(crate) tokens: &'static [TokenSetup],
    pub(crate) intentions_denied: bool,
    pub(crate) rsa: bool,
}

/// An agent that is running, and what differs by nature.
pub(crate) struct Agent {
    pub(crate) address: SocketAddr,
    pub(crate) trust_domain: String,
    pub(crate) node_id: String,
    pub(crate) leader: String,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Real(RealAgent),
    Dev(#[expect(dead_code, reason = "it runs as long as it is kept")] DevAgent),
}

pub(crate) struct RealAgent {
    process: Child,
    folder: TempDir,
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nobody to stop.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where the real agent's program is; `None` when peers are not wanted.
pub(crate) fn consul() -> Option<PathBuf> {
    if std::env::var_os("PORTCULLIS_NO_PEERS").is_some_and(|value| value == "1") {
        eprintln!(
            "\n*** SKIPPED: PORTCULLIS_NO_PEERS=1, nothing was compared with a real Consul agent ***\n"
        );
        return None;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let default = here.parent().unwrap_or(here).join("target/peers/consul");
    let path = std::env::var_os("PORTCULLIS_CONSUL").map_or(default, PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing: build the peers with `cargo xtask test`, or set PORTCULLIS_NO_PEERS=1 to skip",
        path.display()
    );
    Some(path)
}

impl Agent {
    pub(crate) async fn call(&self, call: &Call) -> Answer {
        send(self.address, call)
            .await
            .unwrap_or_else(|error| panic!("{call:?}: {error}"))
    }

    async fn json(&self, method: Method, target: &str, token: &str, body: Value) -> Value {
        let headers = vec![("x-consul-token", token.to_owned())];
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let call = Call {
            method,
            target: target.to_owned(),
            headers,
            body: body.into(),
        };
        let answer = self.call(&call).await;
        assert!(
            answer.status.is_success(),
            "{target}: {} {}",
            answer.status,
            answer.text()
        );
        if answer.body.is_empty() {
            Value::Null
        } else {
            answer.json()
        }
    }

    async fn learn(mut self, setup: &Setup) -> Self {
        let token = setup.management.unwrap_or_default();
        let roots = self
            .json(Method::GET, "/v1/connect/ca/roots", token, Value::Null)
            .await;
        self.trust_domain = text(&roots["TrustDomain"]);
        let own = self
            .json(Method::GET, "/v1/agent/self", token, Value::Null)
            .await;
        self.node_id = text(&own["Config"]["NodeID"]);
        self.leader = text(
            &self
                .json(Method::GET, "/v1/status/leader", token, Value::Null)
                .await,
        );
        self
    }

    /// Starts our agent.
    pub(crate) async fn dev(setup: &Setup) -> Self {
        let mut tokens: Vec<Token> = Vec::new();
        tokens.extend(setup.management.map(Token::management));
        for token in setup.tokens {
            let mut ours = Token::with_rules(token.secret, token.rules);
            token.accessor.clone_into(&mut ours.accessor);
            tokens.push(ours);
        }
        let denied = setup.management.is_some();
        let config = DevAgentConfig {
            node_name: NODE.to_owned(),
            default_policy: if denied {
                DefaultPolicy::Deny
            } else {
                DefaultPolicy::Allow
            },
            default_intention_policy: setup.intentions_denied.then_some(DefaultPolicy::Deny),
            key_type: if setup.rsa {
                KeyType::Rsa2048
            } else {
                KeyType::EcP256
            },
            tokens,
            ..DevAgentConfig::for_tests()
        };
        let agent = DevAgent::start(config)
            .await
            .expect("the development agent starts");
        let address = agent.address();
        Self::new(address, Kind::Dev(agent)).learn(setup).await
    }

    fn new(address: SocketAddr, kind: Kind) -> Self {
        Self {
            address,
            trust_domain: String::new(),
            node_id: String::new(),
            leader: String::new(),
            kind,
        }
    }

    /// Starts a real agent, waits until it is ready, and gives it the tokens.
    pub(crate) async fn real(program: &Path, setup: &Setup) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = json!({});
        if let Some(secret) = setup.management {
            config["acl"] = json!({
                "enabled": true, "default_policy": "deny",
                "tokens": {"initial_management": secret, "agent": secret},
            });
        }
        if setup.intentions_denied {
            config["default_intention_policy"] = json!("deny");
        }
        if setup.rsa {
            config["connect"] = json!({"enabled": true, "ca_config": {"private_key_type": "rsa", "private_key_bits": 2048}});
        }
        let config_file = folder.path().join("config.json");
        std::fs::write(&config_file, config.to_string()).expect("the configuration is written");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log file");
        let [http, lan, wan, server] = free_ports();
        let process = Command::new(program)
            .args([
                "agent",
                "-dev",
                "-bind=127.0.0.1",
                "-client=127.0.0.1",
                "-grpc-port=-1",
            ])
            .args([
                "-grpc-tls-port=-1",
                "-dns-port=-1",
                &format!("-node={NODE}"),
            ])
            .arg(format!("-http-port={http}"))
            .arg(format!("-serf-lan-port={lan}"))
            .arg(format!("-serf-wan-port={wan}"))
            .arg(format!("-server-port={server}"))
            .arg(format!("-config-file={}", config_file.display()))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .expect("consul starts");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, http));
        let agent = Self::new(address, Kind::Real(RealAgent { process, folder }));
        agent.wait(setup).await;
        let agent = agent.learn(setup).await;
        for token in setup.tokens {
            let management = setup.management.unwrap_or_default();
            let policy = json!({"Name": token.name, "Rules": token.rules});
            agent
                .json(Method::PUT, "/v1/acl/policy", management, policy)
                .await;
            let body = json!({
                "SecretID": token.secret, "AccessorID": token.accessor,
                "Policies": [{"Name": token.name}],
            });
            agent
                .json(Method::PUT, "/v1/acl/token", management, body)
                .await;
        }
        agent
    }

    /// Until it has a leader, roots, and itself in the catalog.
    async fn wait(&self, setup: &Setup) {
        let token = setup.management.unwrap_or_default().to_owned();
        for _ in 0..600 {
            let mut ready = true;
            let paths = [
                "/v1/connect/ca/roots",
                "/v1/agent/connect/ca/leaf/ready",
                "/v1/health/service/consul?passing",
            ];
            for path in paths {
                let headers = vec![("x-consul-token", token.clone())];
                let call = Call {
                    method: Method::GET,
                    target: path.to_owned(),
                    headers,
                    body: "".into(),
                };
                let answer = send(self.address, &call).await;
                ready &=
                    answer.is_ok_and(|answer| answer.status.is_success() && answer.body.len() > 4);
            }
            if ready {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let Kind::Real(real) = &self.kind else { return };
        let log = std::fs::read_to_string(real.folder.path().join("log")).unwrap_or_default();
        panic!("the real agent did not get ready:\n{log}");
    }

    /// Text without what differs between any two agents.
    pub(crate) fn neutral(&self, text: &str) -> String {
        let cluster = self.trust_domain.trim_end_matches(".consul");
        text.replace(&self.leader, "<leader>")
            .replace(cluster, "<cluster>")
            .replace(&self.node_id, "<node>")
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a text: {value}"))
        .to_owned()
}

/// Ports that were free a moment ago.
fn free_ports() -> [u16; 4] {
    let listen = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let listeners: [TcpListener; 4] = std::array::from_fn(listen);
    listeners.map(|listener| listener.local_addr().expect("its address").port())
}
