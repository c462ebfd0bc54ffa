//! Envoy beside the mesh: what it asks over gRPC, and what is said of its configuration.
//!
//! [`sds`] gives it leaf and roots, so that its TLS rotates without a restart; [`relay`]
//! lets its filter ask the agent without knowing the token; [`ext_authz`] decides for it where
//! it cannot load the filter. [`bootstrap`] writes its configuration, and [`lint`] finds what
//! makes the policy in one useless or open.

pub mod bootstrap;
#[cfg(feature = "envoy")]
pub mod ext_authz;
#[cfg(feature = "envoy")]
mod grpc;
pub mod lint;
#[cfg(feature = "envoy")]
pub(crate) mod observer;
#[cfg(feature = "envoy")]
mod percent;
#[cfg(feature = "envoy")]
pub mod relay;
#[cfg(feature = "envoy")]
pub mod sds;
#[cfg(feature = "envoy")]
mod server;

#[cfg(feature = "envoy")]
pub use observer::ServerObserver;
