//! RE2 patterns, as `PathRegex` and a header's `Regex` hold them.
//!
//! Consul writes them into Envoy's `safe_regex`, which hands them to RE2 and asks
//! for a match of the whole text. The Rust `regex` crates read the same letters
//! differently (`\d` is Unicode there, `a{,2}` an error, `[a&&b]` an intersection),
//! so the syntax is read here, as RE2 reads it, and only the automaton is theirs:
//! `parse` makes their intermediate form, never a translated pattern.
//!
//! Envoy 1.40 lets RE2 read pattern and text as Latin-1 (observed, `tests/envoy_rbac`):
//! every byte is a character, so `.` matches `\xff` and `é` in a pattern is two of them.
//! Classes mean the characters U+0000 to U+00FF; `(?i)` is about ASCII letters.
//!
//! Everything is bounded before any text is matched: the pattern, its nesting, its
//! classes, its program. Matching takes time linear in the text.

mod class;
mod error;
mod escape;
mod parse;
mod set;
mod unicode;

#[cfg(test)]
mod tests;

pub use error::{Error, Reason};

use std::fmt;
use std::sync::Arc;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures, pikevm::PikeVM};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::hir::{Hir, Look};

/// How many bytes a pattern may have.
pub const MAX_PATTERN: usize = 16 * 1024;
/// How many bytes the program of a pattern may have.
const MAX_PROGRAM: usize = 1024 * 1024;
/// How many bytes the table of a pattern may have; with more, its program is stepped.
const MAX_TABLE: usize = 32 * 1024;
/// How many bytes may be used while the table is made.
const MAX_TABLE_WORK: usize = 256 * 1024;

/// A compiled pattern. Clones share what was compiled.
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    engine: Arc<Engine>,
}

enum Engine {
    /// Every state is known: one look-up a byte.
    Table {
        dfa: Box<dense::DFA<Vec<u32>>>,
        start: StateID,
    },
    /// All states that the text may be in, side by side.
    Program(PikeVM),
}

impl Pattern {
    /// Reads a pattern in RE2's syntax.
    ///
    /// # Errors
    /// If RE2 refuses it as well, or if it exceeds a limit here: 16 KiB of text,
    /// 100 levels of nesting, 1 MiB of program.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let too_large = |reason| Error {
            position: text.len(),
            reason,
        };
        if text.len() > MAX_PATTERN {
            return Err(too_large(Reason::TooLong { limit: MAX_PATTERN }));
        }
        let whole = Hir::concat(vec![parse::parse(text)?, Hir::look(Look::End)]);
        let nfa = NFA::compiler()
            .configure(
                thompson::Config::new()
                    .utf8(false)
                    .which_captures(WhichCaptures::None)
                    .nfa_size_limit(Some(MAX_PROGRAM)),
            )
            .build_from_hir(&whole)
            .map_err(|_| too_large(Reason::ProgramTooLarge { limit: MAX_PROGRAM }))?;
        let engine = match Engine::table(&nfa) {
            Some(table) => table,
            None => PikeVM::new_from_nfa(nfa)
                .map(Engine::Program)
                .map_err(|_| too_large(Reason::ProgramTooLarge { limit: MAX_PROGRAM }))?,
        };
        Ok(Self {
            text: text.into(),
            engine: Arc::new(engine),
        })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn is_full_match(&self, text: &[u8]) -> bool {
        match &*self.engine {
            Engine::Table { dfa, start } => {
                let mut state = *start;
                for byte in text {
                    state = dfa.next_state(state, *byte);
                    if dfa.is_dead_state(state) {
                        return false;
                    }
                }
                // The end of the text is the only place where the program accepts.
                dfa.is_match_state(dfa.next_eoi_state(state))
            }
            Engine::Program(vm) => {
                let mut cache = vm.create_cache();
                vm.is_match(&mut cache, Input::new(text).anchored(Anchored::Yes))
            }
        }
    }
}

impl Engine {
    /// `None` if the table would be too large.
    fn table(nfa: &NFA) -> Option<Self> {
        let dfa = dense::Builder::new()
            .configure(
                dense::Config::new()
                    .start_kind(StartKind::Anchored)
                    .match_kind(MatchKind::All)
                    .accelerate(false)
                    .dfa_size_limit(Some(MAX_TABLE))
                    .determinize_size_limit(Some(MAX_TABLE_WORK)),
            )
            .build_from_nfa(nfa)
            .ok()?;
        let start = dfa
            .start_state(&start::Config::new().anchored(Anchored::Yes))
            .ok()?;
        let dfa = Box::new(dfa);
        Some(Self::Table { dfa, start })
    }
}

/// The pattern between slashes.
impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}
