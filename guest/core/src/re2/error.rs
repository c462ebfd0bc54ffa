//! Why a pattern is refused.

use std::fmt;

use thiserror::Error as ThisError;

use crate::identity::Excerpt;

/// A pattern that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Where in the pattern, in bytes from its start.
    pub position: usize,
    /// The rule that it breaks.
    pub reason: Reason,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {})", self.reason, self.position)
    }
}

impl std::error::Error for Error {}

/// The rule that a pattern breaks. RE2 has all but the limits and
/// [`Reason::GroupName`] for names beyond ASCII.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum Reason {
    /// The text of the pattern.
    #[error("the pattern is longer than {limit} bytes")]
    TooLong {
        /// How many bytes are possible.
        limit: usize,
    },
    /// What it compiles to.
    #[error("the pattern needs a program of more than {limit} bytes: shorten its repetitions")]
    ProgramTooLarge {
        /// How many bytes are possible.
        limit: usize,
    },
    /// Groups within groups.
    #[error("the pattern nests deeper than {limit} levels")]
    TooDeep {
        /// How many levels are possible.
        limit: u32,
    },
    /// Classes with very many characters, without regard to case.
    #[error("the classes of the pattern have too many characters")]
    ClassesTooLarge,
    /// A backslash at the end.
    #[error("the pattern ends in a backslash: write `\\\\` for one")]
    TrailingBackslash,
    /// A backslash before something that it gives no meaning.
    #[error("`{}` is no escape: RE2 has neither back references nor `\\Z`", Excerpt::of(.0))]
    UnknownEscape(String),
    /// `(?` before something else than flags, `:`, `P<name>` or `<name>`.
    #[error("`{}` opens no group: RE2 has neither look-around nor comments", Excerpt::of(.0))]
    UnknownGroup(String),
    /// A group's name that is not of ASCII letters, digits and `_`.
    #[error("`{}` is not the name of a group: letters, digits and `_` make one", Excerpt::of(.0))]
    GroupName(String),
    /// `(` without `)`.
    #[error("this `(` is never closed")]
    MissingParenthesis,
    /// `)` without `(`.
    #[error("this `)` closes nothing: write `\\)` for one")]
    UnexpectedParenthesis,
    /// `[` without `]`.
    #[error("this `[` is never closed")]
    MissingBracket,
    /// `\p{…}` or `[:…:]` of another name.
    #[error("`{}` is not a class of characters that RE2 knows", Excerpt::of(.0))]
    UnknownClass(String),
    /// `[b-a]`.
    #[error("`{}` is a range that ends before it begins", Excerpt::of(.0))]
    BackwardRange(String),
    /// `*` and the like with nothing before.
    #[error("nothing stands before this repetition: write `\\` before it to match it")]
    NothingToRepeat,
    /// `a**`.
    #[error("a repetition follows another: put the inner one into `(?:…)`")]
    RepeatedRepetition,
    /// `a{1001}`, `a{2,1}` and `(a{100}){100}`.
    #[error("a repetition is backward or larger than 1000, alone or with those around it")]
    RepetitionSize,
}
