//! What a leader publishes beside a value: small, read on every tick.
//!
//! The format's version is part of the key, so that two versions of the filter in one Envoy
//! never read each other's values.

use crate::watch::Digest;

/// The format of heads, values and stamps.
pub(super) const FORMAT: &str = "portcullis/1";
/// Clocks are the same for all workers; reading them takes a moment.
const AHEAD_MS: u64 = 1_000;
/// How far the number of a value may lie above the last one that was seen.
const MAX_STEP: u64 = 1_000_000;
const MAX_HEAD: usize = 200;

/// Which value is current, and since when that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Counts the values.
    pub(super) number: u64,
    /// When the agent last confirmed it.
    pub(super) confirmed_at: u64,
    /// Of the value.
    pub(super) digest: String,
}

impl Head {
    pub(super) fn new(number: u64, confirmed_at: u64, digest: Digest) -> Self {
        Self {
            number,
            confirmed_at,
            digest: digest.to_string(),
        }
    }

    pub(super) fn write(&self) -> String {
        format!("{} {} {}", self.number, self.confirmed_at, self.digest)
    }

    /// `None` unless it is exactly of this form.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_HEAD {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let mut parts = text.split(' ');
        let parts = (parts.next()?, parts.next()?, parts.next()?, parts.next());
        let (number, confirmed_at, digest, None) = parts else {
            return None;
        };
        let is_hex = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        if digest.len() != 64 || !digest.bytes().all(is_hex) {
            return None;
        }
        Some(Self {
            number: decimal(number)?,
            confirmed_at: decimal(confirmed_at)?,
            digest: digest.to_owned(),
        })
    }

    /// Whether it can come after `before`: nothing from the future, nothing older, no number
    /// that would leave no room for later ones.
    pub(super) fn follows(&self, before: Option<&Self>, now: u64) -> bool {
        let last = before.map_or(0, |before| before.number);
        let same = before
            .is_some_and(|before| before.number == self.number && before.digest == self.digest);
        self.confirmed_at <= now.saturating_add(AHEAD_MS)
            && (same || self.number > last)
            && self.number.saturating_sub(last) <= MAX_STEP
            && before.is_none_or(|before| before.confirmed_at <= self.confirmed_at)
    }
}

/// Digits only: no sign, no white space.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(number: u64, confirmed_at: u64, value: &str) -> Head {
        Head::new(number, confirmed_at, Digest::of(value.as_bytes()))
    }

    #[test]
    fn a_head_is_read_back() {
        let written = head(3, 1_234, "value");
        assert_eq!(Head::read(written.write().as_bytes()), Some(written));
    }

    #[test]
    fn other_forms_are_none() {
        let digest = "0".repeat(64);
        for text in [
            String::new(),
            format!("1 2 {digest} x"),
            format!("1 2 {digest}\n"),
            format!("+1 2 {digest}"),
            format!("1  {digest}"),
            format!("-1 2 {digest}"),
            format!("18446744073709551616 2 {digest}"),
            format!("1 2 {}", "0".repeat(63)),
            format!("1 2 {}", "A".repeat(64)),
            "x".repeat(1_000),
        ] {
            assert_eq!(Head::read(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Head::read(b"\xff\xfe"), None);
    }

    #[test]
    fn nothing_older_and_nothing_from_the_future_follows() {
        let before = head(5, 10_000, "a");
        let follows = |next: &Head| next.follows(Some(&before), 12_000);
        assert!(follows(&before), "the same, confirmed at the same time");
        assert!(follows(&head(5, 11_000, "a")), "confirmed again");
        assert!(follows(&head(6, 11_000, "b")));
        assert!(!follows(&head(5, 11_000, "b")), "another under its number");
        assert!(!follows(&head(4, 11_000, "b")), "an older number");
        assert!(!follows(&head(6, 9_000, "b")), "confirmed before");
        assert!(!follows(&head(6, 13_001, "b")), "in the future");
        assert!(!follows(&head(u64::MAX, 11_000, "b")), "no room above");
        assert!(head(1, 0, "a").follows(None, 0));
        assert!(!head(u64::MAX, 0, "a").follows(None, 0));
    }
}
