//! Text from elsewhere made safe for terminals and line-based logs.
//!
//! Only printable ASCII passes. Names, paths and messages come from clients,
//! agents and components: a line feed would forge a log line, an escape
//! sequence would drive the reader's terminal, and a right-to-left mark would
//! turn a name around.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `text` in printable ASCII, at most about `longest` bytes of it: the rest is
/// counted, not shown. Everything else becomes `\n`, `\r`, `\t` or `\u{...}`.
#[must_use]
pub fn escape(text: &str, longest: usize) -> String {
    let mut out = String::with_capacity(text.len().min(longest));
    for (at, character) in text.char_indices() {
        if out.len() >= longest {
            let _ = write!(out, "...({} more bytes)", text.len() - at);
            break;
        }
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => out.push(character),
            _ => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(character));
            }
        }
    }
    out
}

/// The same for a part of a sentence: line breaks and tabs become spaces, and what is cut off
/// is not counted.
#[must_use]
pub fn visible(text: &str, longest: usize) -> String {
    let mut out = String::new();
    for character in text.chars() {
        if out.len() >= longest {
            out.push_str("...");
            break;
        }
        match character {
            ' '..='~' => out.push(character),
            '\n' | '\r' | '\t' => out.push(' '),
            other => out.extend(other.escape_unicode()),
        }
    }
    out.trim_end().to_owned()
}

/// `text` as a JSON string in printable ASCII, quotes included, shortened
/// likewise.
#[must_use]
pub fn json_string(text: &str, longest: usize) -> String {
    let mut out = String::with_capacity(text.len().min(longest) + 2);
    out.push('"');
    for (at, character) in text.char_indices() {
        if out.len() > longest {
            let _ = write!(out, "...({} more bytes)", text.len() - at);
            break;
        }
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
    out
}

/// A JSON document in printable ASCII: whatever else is in it stands in a string.
#[must_use]
pub fn ascii_json(document: &str) -> Cow<'_, str> {
    if document.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(document);
    }
    let mut out = String::with_capacity(document.len());
    for character in document.chars() {
        match character {
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\r\n\u{1b}[2J\u{9b}1m\u{2028}\u{202e}\u{feff}\0\u{7f}é😀\"\\";

    #[test]
    fn only_printable_ascii_is_left() {
        for out in [escape(HOSTILE, 1_000), json_string(HOSTILE, 1_000)] {
            assert!(
                out.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                "{out}"
            );
        }
        assert_eq!(escape("a\nb\u{2028}", 100), "a\\nb\\u{2028}");
    }

    #[test]
    fn json_reads_back_as_it_was() {
        let back: String = serde_json::from_str(&json_string(HOSTILE, 1_000)).unwrap();
        assert_eq!(back, HOSTILE);
        let written = serde_json::to_string(&[HOSTILE]).unwrap();
        let document = ascii_json(&written);
        assert!(
            document.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{document}"
        );
        assert_eq!(
            serde_json::from_str::<[String; 1]>(&document).unwrap(),
            [HOSTILE]
        );
    }

    #[test]
    fn json_that_is_ascii_is_not_copied() {
        for document in ["", r#"{"a":"\u00e9 ~"}"#] {
            assert!(matches!(ascii_json(document), Cow::Borrowed(same) if same == document));
        }
    }

    #[test]
    fn length_is_bounded() {
        let long = "\u{1b}".repeat(100_000);
        assert!(escape(&long, 500).len() < 550);
        assert!(json_string(&long, 500).len() < 550);
        assert!(escape(&long, 500).ends_with("more bytes)"));
    }

    #[test]
    fn text_from_the_network_stays_on_one_line_and_short() {
        let text = visible("a\r\n\u{1b}[2J\u{2028}é", 100);
        assert_eq!(text, "a  \\u{1b}[2J\\u{2028}\\u{e9}");
        assert!(visible(&"\u{202e}".repeat(10_000), 200).len() < 220);
    }
}
