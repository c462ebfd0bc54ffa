//! The policy inside Envoy: `guest/envoy/README.md` describes it for those who use it.
//!
//! Everything that decides is in `portcullis_core`. This crate translates: Envoy's callbacks
//! (`streams`, and `contexts`, which the crate `proxy-wasm` calls), its connections and requests (`vm`), host calls (`host`), properties (`known`), shared data and HTTP calls (`filter`),
//! metrics (`ledger`).
#![deny(
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    clippy::unreachable,
    clippy::arithmetic_side_effects
)]

mod clock;
mod contexts;
mod filter;
mod host;
mod known;
mod ledger;
mod streams;
mod vm;
