//! The offending part of an input, made safe to print.

use std::fmt;

/// How many characters of the input are kept.
const LIMIT: usize = 80;

/// A bounded piece of somebody else's input. It prints as escaped ASCII, so
/// line breaks, control sequences and invisible characters cannot reach a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Excerpt(Box<str>);

impl Excerpt {
    /// Takes the beginning of a text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        if text.len() <= LIMIT && text.bytes().all(is_plain) {
            return Self(text.into());
        }
        let mut kept: String = text
            .chars()
            .take(LIMIT)
            .flat_map(char::escape_default)
            .collect();
        if text.chars().nth(LIMIT).is_some() {
            kept.push_str("...");
        }
        Self(kept.into())
    }

    /// Takes the beginning of some bytes; those that are no ASCII are escaped.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let head = bytes.get(..LIMIT).unwrap_or(bytes);
        let mut kept = head.escape_ascii().to_string();
        if bytes.len() > LIMIT {
            kept.push_str("...");
        }
        Self(kept.into())
    }

    /// The escaped text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether the byte stands for itself in escaped text.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'\\' | b'\'' | b'"')
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The short cut writes what the whole way writes.
    #[test]
    fn plain_text_is_what_needs_no_escape() {
        for byte in 0..=0x7f_u8 {
            let character = char::from(byte);
            let escaped = character.escape_default().to_string();
            assert_eq!(is_plain(byte), escaped == character.to_string(), "{byte}");
            assert_eq!(Excerpt::of(&character.to_string()).as_str(), escaped);
        }
        for (text, kept) in [
            (String::new(), String::new()),
            ("é".to_owned(), "\\u{e9}".to_owned()),
            ("a".repeat(LIMIT), "a".repeat(LIMIT)),
            ("a".repeat(LIMIT + 1), format!("{}...", "a".repeat(LIMIT))),
        ] {
            assert_eq!(Excerpt::of(&text).as_str(), kept);
        }
    }
}
