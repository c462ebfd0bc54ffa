//! Tests that failed, as the log of `cargo test` tells of them.

use std::collections::BTreeSet;
use std::fmt;

/// A test that failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    name: String,
    /// The beginning of what it printed.
    said: String,
    program: Option<String>,
}

impl Failure {
    /// As its program calls it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What selects its program, in cargo's words: `-p portcullis-tests --test http`.
    pub(crate) fn program(&self) -> Option<&str> {
        self.program.as_deref()
    }
}

/// How much of a failed test's output stands in the summary.
const LINES: usize = 12;
const LETTERS_OF_A_LINE: usize = 300;

/// The tests that failed, each with the beginning of what it printed: on a machine that is
/// gone afterwards, the summary is all that is left.
pub(crate) fn failures(log: &str) -> Vec<Failure> {
    let mut found: Vec<Failure> = Vec::new();
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(program) = program(line) {
            for failure in found.iter_mut().filter(|one| one.program.is_none()) {
                failure.program = Some(program.to_owned());
            }
        } else if let Some(name) = heading(line) {
            let mut said = String::new();
            let mut left = LINES;
            while let Some(line) = lines.next_if(|line| heading(line).is_none() && !is_list(line)) {
                if !line.trim().is_empty() && left > 0 {
                    left -= 1;
                    said.push_str("\n    ");
                    said.extend(line.chars().take(LETTERS_OF_A_LINE));
                }
            }
            found.push(Failure {
                name: name.to_owned(),
                said,
                program: None,
            });
        }
    }
    found
}

/// Whether these failures are all that was wrong: a program that crashed, or a test of the
/// documentation, has no failure with a program.
pub(crate) fn all_told(log: &str, failures: &[Failure]) -> bool {
    let programs: BTreeSet<_> = failures.iter().filter_map(|one| one.program()).collect();
    let failed = log.lines().rev().find_map(|line| {
        let (count, rest) = line.strip_prefix("error: ")?.split_once(' ')?;
        rest.starts_with("target").then_some(count)
    });
    failed == Some(&programs.len().to_string())
}

/// Before what a failed test printed.
fn heading(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// Before the list of names that ends the output of a program.
fn is_list(line: &str) -> bool {
    line == "failures:"
}

/// After a program with failures.
fn program(line: &str) -> Option<&str> {
    line.strip_prefix("error: test failed, to rerun pass `")?
        .strip_suffix('`')
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
     Running http/main.rs (target/release/deps/http-0d)
test a::one ... FAILED
test a::two ... FAILED

failures:

---- a::one stdout ----

thread 'a::one' panicked at tests/http/a.rs:1:1:
left and right

---- a::two stdout ----
gone

failures:
    a::one
    a::two

test result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1 s

error: test failed, to rerun pass `-p portcullis-tests --test http`
     Running layer/main.rs (target/release/deps/layer-0d)

failures:

---- b stdout ----
gone, too

failures:
    b
";

    #[test]
    fn a_program_that_crashed_is_not_told_of() {
        let found = failures(LOG);
        assert!(!all_told(LOG, &found), "the log has no end");
        for (count, told) in [("1 target", true), ("2 targets", false)] {
            let log = format!("{LOG}error: {count} failed:\n    `-p x`\n");
            assert_eq!(all_told(&log, &found), told, "{count}");
        }
    }

    #[test]
    fn failures_have_their_programs_and_words() {
        let failure = |name: &str, said: &str, program: Option<&str>| Failure {
            name: name.to_owned(),
            said: said.to_owned(),
            program: program.map(str::to_owned),
        };
        let http = Some("-p portcullis-tests --test http");
        let one = "\n    thread 'a::one' panicked at tests/http/a.rs:1:1:\n    left and right";
        assert_eq!(
            failures(LOG),
            [
                failure("a::one", one, http),
                failure("a::two", "\n    gone", http),
                // The log ended before its program did.
                failure("b", "\n    gone, too", None),
            ]
        );
    }
}
