//! The two agents: a real one as a child process, and ours in this process.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig, KeyType, Token};
use portcullis_tests::consul::{Consul, Options};
use serde_json::{Value, json};

use crate::client::{Answer, Call, send};

/// The node's name, as the real agent is started with.
pub(crate) const NODE: &str = "node-a";

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
    pub(crate) version: String,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Real(Consul),
    Dev(#[expect(dead_code, reason = "it runs as long as it is kept")] DevAgent),
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
        // Both have answered this token once: the next answer is from a cache.
        self.json(
            Method::GET,
            "/v1/agent/connect/ca/roots",
            token,
            Value::Null,
        )
        .await;
        let roots = self
            .json(Method::GET, "/v1/connect/ca/roots", token, Value::Null)
            .await;
        self.trust_domain = text(&roots["TrustDomain"]);
        let own = self
            .json(Method::GET, "/v1/agent/self", token, Value::Null)
            .await;
        self.node_id = text(&own["Config"]["NodeID"]);
        self.version = text(&own["Config"]["Version"]);
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
            version: String::new(),
            kind,
        }
    }

    /// Starts a real agent, waits until it is ready, and gives it the tokens;
    /// `None` where peers are left out on purpose.
    pub(crate) async fn real(test: &'static str, setup: &Setup) -> Option<Self> {
        let mut options = Options::new();
        if setup.management.is_some() {
            options = options.with_acls();
        }
        if setup.intentions_denied {
            options = options.with_config("default_intention_policy = \"deny\"");
        }
        if setup.rsa {
            options = options.with_config(
                "connect { enabled = true ca_config { private_key_type = \"rsa\" private_key_bits = 2048 } }",
            );
        }
        let started = tokio::task::spawn_blocking(move || Consul::start(test, options));
        let consul = started.await.expect("the agent starts")?;
        let agent = Self::new(consul.address(), Kind::Real(consul));
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
        Some(agent)
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
        let Kind::Real(consul) = &self.kind else {
            return;
        };
        panic!("the real agent did not get ready:\n{}", consul.log());
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
