//! When the tokens of a request end, as they say themselves.
//!
//! Nothing is verified here: this only says when to ask the policy again, which decides. What
//! could be a token is looked for wherever the rules may look, so that whoever writes it
//! otherwise gains nothing.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use portcullis_core::time::Timestamp;
use serde::Deserialize;

/// Envoy's skew in seconds, inclusive: no token is good for longer after its end.
const SKEW: u64 = 60;
/// Within the skew it is asked so often, in seconds: a provider may have a smaller one.
const STEP: u64 = 5;

/// As lenient as those who verify could be.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The ends of what could be tokens, in seconds since the epoch.
pub(super) fn of(target: &[u8], headers: &HeaderMap) -> Box<[u64]> {
    let mut ends = Vec::new();
    add(&unescaped(target), &mut ends);
    for value in headers.values() {
        add(value.as_bytes(), &mut ends);
    }
    ends.sort_unstable();
    ends.dedup();
    ends.into()
}

/// When to ask again after `now`, if ever.
pub(super) fn next(ends: &[u64], now: Timestamp) -> Option<Timestamp> {
    let now = now.as_millis() / 1_000;
    let after = |end: &u64| {
        // The first second after it, then now and then until no skew is left.
        let (first, last) = (end.saturating_add(1), end.saturating_add(SKEW + 1));
        match now {
            _ if now < first => Some(first),
            _ if now < last => Some(now.saturating_add(STEP).min(last)),
            _ => None,
        }
    };
    let next = ends.iter().filter_map(after).min()?;
    Some(Timestamp::from_millis(next.saturating_mul(1_000)))
}

fn add(text: &[u8], ends: &mut Vec<u64>) {
    let is_token =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'=');
    for run in text.split(|byte| !is_token(byte)) {
        let parts: Vec<&[u8]> = run.split(|byte| *byte == b'.').collect();
        // Something is before a payload, and something after it.
        if let [_, payloads @ .., _] = parts.as_slice() {
            ends.extend(payloads.iter().filter_map(|payload| end(payload)));
        }
    }
}

fn end(payload: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let json = BASE64.decode(payload).ok()?;
    let Claims { exp } = serde_json::from_slice(&json).ok()?;
    // What is beyond is nobody's end; the fraction goes as in the policy.
    (0.0..1e15).contains(&exp).then_some(exp as u64)
}

/// `%XX` undone, as far as it is some.
fn unescaped(target: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(target.len());
    let mut rest = target;
    while let [first, after @ ..] = rest {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = match escaped {
            Some(_) => &after[2..],
            None => after,
        };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        let part = |text: &str| BASE64.encode(text).trim_end_matches('=').to_owned();
        format!("{}.{}.c2ln", part("{ \"alg\": \"x\" }"), part(claims))
    }

    fn ends(target: &str, headers: &[(&'static str, String)]) -> Vec<u64> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        of(target.as_bytes(), &headers).to_vec()
    }

    #[test]
    fn tokens_are_found_wherever_they_are() {
        let (one, two) = (token(r#"{"exp":100}"#), token(r#"{"sub":"a","exp":200.5}"#));
        let bearer = ("authorization", format!("Bearer {one}"));
        let cookie = ("cookie", format!("a=b; t={two}; c=d"));
        assert_eq!(ends("/", &[bearer, cookie]), [100, 200]);
        assert_eq!(ends(&format!("/a.b?access_token={two}&x=1"), &[]), [200]);
        assert_eq!(ends("/", &[("x", format!("before.{one}.after"))]), [100]);
        // Written otherwise, it is the same.
        let hidden: String = two.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(ends(&format!("/?access_token={hidden}"), &[]), [200]);
    }

    #[test]
    fn what_is_none_has_no_end() {
        for text in [
            String::new(),
            "www.example.com".to_owned(),
            token("{}"),
            token("[]"),
            token(r#"{"exp":"100"}"#),
            token(r#"{"exp":-1}"#),
            token(r#"{"exp":1e300}"#),
            "a.%.c".to_owned(),
            "...".to_owned(),
        ] {
            let found = ends(&format!("/{text}?%"), &[("x", text.clone())]);
            assert_eq!(found, [0_u64; 0], "{text}");
        }
    }

    #[test]
    fn it_is_asked_again_until_no_skew_is_left() {
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1_000);
        let next_after = |now: u64| next(&[100, 500], at(now)).map(|at| at.as_millis() / 1_000);
        assert_eq!(next_after(0), Some(101));
        assert_eq!(next_after(100), Some(101));
        assert_eq!(next_after(101), Some(106));
        assert_eq!(next_after(158), Some(161));
        assert_eq!(next_after(161), Some(501));
        assert_eq!(next_after(561), None);
        assert_eq!(next(&[], at(0)), None);
        // Time never wraps.
        assert!(next(&[u64::MAX], at(0)).is_some());
    }
}
