//! Our decisions about requests beside those of a real Envoy that a real Consul configured.

mod application;
mod client;
mod differences;
mod differential;
mod filter;
mod fixed;
mod frames;
mod generate;
mod matrix;
mod ours;
mod question;
mod recorded;
mod scene;
mod sidecar;
mod tokens;
