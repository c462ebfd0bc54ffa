//! Tests that failed once are asked again by themselves, and named as unstable where they pass.
//!
//! Real agents, Envoys and proxies share two processors with each other: some order of events
//! occurs once in a hundred runs. That is a defect of the test, or of what it tests, and it is
//! printed with all that it said; but it says nothing against the change that CI was asked about.

use std::process::Command;

use crate::failure::Failure;
use crate::report::Report;
use crate::shell;

/// With more than these something is broken.
const AT_MOST: usize = 3;
/// So often each of them must pass, one after the other.
const TIMES: usize = 3;
/// The package without processes, sockets and clocks: what fails there, fails.
const PURE: &str = "portcullis-core";

/// Asks the failed tests of a run again, with nothing else running: those that pass each time
/// now, and those that do not.
pub(crate) fn ask_again(
    report: &mut Report,
    failures: Vec<Failure>,
    cargo: impl Fn() -> Command,
) -> (Vec<Failure>, Vec<Failure>) {
    if failures.len() > AT_MOST {
        return (Vec::new(), failures);
    }
    failures
        .into_iter()
        .partition(|failure| passes(report, failure, &cargo))
}

fn passes(report: &mut Report, failure: &Failure, cargo: impl Fn() -> Command) -> bool {
    let Some(program) = failure.program().and_then(selection) else {
        return false;
    };
    (1..=TIMES).all(|time| {
        let mut again = cargo();
        again.args(program.split(' '));
        again.args(["--", "--exact", failure.name()]);
        let step = format!("again ({time} of {TIMES}): {}", failure.name());
        shell::step(report, &step, &mut again).is_ok_and(|log| ran_one(&log))
    })
}

/// What selects the program among all of the workspace: the package is left out, because cargo
/// would build its dependencies with other features.
fn selection(program: &str) -> Option<&str> {
    let (package, target) = program.strip_prefix("-p ")?.split_once(' ')?;
    (package != PURE).then_some(target)
}

/// Whether a log tells of one test that passed, and not of none that was found.
fn ran_one(log: &str) -> bool {
    log.lines()
        .filter(|line| line.starts_with("test result: ok. 1 passed;"))
        .count()
        == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_processes_is_asked_again() {
        for (program, selected) in [
            ("-p portcullis-tests --test http", Some("--test http")),
            ("-p portcullis --lib", Some("--lib")),
            ("-p portcullis-core --test requests", None),
            ("-p portcullis-core --lib", None),
            ("--doc", None),
        ] {
            assert_eq!(selection(program), selected, "{program}");
        }
    }

    #[test]
    fn a_test_that_did_not_run_did_not_pass() {
        let none = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 12 filtered out\n";
        let one = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 11 filtered out\n";
        assert!(!ran_one(none));
        assert!(ran_one(&[none, one].concat()));
    }
}
