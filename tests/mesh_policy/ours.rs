//! The component in our own host: wasmtime, with the host's client of the agent.

use std::net::SocketAddr;
use std::time::Duration;

use portcullis::ComponentOptions;
use portcullis::agent_client::{AgentClient, AgentConfig, Secret, TokenSource};
use portcullis::runtime::mesh::{DefaultPolicy, MeshPolicy, MeshSettings, Mode};
use portcullis_core::chain::{Usage, VerifyErrorKind};
use portcullis_core::policy::{Client, Request};
use portcullis_core::time::Timestamp;
use tokio::runtime::Runtime;

use crate::component;
use crate::host::{Decision, Host, Settings, Watched};
use crate::relay::Relay;

struct Ours {
    runtime: Runtime,
    client: AgentClient,
    policy: Option<MeshPolicy>,
    relay: Relay,
}

/// Starts it with the agent at `agent`.
pub(crate) fn start(agent: SocketAddr, token: Option<&str>) -> Box<dyn Host> {
    let relay = Relay::start(agent);
    let mut config = AgentConfig::at(&relay.address().to_string()).expect("an address");
    config.token = token.map_or(TokenSource::None, |token| {
        TokenSource::Value(Secret::new(token))
    });
    let client = AgentClient::new(config).expect("a client");
    // Requests under way go on between calls, so the runtime needs a thread of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    Box::new(Ours {
        runtime,
        client,
        policy: None,
        relay,
    })
}

impl Ours {
    fn policy(&self) -> MeshPolicy {
        self.policy.clone().expect("it is configured first")
    }
}

fn client(uris: &[&str]) -> Client {
    Client {
        uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
        via_gateway: None,
    }
}

fn decision(decision: &portcullis_core::intention::Decision) -> Decision {
    Decision {
        effect: decision.effect.code().to_owned(),
        code: decision.code.code().to_owned(),
        generation: decision.generation,
    }
}

impl Host for Ours {
    fn configure(&mut self, settings: &Settings) -> Result<(), String> {
        let wanted = MeshSettings {
            mode: if settings.mode == "simple" {
                Mode::Simple
            } else {
                Mode::Intentions
            },
            default_policy: match settings.default_policy {
                "allow" => DefaultPolicy::Allow,
                "deny" => DefaultPolicy::Deny,
                _ => DefaultPolicy::Auto,
            },
            max_stale: Duration::from_millis(settings.max_stale),
            fetch_timeout: Duration::from_millis(settings.fetch_timeout.into()),
            ..MeshSettings::new(&self.client)
        };
        let (file, options) = (component::built(), ComponentOptions::default());
        let made = MeshPolicy::from_file(file, &options, self.client.clone(), wanted);
        self.policy = Some(
            self.runtime
                .block_on(made)
                .map_err(|error| error.to_string())?,
        );
        Ok(())
    }

    fn authorize(&mut self, target: &str, uris: &[&str], now: u64) -> Decision {
        let (policy, client) = (self.policy(), client(uris));
        let now = Timestamp::from_millis(now);
        decision(
            &self
                .runtime
                .block_on(policy.authorize(target, &client, None, now)),
        )
    }

    fn authorize_request(
        &mut self,
        target: &str,
        uris: &[&str],
        path: &str,
        now: u64,
    ) -> (Decision, String) {
        let (policy, client) = (self.policy(), client(uris));
        let now = Timestamp::from_millis(now);
        let request = Request {
            method: b"GET".to_vec(),
            path: path.as_bytes().to_vec(),
            ..Request::default()
        };
        let asked = policy.authorize(target, &client, Some(&request), now);
        let asked = decision(&self.runtime.block_on(asked));
        let trace = policy.explain(target, &client, Some(&request), now);
        let trace = self.runtime.block_on(trace).expect("it explains");
        assert_eq!(asked, decision(&trace.decision));
        (asked, trace.text)
    }

    fn explain(&mut self, target: &str, uris: &[&str], now: u64) -> Decision {
        let (policy, client) = (self.policy(), client(uris));
        let now = Timestamp::from_millis(now);
        let trace = self
            .runtime
            .block_on(policy.explain(target, &client, None, now));
        decision(&trace.expect("it explains").decision)
    }

    fn verify(&mut self, chain: &[Vec<u8>], now: u64) -> Result<String, String> {
        let (policy, now) = (self.policy(), Timestamp::from_millis(now));
        let verified = self
            .runtime
            .block_on(policy.verify_peer(chain, Usage::Client, None, now));
        verified.map(|peer| peer.id.to_string()).map_err(|error| {
            match error.kind() {
                VerifyErrorKind::Malformed => "malformed",
                VerifyErrorKind::Untrusted => "untrusted",
                VerifyErrorKind::Identity => "identity",
                VerifyErrorKind::Expired => "expired",
                VerifyErrorKind::NotReady => "not-ready",
            }
            .to_owned()
        })
    }

    fn status(&mut self) -> Vec<Watched> {
        let policy = self.policy();
        let watched = self
            .runtime
            .block_on(policy.status())
            .expect("it has a status");
        watched
            .into_iter()
            .map(|watched| Watched {
                name: watched.name,
                confirmed_at: watched.confirmed_at.as_millis(),
                last_error: watched.last_error,
            })
            .collect()
    }

    fn requests(&mut self) -> Vec<String> {
        self.relay.seen()
    }
}
