//! Where a request carries its tokens.

use std::borrow::Cow;

use super::provider::{Location, Provider};

/// The parts of a request that may carry tokens.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'r> {
    /// All headers in order.
    pub headers: &'r [(&'r [u8], &'r [u8])],
    /// The path and the query, as they are forwarded.
    pub path: &'r [u8],
}

/// Tokens for one provider.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found<'r> {
    /// As Envoy finds them.
    pub(super) tokens: Vec<Cow<'r, str>>,
    /// Whether there is exactly one, and nothing else could be read as one.
    pub(super) is_single: bool,
}

/// What Envoy takes for a token after a prefix.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

impl<'r> Presented<'r> {
    /// Whether there is a header of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.headers
            .iter()
            .any(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// The tokens that a provider is asked about.
    pub(super) fn tokens(&self, provider: &Provider) -> Found<'r> {
        let mut found = Found {
            is_single: true,
            ..Found::default()
        };
        for location in provider.locations.iter() {
            match location {
                Location::Header { name, prefix, .. } => self.header(name, prefix, &mut found),
                Location::Query { name } => self.query(name, &mut found),
                Location::Cookie { name } => self.cookie(name, &mut found),
            }
        }
        found.is_single &= found.tokens.len() == 1;
        found
    }

    /// Repeated headers are one value to Envoy, and its prefix may stand anywhere.
    fn header(&self, name: &str, prefix: &str, found: &mut Found<'r>) {
        let mut values = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| *value);
        let Some(first) = values.next() else { return };
        let rest: Vec<&[u8]> = values.collect();
        let value: Cow<'r, [u8]> = if rest.is_empty() {
            Cow::Borrowed(first)
        } else {
            found.is_single = false;
            let all: Vec<&[u8]> = std::iter::once(first).chain(rest).collect();
            Cow::Owned(all.join(&b","[..]))
        };
        let token = if prefix.is_empty() {
            value
        } else {
            let Some(place) = find(&value, prefix.as_bytes()) else {
                return;
            };
            let start = place.saturating_add(prefix.len());
            let after = value.get(start..).unwrap_or_default();
            let skipped = after.iter().take_while(|byte| !is_token(**byte)).count();
            let token = after.get(skipped..).unwrap_or_default();
            let length = token.iter().take_while(|byte| is_token(**byte)).count();
            found.is_single &= place == 0 && skipped == 0 && length == token.len();
            Cow::Owned(token.get(..length).unwrap_or_default().to_vec())
        };
        found.push(token);
    }

    /// The first parameter of the name, percent-decoded.
    fn query(&self, name: &str, found: &mut Found<'r>) {
        let start = self.path.iter().position(|byte| *byte == b'?');
        let query = start.and_then(|start| self.path.get(start.saturating_add(1)..));
        let query = query.unwrap_or_default();
        let query = query.split(|byte| *byte == b'#').next().unwrap_or_default();
        let mut values = query
            .split(|byte| *byte == b'&')
            .map(|pair| split(pair, b'='))
            .filter(|(other, _)| *decoded(other) == *name.as_bytes())
            .map(|(_, value)| value);
        let Some(first) = values.next() else { return };
        found.is_single &= values.next().is_none();
        found.push(decoded(first));
    }

    /// The first cookie of the name.
    fn cookie(&self, name: &str, found: &mut Found<'r>) {
        let mut values = self
            .headers
            .iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(b"cookie"))
            .flat_map(|(_, value)| value.split(|byte| *byte == b';'))
            .map(|pair| split(pair.trim_ascii(), b'='))
            .filter(|(other, _)| *other == name.as_bytes())
            .map(|(_, value)| value);
        let Some(first) = values.next() else { return };
        found.is_single &= values.next().is_none();
        let bare = first
            .strip_prefix(b"\"")
            .and_then(|value| value.strip_suffix(b"\""))
            .unwrap_or(first);
        found.push(Cow::Borrowed(bare));
    }
}

impl<'r> Found<'r> {
    /// What is no text is no token, but it was there.
    fn push(&mut self, token: Cow<'r, [u8]>) {
        self.tokens.push(match token {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        });
    }
}

/// The path and query without every parameter of a name; `None` if there is none.
pub(super) fn without_parameter(path: &[u8], name: &str) -> Option<Vec<u8>> {
    let start = path.iter().position(|byte| *byte == b'?')?;
    let (bare, query) = path.split_at_checked(start)?;
    let query = query.get(1..).unwrap_or_default();
    let is_other = |pair: &&[u8]| *decoded(split(pair, b'=').0) != *name.as_bytes();
    let pairs = query.split(|byte| *byte == b'&');
    let kept: Vec<&[u8]> = pairs.clone().filter(is_other).collect();
    if kept.len() == pairs.count() {
        return None;
    }
    let mut without = bare.to_vec();
    if !kept.is_empty() {
        without.push(b'?');
        without.extend_from_slice(&kept.join(&b"&"[..]));
    }
    Some(without)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}

/// The parts before and after a byte; the second is empty without it.
fn split(text: &[u8], at: u8) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| *byte == at) {
        Some(place) => (
            text.get(..place).unwrap_or_default(),
            text.get(place.saturating_add(1)..).unwrap_or_default(),
        ),
        None => (text, &[]),
    }
}

/// Without percent-encoding; what is no escape stays.
pub(super) fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digit = |place: usize| {
            let digit = char::from(*after.get(place)?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high << 4) | low);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    Cow::Owned(bytes)
}
