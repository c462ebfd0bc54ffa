//! One line of the decision log, as `host/DECISIONS-LOG.md` describes it: JSON in printable
//! ASCII, whatever a client sends.

use std::io;

use portcullis_core::http::HttpVersion;
use portcullis_core::intention::Decision;
use portcullis_core::policy::HeaderNeeds;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};
use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;

use super::{Asked, Decided, is_needed};
use crate::shadow::Verdict;

/// The longest line that readers take.
const LONGEST: usize = 1 << 20;

/// What stands for a token.
const WITHHELD: &str = "withheld";

/// RFC 3339 with milliseconds, UTC.
const TIME: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    id: &'a str,
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    destination: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<Requested>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_version: Option<&'static str>,
    effect: &'static str,
    because: Because,
    #[serde(skip_serializing_if = "Option::is_none")]
    sampled: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<Beside>,
}

#[derive(Serialize)]
struct Requested {
    method: String,
    path: String,
    headers: Vec<(String, Option<String>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
}

#[derive(Serialize)]
struct Because {
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    intention: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    permission: Option<u32>,
}

#[derive(Serialize)]
struct Beside {
    effect: &'static str,
    because: Because,
    /// Where it goes elsewhere than the live decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
}

impl Because {
    fn of(decision: &Decision) -> Self {
        Self {
            code: decision.code.code(),
            intention: decision.intention,
            permission: decision.permission,
        }
    }
}

/// What is written besides the decision itself.
pub(super) struct About<'a> {
    pub(super) id: &'a str,
    pub(super) digest: Option<String>,
    pub(super) destination: &'a str,
    pub(super) needs: &'a HeaderNeeds,
    /// Headers whose values are wanted, in lower case.
    pub(super) shown: &'a [String],
    pub(super) sampled: Option<u64>,
    pub(super) verdict: Option<&'a Verdict>,
}

/// The line of a decision, with its line feed; `None` if it is longer than any reader takes.
pub(super) fn decision(decided: &Decided<'_>, about: &About<'_>) -> Option<String> {
    let write = |shown: &[String]| {
        let request = decided.request;
        let decision = decided.decision;
        encode(&Line {
            time: now(),
            id: about.id,
            generation: decision.generation,
            policy: about.digest.as_ref().map(|hex| format!("sha256:{hex}")),
            source: decided.client.uris.first().map(String::as_str),
            destination: about.destination,
            request: request.map(|asked| requested(asked, about.needs, shown)),
            http_version: request.map(|asked| match asked.version {
                HttpVersion::Http2 => "2",
                _ => "1.1",
            }),
            effect: decision.effect.code(),
            because: Because::of(decision),
            sampled: about.sampled,
            shadow: about.verdict.map(|verdict| {
                let other = &verdict.decision;
                Beside {
                    effect: other.effect.code(),
                    because: Because::of(other),
                    path: other
                        .path
                        .as_deref()
                        .filter(|path| decision.path.as_deref() != Some(*path))
                        .map(target),
                }
            }),
        })
    };
    let short = |line: &String| line.len() <= LONGEST;
    // Without values it may be short enough.
    Some(write(about.shown))
        .filter(short)
        .or_else(|| Some(write(&[])).filter(short))
}

/// So many decisions before this line have none.
pub(super) fn dropped(count: u64) -> String {
    #[derive(Serialize)]
    struct Dropped {
        time: String,
        dropped: u64,
    }
    encode(&Dropped {
        time: now(),
        dropped: count,
    })
}

fn now() -> String {
    OffsetDateTime::now_utc().format(TIME).unwrap_or_default()
}

fn requested(asked: Asked<'_>, needs: &HeaderNeeds, shown: &[String]) -> Requested {
    let headers = asked.headers.iter();
    let headers = headers.filter(|(name, _)| is_needed(name.as_str(), needs));
    Requested {
        method: asked.method.to_owned(),
        path: target(asked.target),
        headers: headers
            .map(|(name, value)| {
                let (name, value) = (name.as_str(), characters(value.as_bytes()));
                // Who is called is no secret: it is in `authority` otherwise.
                let wanted = name == "host" || shown.iter().any(|one| one == name);
                let value = Some(value).filter(|value| wanted && !holds_token(value));
                (name.to_owned(), value)
            })
            .collect(),
        authority: asked.authority.map(characters),
    }
}

/// Each byte as the character of its number.
fn characters(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// A request target without the tokens in its query.
fn target(bytes: &[u8]) -> String {
    let text = characters(bytes);
    let Some((path, query)) = text.split_once('?') else {
        return text;
    };
    let parts = query.split('&').map(|part| match part.split_once('=') {
        Some((name, value)) if name.eq_ignore_ascii_case("access_token") || holds_token(value) => {
            format!("{name}={WITHHELD}")
        }
        None if holds_token(part) => WITHHELD.to_owned(),
        _ => part.to_owned(),
    });
    let query: Vec<String> = parts.collect();
    format!("{path}?{}", query.join("&"))
}

/// Whether something in it has the form of a JWT: three parts, of which the first is a
/// JSON object in base64url.
fn holds_token(text: &str) -> bool {
    let in_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.split(|c: char| !in_token(c)).any(|word| {
        let mut parts = word.split('.');
        let begins = parts.next().is_some_and(|head| head.contains("eyJ"));
        begins && parts.next().is_some_and(|part| !part.is_empty()) && parts.next().is_some()
    })
}

/// JSON in printable ASCII.
struct Ascii(CompactFormatter);

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let plain = |c: &char| matches!(c, ' '..='~');
        let mut rest = fragment;
        while let Some((at, odd)) = rest.char_indices().find(|(_, c)| !plain(c)) {
            self.0
                .write_string_fragment(writer, rest.get(..at).unwrap_or_default())?;
            for unit in odd.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = rest.get(at + odd.len_utf8()..).unwrap_or_default();
        }
        self.0.write_string_fragment(writer, rest)
    }
}

fn encode(line: &impl Serialize) -> String {
    let mut out = Vec::with_capacity(512);
    let formatter = Ascii(CompactFormatter);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // Texts and numbers into memory: that cannot fail.
    let written = line.serialize(&mut serializer);
    debug_assert!(written.is_ok());
    out.push(b'\n');
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_printable_whatever_is_in_it() {
        let hostile = "a\"b\\c\r\n\u{1b}[2J\u{9b}\u{ff}\u{7f}\u{2028}\u{1f600}";
        let line = encode(&[hostile]);
        let text = line.strip_suffix('\n').unwrap();
        assert!(
            text.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{text}"
        );
        let back: Vec<String> = serde_json::from_str(text).unwrap();
        assert_eq!(back, [hostile]);
    }

    #[test]
    fn tokens_are_withheld_and_nothing_else() {
        const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln";
        for (given, shown) in [
            ("/a?b=1&c", "/a?b=1&c"),
            ("/a", "/a"),
            ("/a?access_token=opaque&b=1", "/a?access_token=withheld&b=1"),
            (&format!("/a?t={TOKEN}&b=1"), "/a?t=withheld&b=1"),
            (&format!("/a?{TOKEN}"), "/a?withheld"),
            (&format!("/a?t=Bearer%20{TOKEN}"), "/a?t=withheld"),
            ("/v1.2.3?eye=a.b.c", "/v1.2.3?eye=a.b.c"),
        ] {
            assert_eq!(target(given.as_bytes()), shown, "{given}");
        }
        assert!(holds_token(&format!("Bearer {TOKEN}")));
        assert!(!holds_token("1.2.3") && !holds_token("eyJ"));
    }
}
