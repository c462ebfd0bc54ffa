//! What Envoy is given, on a real Envoy: certificates, configuration, decisions.

mod bootstrap;
mod example;
mod ext_authz;
mod filter;
mod operators;
mod relay;
mod scene;
mod sds;
