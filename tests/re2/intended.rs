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
const GO_BYTE: &str = "Go has no `\\C`";
const GO_CLASS: &str = "Go knows more names of classes, in any case";
const GO_CASE: &str = "Go gives letters beyond ASCII their other case";
const GO_ZERO: &str = "Go does not look into what is repeated zero times";
const GO_BEYOND: &str = "Go has escapes beyond U+00FF";
const GO_LOWEST: &str = "Go's program may be larger than RE2's and ours";

/// The reasons that a run must have met.
pub(crate) fn reasons(peer: Peer) -> &'static [&'static str] {
    match peer {
        Peer::Re2 => &[LIMIT],
        Peer::Go => &[GO_BYTE, GO_CLASS, GO_ZERO, GO_BEYOND, GO_CASE, GO_LOWEST],
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
        Peer::Re2 => None,
        Peer::Go if is_limit => Some(GO_LOWEST),
        Peer::Go => match ours.map(|error| &error.reason) {
            None if pattern.contains("\\C") => Some(GO_BYTE),
            Some(Reason::UnknownClass(name)) if name.starts_with('\\') => Some(GO_CLASS),
            Some(Reason::UnknownEscape(text))
                if text.starts_with("\\x{")
                    || text.trim_start_matches('\\').parse::<u32>().is_ok() =>
            {
                Some(GO_BEYOND)
            }
            Some(Reason::RepetitionSize) if pattern.contains("{0}") => Some(GO_ZERO),
            _ => None,
        },
    }
}

/// Why both answer otherwise about a text.
pub(crate) fn of_match(peer: Peer, pattern: &str, text: &[u8]) -> Option<&'static str> {
    match peer {
        Peer::Go if pattern.contains("\\C") => Some(GO_BYTE),
        Peer::Go if !text.is_ascii() && pattern.contains("(?i") => Some(GO_CASE),
        _ => None,
    }
}
