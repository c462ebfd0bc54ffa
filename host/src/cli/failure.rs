//! Why a command ends without success, as one line for people.

use std::error::Error;
use std::fmt::{self, Display};
use std::process::ExitCode;

use portcullis::escape::escape;

/// The longest line that is printed.
const LONGEST: usize = 2_000;

/// One clear line (what, where, what to do) and the exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    /// The command could not do its work: exit status 1.
    pub(crate) fn runtime(text: impl Display) -> Self {
        Self {
            text: text.to_string(),
            code: 1,
        }
    }

    /// The command was asked for something impossible: exit status 2.
    pub(crate) fn usage(text: impl Display) -> Self {
        Self {
            text: text.to_string(),
            code: 2,
        }
    }

    /// `error` and its causes, each told once; exit status 1.
    pub(crate) fn from_error(error: &(dyn Error + 'static)) -> Self {
        Self::runtime(chain(error))
    }

    /// The same, after `what` was tried.
    pub(crate) fn while_doing(what: impl Display, error: &(dyn Error + 'static)) -> Self {
        Self::runtime(format_args!("{what}: {}", chain(error)))
    }

    /// The same with what to do about it.
    pub(crate) fn advice(mut self, advice: impl Display) -> Self {
        self.text = format!("{}; {advice}", self.text);
        self
    }

    /// The same with another exit status.
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Prints the line to standard error.
    pub(crate) fn report(&self) -> ExitCode {
        crate::cli::output::to_stderr(&format!("portcullis: {self}"));
        ExitCode::from(self.code)
    }
}

impl Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line: Vec<&str> = self
            .text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect();
        formatter.write_str(&escape(&line.join(" "), LONGEST))
    }
}

/// An error and its causes, without the repetitions that wrapping brings.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// clap's many lines as one: what is wrong, its tip, and that `command` can
/// tell more.
pub(crate) fn from_clap(error: &clap::Error, command: &str) -> Failure {
    let rendered = error.render().to_string();
    let mut parts = Vec::new();
    for paragraph in rendered.split("\n\n") {
        let paragraph = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some(text) = paragraph.strip_prefix("error: ") {
            parts.push(text.to_owned());
        } else if let Some(text) = paragraph.strip_prefix("tip: ") {
            parts.push(text.replace(" tip: ", "; "));
        }
    }
    Failure::usage(format_args!("{}; see `{command} --help`", parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn causes_are_told_once_on_one_line() {
        let error = Outer(std::io::Error::other("inner\nline"));
        assert_eq!(Failure::from_error(&error).to_string(), "outer: inner line");
        let twice = Outer(std::io::Error::other("outer"));
        assert_eq!(Failure::from_error(&twice).to_string(), "outer");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let failure = Failure::runtime("agent said \u{1b}[31mred\u{2028}").advice("go");
        assert_eq!(
            failure.to_string(),
            "agent said \\u{1b}[31mred\\u{2028}; go"
        );
    }
}
