//! What `cargo xtask` and the tests share.

pub mod filter;
