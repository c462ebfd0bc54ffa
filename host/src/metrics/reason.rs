//! Keeps reasons few: a component words some of them.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// More different ones than this are one.
const MOST: usize = 64;

/// The longest that is shown.
const LONGEST: usize = 48;

/// What stands for all that are not shown.
const OTHER: &str = "other";

/// Reasons that were seen.
#[derive(Debug, Default)]
pub(super) struct Reasons(Mutex<BTreeSet<String>>);

impl Reasons {
    /// The label for `reason`.
    pub(super) fn label(&self, reason: &str) -> String {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if reason.is_empty() || reason.len() > LONGEST || !reason.bytes().all(plain) {
            return OTHER.to_owned();
        }
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.contains(reason) {
            if seen.len() >= MOST {
                return OTHER.to_owned();
            }
            seen.insert(reason.to_owned());
        }
        reason.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_few_and_plain() {
        let reasons = Reasons::default();
        assert_eq!(reasons.label("default-policy"), "default-policy");
        for hostile in ["", "A", "a\nb", "a\"b", "caf\u{e9}", &"x".repeat(49)] {
            assert_eq!(reasons.label(hostile), OTHER, "{hostile:?}");
        }
        for number in 0..1_000 {
            reasons.label(&format!("reason-{number}"));
        }
        assert_eq!(reasons.label("reason-999"), OTHER);
        assert_eq!(reasons.label("default-policy"), "default-policy");
        assert_eq!(reasons.0.lock().unwrap().len(), MOST);
    }
}
