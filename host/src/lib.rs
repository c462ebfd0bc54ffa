//! Consul service mesh identity and intentions from one WebAssembly policy.
//!
//! - [`member::Member`] is the way in: one service's place in the mesh, to accept
//!   connections from it and to dial others.
//! - [`runtime`] loads the policy component and asks it; [`Policy`] is what all
//!   decisions come from.
//! - [`tls`] has rustls configurations whose verifiers ask the policy, [`connector`]
//!   dials services by name, [`proxy`] serves programs that know nothing of all this.
//! - [`watcher`] keeps leaf certificate, roots and intentions fresh from the agent that
//!   [`agent_client`] talks to, [`registration`] announces the service there, and
//!   [`sidecar`] configures the proxy by what is registered there.
//! - [`admin`] answers operators over HTTP, and [`metrics`] are what it counts.
//! - [`reload`] reads token, CA files and component again while all of this runs.
//! - [`envoy`] gives Envoy certificates and decisions (feature `envoy`, on by default), and
//!   writes and checks its configuration.
//! - [`definitions`] reads service-definition files, HCL and JSON.
//! - [`eval`] answers questions from files. [`entries`] reads config entries, HCL and JSON, and
//!   replies; [`expectations`] tests them, [`lint`] finds mistakes in them, [`difference`] says
//!   what a change affects.
//!
//! Types of questions and answers are those of `portcullis_core`. Repository, command
//! and contract: README.md, ARCHITECTURE.md and wit/ of the project.

pub mod admin;
pub mod agent_client;
pub mod clock;
pub mod connector;
pub mod decisions;
pub mod definitions;
pub mod difference;
pub mod entries;
pub mod envoy;
pub mod escape;
pub mod eval;
pub mod expectations;
pub mod jwks;
pub mod line_writer;
pub mod lint;
pub mod member;
pub mod metrics;
pub mod proxy;
pub mod registration;
pub mod reload;
pub mod runtime;
pub mod shadow;
pub mod sidecar;
pub mod tls;
pub mod watcher;

pub use proxy::layer;
pub use runtime::{Component, ComponentOptions, Policy, PolicyOptions};
