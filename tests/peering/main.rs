//! Callers of peered clusters: their bundles come from the agent, and intentions name them.

#[expect(dead_code, reason = "tests of HTTP use more of it")]
#[path = "../http/application.rs"]
mod application;
#[expect(dead_code, reason = "tests of HTTP use more of it")]
#[path = "../http/client.rs"]
mod client;

mod bundles;
mod clusters;
mod envoy;
mod scene;
