//! One line of the decision log, as `host/DECISIONS-LOG.md` describes it: JSON in printable
//! ASCII, whatever a client sends.

use std::borrow::Cow;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
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

/// Why, as every JSON of ours has it.
#[derive(Serialize)]
pub(crate) struct Because {
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
    pub(crate) fn of(decision: &Decision) -> Self {
        Self {
            code: decision.code.code(),
            intention: decision.intention,
            permission: decision.permission,
        }
    }
}

/// What is logged with its value, not its name alone; never tokens.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// Headers, in lower case.
    pub(super) headers: Vec<String>,
    /// Parameters of queries.
    pub(super) queries: Vec<String>,
}

/// What is written besides the decision itself.
pub(super) struct About<'a> {
    pub(super) id: &'a str,
    pub(super) digest: Option<String>,
    pub(super) destination: &'a str,
    pub(super) needs: &'a HeaderNeeds,
    pub(super) shown: &'a Shown,
    pub(super) sampled: Option<u64>,
    pub(super) verdict: Option<&'a Verdict>,
}

/// The line of a decision, with its line feed; `None` if it is longer than any reader takes.
pub(super) fn decision(decided: &Decided<'_>, about: &About<'_>) -> Option<String> {
    let write = |shown: &Shown| {
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
                        .map(|path| target(path, &shown.queries)),
                }
            }),
        })
    };
    let short = |line: &String| line.len() <= LONGEST;
    // Without values it may be short enough.
    Some(write(about.shown))
        .filter(short)
        .or_else(|| Some(write(&Shown::default())).filter(short))
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

fn requested(asked: Asked<'_>, needs: &HeaderNeeds, shown: &Shown) -> Requested {
    let headers = asked.headers.iter();
    let headers = headers.filter(|(name, _)| is_needed(name.as_str(), needs));
    Requested {
        method: asked.method.to_owned(),
        path: target(asked.target, &shown.queries),
        headers: headers
            .map(|(name, value)| {
                let (name, value) = (name.as_str(), characters(value.as_bytes()));
                // Who is called is no secret: it is in `authority` otherwise.
                let wanted = name == "host" || shown.headers.iter().any(|one| one == name);
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

/// A request target without the values in its query that are not wanted.
fn target(bytes: &[u8], shown: &[String]) -> String {
    let text = characters(bytes);
    let Some((path, query)) = text.split_once('?') else {
        return text;
    };
    let parts = query.split('&').map(|part| {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (part, None),
        };
        let wanted = shown.iter().any(|one| one == name) && !holds_token(part);
        let is_plain = part.is_empty() || value == Some("") && !holds_token(name);
        if wanted || is_plain {
            part.to_owned()
        } else if value.is_some() && !holds_token(name) {
            format!("{name}={WITHHELD}")
        } else {
            // What has no value may be one.
            WITHHELD.to_owned()
        }
    });
    let query: Vec<String> = parts.collect();
    format!("{path}?{}", query.join("&"))
}

/// Whether something in it has the form of a JWT: three parts, of which the first is a
/// JSON object in base64url.
fn holds_token(text: &str) -> bool {
    let in_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let plain = decoded(text);
    plain.split(|c: char| !in_token(c)).any(|word| {
        let mut parts = word.split('.');
        let begins = parts.next().is_some_and(begins_token);
        begins && parts.next().is_some_and(|part| !part.is_empty()) && parts.next().is_some()
    })
}

/// Whether this may be the first part of a JWT. Something may stand before it.
fn begins_token(part: &str) -> bool {
    let object = || {
        let bytes = URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
        bytes.trim_ascii_start().first() == Some(&b'{')
    };
    part.contains("eyJ") || object()
}

/// With the characters that stand behind a `%`.
fn decoded(text: &str) -> Cow<'_, str> {
    let Some((before, rest)) = text.split_once('%') else {
        return Cow::Borrowed(text);
    };
    let mut plain = before.to_owned();
    for piece in rest.split('%') {
        let code = piece.get(..2);
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(piece.get(2..).unwrap_or_default());
            }
            None => {
                plain.push('%');
                plain.push_str(piece);
            }
        }
    }
    Cow::Owned(plain)
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
    fn values_are_withheld_unless_they_are_wanted_and_tokens_always() {
        const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln";
        let shown = ["b".to_owned(), "flag".to_owned(), "t".to_owned()];
        for (given, expected) in [
            ("/a", "/a"),
            ("/a?", "/a?"),
            ("/a?b=1&&c=2", "/a?b=1&&c=withheld"),
            ("/a?flag&other", "/a?flag&withheld"),
            ("/a?b=&c=", "/a?b=&c="),
            ("/a?B=1?b=2", "/a?B=withheld"),
            (&format!("/a?t={TOKEN}&b=1"), "/a?t=withheld&b=1"),
            (&format!("/a?{TOKEN}"), "/a?withheld"),
            (&format!("/a?{TOKEN}=&b=1"), "/a?withheld&b=1"),
            (&format!("/a?t=Bearer%20{TOKEN}"), "/a?t=withheld"),
            (
                &format!("/a?t={}", TOKEN.replace('.', "%2E")),
                "/a?t=withheld",
            ),
            ("/v1.2.3?b=a.b.c", "/v1.2.3?b=a.b.c"),
        ] {
            assert_eq!(target(given.as_bytes(), &shown), expected, "{given}");
        }
        assert!(holds_token(&format!("Bearer {TOKEN}")));
        // With white space before or in the object.
        assert!(holds_token("IHsiYWxnIjoieCJ9.e30.x") && holds_token("eyAiYWxnIjoieCJ9.e30."));
        assert!(!holds_token("1.2.3") && !holds_token("eyJ") && !holds_token("100%"));
    }
}
