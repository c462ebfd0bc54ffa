//! What Envoy is given, on a real Envoy: certificates, configuration, decisions.

mod bootstrap;
mod example;
mod ext_authz;
mod filter;
mod operators;
mod relay;
mod scene;
mod sds;
#[expect(dead_code, reason = "tests of HTTP use more of it")]
#[path = "../http/tokens.rs"]
mod tokens;
