//! What the tests share: real peers, processes, ports.

pub mod any_server;
pub mod api;
pub mod bench;
pub mod components;
pub mod consul;
pub mod echo;
pub mod envoy;
pub mod envoy_process;
pub mod load;
pub mod pair;
pub mod peers;
pub mod ports;
pub mod process;
pub mod program;
pub mod proxy;
pub mod proxy_wasm;
pub mod replayed;
pub mod stage;
pub mod wasm_trap;
