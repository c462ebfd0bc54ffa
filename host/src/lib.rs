//! Portcullis.
pub mod agent_client;
pub mod clock;
pub mod connector;
pub mod eval;
pub mod member;
pub mod proxy;
pub mod registration;
pub mod runtime;
pub mod tls;
pub mod watcher;

pub use runtime::{Component, ComponentOptions, Policy, PolicyOptions};
