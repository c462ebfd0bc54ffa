//! Envoy beside the mesh: what it asks over gRPC, and what is said of its configuration.
//!
//! [`sds`] gives it leaf and roots, so that its TLS rotates without a restart; [`relay`]
//! lets its filter ask the agent without knowing the token. [`lint`] finds what makes the
//! policy useless or open.

#[cfg(feature = "envoy")]
mod grpc;
pub mod lint;
#[cfg(feature = "envoy")]
pub mod relay;
#[cfg(feature = "envoy")]
pub mod sds;
