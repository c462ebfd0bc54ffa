//! The filter in a real Envoy, over mTLS, with the development agent as Consul.

#[expect(dead_code, reason = "tests of HTTP use more of it")]
#[path = "../http/application.rs"]
mod application;
#[expect(dead_code, reason = "tests of HTTP use more of it")]
#[path = "../http/client.rs"]
mod client;
mod configuration;
mod connections;
mod greeter;
mod requests;
mod scene;
