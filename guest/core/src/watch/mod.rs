//! The watch machine: when to ask the agent again, and how fresh its last answer is.
//!
//! No I/O and no clock. Times are milliseconds of any clock that does not run backwards,
//! given by the caller ([`LeafTimer`] alone takes wall-clock time, since certificates do).
//! One [`Watch`] follows one thing; the same machine drives tokio tasks, ticks and hosts
//! that only run inside calls:
//!
//! 1. [`Watch::poll_request`] says what to send now, if anything.
//! 2. The reply goes to [`Watch::handle_reply`], any failure to [`Watch::handle_error`].
//! 3. [`Watch::poll_timeout`] says when to call again; [`Watch::age`] how old the data is.
//!
//! The rules are Consul's for blocking queries, with these refinements: an answer older than
//! one already seen is read again, from the leader, before it is believed; limits hold back
//! only answers that changed nothing, and errors, so that a revocation is never delayed by
//! them for longer than [`Settings::unchanged_every_ms`].

mod backoff;
mod digest;
mod last_good;
mod leaf_timer;
mod machine;
#[cfg(test)]
mod properties;
mod rate;
mod seeded;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use digest::Digest;
pub use last_good::{Freshness, LastGood};
pub use leaf_timer::{LeafState, LeafTimer};
pub use machine::{Event, Key, Mode, Position, Settings, Watch, WatchRequest};
