//! Faults while connections run through two proxy processes: each test counts what failed.
//!
//! `PORTCULLIS_TEST_LOG=1` prints the counts.

mod agent;
mod agent_garbage;
mod agent_state;
mod component;
mod decision_log;
mod disk;
mod flips;
mod leaf;
mod scene;
