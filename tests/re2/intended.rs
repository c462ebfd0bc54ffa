//! Where we mean to answer otherwise than a peer, and why.

use portcullis_core::re2::{Error, Reason};

/// Who else is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// RE2 itself, which is what Envoy uses.
    Re2,
    /// Go's `regexp`, which reads nearly the same syntax.
    Go,
}

const LIMIT: &str = "we have tighter limits on nesting, classes and program";
const NAME: &str = "names of groups are ASCII here";
const GO_BYTE: &str = "Go has no `\\C`";
const GO_CLASS: &str = "Go knows more names of classes, in any case";
const GO_ZERO: &str = "Go does not look into what is repeated zero times";
const GO_UTF8: &str = "Go reads bytes that are not UTF-8 as U+FFFD";
const GO_LOWEST: &str = "Go's program may be larger than RE2's and ours";

/// The reasons that a run must have met.
pub(crate) fn reasons(peer: Peer) -> &'static [&'static str] {
    match peer {
        Peer::Re2 => &[LIMIT, NAME],
        Peer::Go => &[GO_BYTE, GO_CLASS, GO_ZERO, GO_UTF8, GO_LOWEST],
    }
}

/// Why one of both refuses the pattern; `ours` is our error.
pub(crate) fn of_syntax(peer: Peer, pattern: &str, ours: Option<&Error>) -> Option<&'static str> {
    let is_limit = ours.is_some_and(|error| {
        matches!(
            error.reason,
            Reason::TooLong { .. }
                | Reason::TooDeep { .. }
                | Reason::ClassesTooLarge
                | Reason::ProgramTooLarge { .. }
        )
    });
    match peer {
        Peer::Re2 if is_limit => Some(LIMIT),
        Peer::Re2 => match ours.map(|error| &error.reason) {
            Some(Reason::GroupName(name)) if !name.is_ascii() => Some(NAME),
            _ => None,
        },
        Peer::Go if is_limit => Some(GO_LOWEST),
        Peer::Go => match ours.map(|error| &error.reason) {
            None if pattern.contains("\\C") => Some(GO_BYTE),
            Some(Reason::UnknownClass(name)) if name.starts_with('\\') => Some(GO_CLASS),
            Some(Reason::RepetitionSize) if pattern.contains("{0}") => Some(GO_ZERO),
            _ => None,
        },
    }
}

/// Why both answer otherwise about a text.
pub(crate) fn of_match(peer: Peer, pattern: &str, text: &[u8]) -> Option<&'static str> {
    let is_utf8 = std::str::from_utf8(text).is_ok();
    match peer {
        Peer::Go if !is_utf8 => Some(GO_UTF8),
        Peer::Go if pattern.contains("\\C") => Some(GO_BYTE),
        _ => None,
    }
}
