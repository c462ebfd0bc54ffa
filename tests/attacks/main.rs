//! Attacks of `tests/ATTACKS.md` that no other test program tries.

mod lists;
mod secrets;
mod tokens;
mod written;
