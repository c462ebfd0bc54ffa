//! Consul mesh identity, certificate chain rules, intention semantics, the
//! agent's HTTP codec and the watch machine.
//!
//! Nothing here does I/O or reads a clock: time, roots and replies are arguments.
#![forbid(unsafe_code)]
#![deny(
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used
)]
#![cfg_attr(
    test,
    allow(
        clippy::as_conversions,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unwrap_used,
        reason = "tests may fail loudly"
    )
)]

pub mod agent;
pub mod chain;
pub mod duration;
pub mod filter;
pub mod http;
pub mod identity;
pub mod intention;
mod json;
pub mod jwt;
pub mod policy;
pub mod re2;
pub mod time;
pub mod watch;
mod words;
