//! When the tokens of a request end, as they say themselves.
//!
//! Nothing is verified here: this only says when to ask the policy again, which decides. What
//! could be a token is looked for wherever the rules may look, so that whoever writes it
//! otherwise gains nothing.

use serde::Deserialize;

use super::locate::decoded;
use crate::time::Timestamp;

/// Envoy's skew in seconds, inclusive: no token is good for longer after its end.
const SKEW: u64 = 60;
/// Within the skew it is asked so often, in seconds: a provider may have a smaller one.
const STEP: u64 = 5;

/// The ends of what could be tokens, in seconds since the epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenEnds(Box<[u64]>);

impl TokenEnds {
    /// Of a request with this target and these values of headers.
    #[must_use]
    pub fn of<'r>(target: &[u8], values: impl IntoIterator<Item = &'r [u8]>) -> Self {
        let mut ends = Vec::new();
        add(&decoded(target), &mut ends);
        for value in values {
            add(value, &mut ends);
        }
        ends.sort_unstable();
        ends.dedup();
        Self(ends.into())
    }

    /// When to ask again after `now`, if ever.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
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
        let next = self.0.iter().filter_map(after).min()?;
        Some(Timestamp::from_millis(next.saturating_mul(1_000)))
    }
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

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked, the fraction goes as in the policy"
)]
fn end(payload: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let Claims { exp } = serde_json::from_slice(&base64(payload)?).ok()?;
    // What is beyond is nobody's end.
    (0.0..1e15).contains(&exp).then_some(exp as u64)
}

/// As lenient as those who verify could be: with or without padding, whatever bits are left.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|byte| *byte != b'=')?;
    let mut bytes = Vec::with_capacity(text.len());
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in text.get(..=end)? {
        let six = match byte {
            b'A'..=b'Z' => byte.wrapping_sub(b'A'),
            b'a'..=b'z' => byte.wrapping_sub(b'a').wrapping_add(26),
            b'0'..=b'9' => byte.wrapping_sub(b'0').wrapping_add(52),
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        count = count.saturating_add(6);
        if count >= 8 {
            count = count.saturating_sub(8);
            bytes.push(u8::try_from((bits >> count) & 0xff).ok()?);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64ct::{Base64UrlUnpadded, Encoding as _};

    fn token(claims: &str) -> String {
        let part = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
        format!("{}.{}.c2ln", part("{ \"alg\": \"x\" }"), part(claims))
    }

    fn ends(target: &str, values: &[String]) -> Vec<u64> {
        let values = values.iter().map(String::as_bytes);
        TokenEnds::of(target.as_bytes(), values).0.to_vec()
    }

    #[test]
    fn tokens_are_found_wherever_they_are() {
        let (one, two) = (token(r#"{"exp":100}"#), token(r#"{"sub":"a","exp":200.5}"#));
        let bearer = format!("Bearer {one}");
        let cookie = format!("a=b; t={two}; c=d");
        assert_eq!(ends("/", &[bearer, cookie]), [100, 200]);
        assert_eq!(ends(&format!("/a.b?access_token={two}&x=1"), &[]), [200]);
        assert_eq!(ends("/", &[format!("before.{one}.after")]), [100]);
        // Written otherwise, it is the same.
        let hidden: String = two.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(ends(&format!("/?access_token={hidden}"), &[]), [200]);
        let padded = format!("{}==.c2ln", one.strip_suffix(".c2ln").unwrap());
        assert_eq!(ends("/", &[padded]), [100]);
        // `{"exp":7}` with other bits behind its end.
        assert_eq!(ends("/", &["x.eyJleHAiOjd9.y".to_owned()]), [7]);
        assert_eq!(ends("/", &["x.eyJleHAiOjEyfR.y".to_owned()]), [12]);
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
            "a.====.c".to_owned(),
        ] {
            let found = ends(&format!("/{text}?%"), std::slice::from_ref(&text));
            assert_eq!(found, [0_u64; 0], "{text}");
        }
    }

    #[test]
    fn it_is_asked_again_until_no_skew_is_left() {
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1_000);
        let ends = TokenEnds([100, 500].into());
        let next_after = |now: u64| ends.next(at(now)).map(|at| at.as_millis() / 1_000);
        assert_eq!(next_after(0), Some(101));
        assert_eq!(next_after(100), Some(101));
        assert_eq!(next_after(101), Some(106));
        assert_eq!(next_after(158), Some(161));
        assert_eq!(next_after(161), Some(501));
        assert_eq!(next_after(561), None);
        assert_eq!(TokenEnds::default().next(at(0)), None);
        // Time never wraps.
        assert!(TokenEnds([u64::MAX].into()).next(at(0)).is_some());
    }
}
