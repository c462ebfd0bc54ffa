//! What Envoy is given, on a real Envoy: certificates, configuration, decisions.

mod relay;
mod scene;
mod sds;
