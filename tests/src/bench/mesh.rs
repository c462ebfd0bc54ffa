//! The meshes that contenders belong to: our development agent, and a real Consul agent
//! whose CA we hold.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig};
use portcullis_testkit::TestCa;
use serde_json::json;
use tokio::runtime::Runtime;

use super::identity::Identity;
use crate::api::Api;
use crate::consul::{Consul, Options};
use crate::peers;

/// The service behind every proxy.
pub const SERVICE: &str = "db";
/// The service of the clients.
pub const CLIENT: &str = "web";

/// A mesh with an agent.
pub trait Mesh {
    /// How tables name its agent.
    fn agent_name(&self) -> &'static str;

    /// Its agent's HTTP API.
    fn agent(&self) -> SocketAddr;

    /// Another certificate for a service, with a key of its own.
    ///
    /// # Errors
    /// When none can be issued.
    fn issue(&self, service: &str) -> Result<Identity>;

    /// Another certificate of a CA that the agent does not know, presented with that CA's
    /// certificate by the root in force.
    ///
    /// # Errors
    /// When the key of the root is not ours.
    fn issue_cross_signed(&self, service: &str) -> Result<Identity>;

    /// Allows or denies the clients, over the agent's HTTP API.
    ///
    /// # Errors
    /// When the agent does not take it.
    fn set(&self, action: &str) -> Result<()> {
        let path = format!("/v1/connect/intentions/exact?source={CLIENT}&destination={SERVICE}");
        let body = json!({ "SourceType": "consul", "Action": action }).to_string();
        let reply = Api::new(self.agent(), None)
            .send("PUT", &path, Some(&body))
            .with_context(|| format!("{} does not answer", self.agent_name()))?;
        ensure!(
            reply.status == 200,
            "{} refuses the intention: {}",
            self.agent_name(),
            reply.body
        );
        Ok(())
    }
}

/// A new CA, certified by `ca` as in a rotation; its leaves present that certificate.
#[must_use]
pub fn successor(ca: &TestCa) -> TestCa {
    let next = TestCa::new(ca.trust_domain());
    let certificate = ca.cross_sign(&next);
    next.presenting(&[certificate])
}

/// Our development agent, in this process.
pub struct DevMesh {
    /// The agent.
    pub agent: DevAgent,
    /// What it runs on.
    pub runtime: Runtime,
}

impl DevMesh {
    /// Starts an agent that denies by default, and allows the clients.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("no runtime")?;
        let agent = runtime
            .block_on(DevAgent::start(DevAgentConfig {
                default_intention_policy: Some(DefaultPolicy::Deny),
                ..DevAgentConfig::for_tests()
            }))
            .context("the development agent does not start")?;
        let mesh = Self { agent, runtime };
        mesh.set("allow")?;
        Ok(mesh)
    }
}

impl Mesh for DevMesh {
    fn agent_name(&self) -> &'static str {
        "dev agent"
    }

    fn agent(&self) -> SocketAddr {
        self.agent.address()
    }

    fn issue(&self, service: &str) -> Result<Identity> {
        let leaf = self
            .agent
            .issue(service)
            .context("no certificate from the development agent")?;
        Identity::from_pem(&leaf.chain_pem, &leaf.key_pem)
    }

    fn issue_cross_signed(&self, _: &str) -> Result<Identity> {
        bail!("the development agent keeps the key of its root to itself");
    }
}

/// A real Consul agent with a CA whose key is here, so that any number of
/// certificates can be made.
pub struct ConsulMesh {
    /// The agent.
    pub consul: Consul,
    /// The root in force.
    pub ca: TestCa,
    next: TestCa,
}

impl ConsulMesh {
    /// Starts an agent, and allows the clients.
    ///
    /// # Errors
    /// When there is no Consul here, or it does not take our CA.
    pub fn start() -> Result<Self> {
        if !peers::workspace().join("target/peers/consul").exists() {
            bail!("`target/peers/consul` is missing: `cargo xtask peers` builds it");
        }
        let Some(consul) = Consul::start("bench", Options::new()) else {
            bail!("left out by PORTCULLIS_NO_PEERS");
        };
        let api = consul.api();
        let roots = api.get("/v1/agent/connect/ca/roots").good().json();
        let trust_domain = roots["TrustDomain"].as_str().context("no trust domain")?;
        let ca = TestCa::new(trust_domain);
        let mesh = Self {
            next: successor(&ca),
            ca,
            consul,
        };
        mesh.use_ca(&mesh.ca, false)?;
        mesh.set("allow")?;
        Ok(mesh)
    }

    /// Makes Consul issue by `ca`, cross-signed by the CA before unless told not to.
    ///
    /// # Errors
    /// When it does not take it.
    pub fn use_ca(&self, ca: &TestCa, without_cross_signing: bool) -> Result<()> {
        let config = json!({
            "Provider": "consul",
            "ForceWithoutCrossSigning": without_cross_signing,
            "Config": { "LeafCertTTL": "72h", "PrivateKey": ca.key_pem(), "RootCert": ca.pem() },
        });
        let reply = self
            .consul
            .api()
            .put("/v1/connect/ca/configuration", &config);
        ensure!(
            reply.status == 200,
            "Consul does not take the CA: {}",
            reply.body
        );
        Ok(())
    }
}

impl Mesh for ConsulMesh {
    fn agent_name(&self) -> &'static str {
        "Consul"
    }

    fn agent(&self) -> SocketAddr {
        self.consul.address()
    }

    fn issue(&self, service: &str) -> Result<Identity> {
        Ok(Identity::from(&self.ca.service(service).issue()))
    }

    fn issue_cross_signed(&self, service: &str) -> Result<Identity> {
        Ok(Identity::from(&self.next.service(service).issue()))
    }
}
