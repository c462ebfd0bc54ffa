//! A development agent that speaks the part of Consul's HTTP API that the mesh
//! needs: certificates, roots and their rotation, intentions, authorize,
//! registration, TTL checks, health and catalog. It has a certificate authority
//! of its own whose root says that it is for development, and it listens on
//! loopback only. Where it differs from Consul 1.22 on purpose is listed in
//! `DIFFERENCES.md`.
//!
//! ```
//! use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Any free port, no delay after a rotation; `DevAgentConfig::default()` is
//! // what `consul agent -dev` does: 127.0.0.1:8500.
//! let agent = DevAgent::start(DevAgentConfig {
//!     default_policy: DefaultPolicy::Deny,
//!     tokens: vec![portcullis_dev_agent::Token::with_rules(
//!         "web-token",
//!         r#"service "web" { policy = "write" }"#,
//!     )],
//!     ..DevAgentConfig::for_tests()
//! })
//! .await?;
//! println!("{} {}", agent.url(), agent.trust_domain());
//! agent.allow("web", "db")?; // or over HTTP, as with a real agent
//! agent.rotate(portcullis_dev_agent::KeyType::EcP384).await?;
//! agent.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod acl;
mod agent;
mod api;
mod ca;
mod catalog;
mod clock;
mod config;
mod core;
mod duration;
mod entry;
mod faults;
mod http;
mod persist;
mod problems;
mod spiffe;
#[cfg(test)]
mod timing;

pub use agent::{ChangeError, DevAgent, Leaf};
pub use ca::{BuiltinCa, CaError, CertificateAuthority, KeyType, LeafTemplate};
pub use config::{DefaultPolicy, DevAgentConfig, StartError, Token};
pub use faults::Fault;
pub use http::guard;
pub use persist::DataDirError;

/// The version of Consul whose behaviour this agent follows.
pub const CONSUL_VERSION: &str = "1.22.2";
