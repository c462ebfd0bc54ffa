//! HTTP requests: what Envoy does with their paths, and what must hold for every request.
#![allow(
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "tests may fail loudly"
)]

mod envoy_paths;
mod properties;
mod size;
