//! The filter in a real Envoy, over mTLS, with the development agent as Consul.

mod acls;
mod agents;
#[expect(dead_code, reason = "tests of HTTP use more of it")]
#[path = "../http/application.rs"]
mod application;
#[expect(dead_code, reason = "tests of HTTP use more of it")]
#[path = "../http/client.rs"]
mod client;
mod configuration;
mod connections;
mod contexts;
mod flips;
mod greeter;
#[expect(dead_code, reason = "tests of HTTP use more of it")]
#[path = "../http/tokens.rs"]
mod issuers;
mod live;
mod peers;
mod requests;
mod scene;
mod shared_data;
mod tokens;
mod vectors;
mod workers;
