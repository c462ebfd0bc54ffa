//! How the demo talks.

use std::fmt::Display;

use crate::cli::failure::Failure;
use crate::cli::output::{self, Paint, paint};

/// A step of the story begins.
pub(crate) fn step(title: &str) -> Result<(), Failure> {
    output::line(&format!("\n{}", paint(Paint::Strong, title)))
}

/// A name and what it stands for.
pub(crate) fn row(name: &str, text: impl Display) -> Result<(), Failure> {
    output::line(&format!("  {name:<8}{text}"))
}

/// A command that anybody can type.
pub(crate) fn command(text: &str) -> Result<(), Failure> {
    output::line(&format!("  {} {text}", paint(Paint::Faint, "$")))
}

/// What somebody else said.
pub(crate) fn quote(text: &str) -> Result<(), Failure> {
    output::line(&format!("    {}", paint(Paint::Faint, text)))
}

/// Says that a claim holds, unless nothing is to be said.
///
/// Fails with `otherwise` when it does not hold.
pub(crate) fn claim(
    holds: bool,
    text: &str,
    otherwise: impl FnOnce() -> String,
) -> Result<(), Failure> {
    if !holds {
        return Err(Failure::runtime(format_args!(
            "a claim of the demo does not hold: {}",
            otherwise()
        )));
    }
    if text.is_empty() {
        return Ok(());
    }
    output::line(&format!("  {} {text}", paint(Paint::Good, "\u{2713}")))
}

/// The first bytes of a root's id.
pub(crate) fn short(id: &str) -> String {
    id.split(':').take(4).collect::<Vec<_>>().join(":")
}

/// A number with a comma before every three digits.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
