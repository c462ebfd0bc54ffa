//! What can be wrong with a list of intentions.

use std::fmt;

use thiserror::Error;

/// A list of intentions that cannot be read as a list. A single rule that cannot
/// be read is no error: it denies what reaches it, see [`Problem`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The text is not valid JSON, or not valid UTF-8.
    #[error("the intentions are not valid JSON: {0}")]
    Syntax(String),
    /// The value is neither an array nor `null`.
    #[error("the intentions are {0}, not an array or `null`")]
    NotAList(&'static str),
    /// There are more intentions than this version takes.
    #[error("the list has more than {limit} intentions")]
    TooMany {
        /// How many are taken.
        limit: usize,
    },
    /// The text is longer than this version takes.
    #[error("the list is longer than {limit} bytes")]
    TooLarge {
        /// How many bytes are taken.
        limit: usize,
    },
}

/// A destination's name that cannot name a service.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DestinationError {
    /// The name, or one of its parts, is empty.
    #[error("the name has an empty part")]
    Empty,
    /// There are more than two slashes.
    #[error("the name has more than the parts partition, namespace and service")]
    TooManyParts,
    /// A part contains something other than letters, digits, `.`, `_` and `-`.
    #[error("`{0}` contains a character other than ASCII letters, digits, `.`, `_` and `-`")]
    Character(crate::identity::Excerpt),
    /// A part is longer than 255 bytes.
    #[error("a part of the name is longer than {limit} bytes")]
    TooLong {
        /// How many bytes are taken.
        limit: usize,
    },
}

/// Something in a list that could not be read, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the list, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What, and what follows from it; printable.
    pub text: String,
    /// Whether a rule denies what reaches it because of this.
    pub denies: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pointer, self.text)
    }
}
