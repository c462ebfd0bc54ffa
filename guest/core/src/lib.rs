//! Consul mesh identity, certificate chain rules, intention semantics, the
//! agent's HTTP codec and the watch machine.
//!
//! Nothing here does I/O or reads a clock: time, roots and replies are arguments.
#![forbid(unsafe_code)]
