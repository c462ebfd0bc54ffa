//! Steps with their times, and the summary at the end.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// What happened so far.
pub(crate) struct Report {
    started: Instant,
    steps: Vec<(String, Duration, bool)>,
    notes: Vec<String>,
    warnings: Vec<String>,
    failures: Vec<String>,
    unstable: Vec<String>,
    /// Tests that passed, failed and were left out.
    pub(crate) passed: u64,
    pub(crate) failures_counted: u64,
    pub(crate) skipped: u64,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            steps: Vec::new(),
            notes: Vec::new(),
            warnings: Vec::new(),
            failures: Vec::new(),
            unstable: Vec::new(),
            passed: 0,
            failures_counted: 0,
            skipped: 0,
        }
    }

    /// Says that a step begins. On a terminal the line is kept up to date by its end.
    pub(crate) fn begin(&self, name: &str) -> Instant {
        if std::io::stderr().is_terminal() {
            eprint!("[{}] {name} … ", clock(self.started.elapsed()));
        }
        Instant::now()
    }

    /// Says how a step ended.
    pub(crate) fn end(&mut self, name: &str, began: Instant, good: bool) {
        let took = began.elapsed();
        let verdict = if good { "ok" } else { "FAILED" };
        if std::io::stderr().is_terminal() {
            eprintln!("{verdict} ({})", clock(took));
        } else {
            eprintln!(
                "[{}] {name}: {verdict} ({})",
                clock(self.started.elapsed()),
                clock(took)
            );
        }
        self.steps.push((name.to_owned(), took, good));
    }

    /// A line for the summary.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Something that must not be overlooked, but is no failure.
    pub(crate) fn warn(&mut self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("\n  !! {text}\n");
        self.warnings.push(text);
    }

    /// A test that failed and then passed by itself: counted as passed, and told of at the end.
    pub(crate) fn unstable(&mut self, failure: &Failure) {
        self.passed += 1;
        self.failures_counted = self.failures_counted.saturating_sub(1);
        self.unstable.push(failure.to_string());
    }

    /// Takes back that a step failed.
    pub(crate) fn forgive(&mut self, step: &str) {
        for (name, _, good) in &mut self.steps {
            *good |= name == step;
        }
    }

    /// A failure.
    pub(crate) fn failed(&mut self, text: &str) {
        self.failures.push(text.to_owned());
    }

    /// Prints everything; whether all is well.
    pub(crate) fn summary(&self) -> bool {
        println!("\n{:<44} {:>8}  result", "step", "time");
        for (name, took, good) in &self.steps {
            println!(
                "{name:<44} {:>8}  {}",
                clock(*took),
                if *good { "ok" } else { "FAILED" }
            );
        }
        println!("{:<44} {:>8}", "total", clock(self.started.elapsed()));
        for note in &self.notes {
            println!("{note}");
        }
        for warning in &self.warnings {
            println!("!! {warning}");
        }
        for unstable in &self.unstable {
            println!(
                "UNSTABLE, a defect to mend: failed among the others, passed alone: {unstable}"
            );
        }
        for failure in &self.failures {
            println!("FAILED: {failure}");
        }
        let failed_steps = self.steps.iter().filter(|(_, _, good)| !good).count();
        let failed = match self.failures_counted {
            0 => u64::try_from(failed_steps).unwrap_or(u64::MAX),
            tests => tests,
        };
        if self.passed > 0 || failed > 0 {
            print!("{} passed, {failed} failed", self.passed);
            if self.skipped > 0 {
                print!(", {} skipped", self.skipped);
            }
            if !self.unstable.is_empty() {
                print!(", {} unstable", self.unstable.len());
            }
            println!();
        }
        failed == 0 && self.failures.is_empty()
    }
}

fn clock(time: Duration) -> String {
    let secs = time.as_secs();
    if secs < 60 {
        format!("{}.{} s", secs, time.subsec_millis() / 100)
    } else {
        format!("{}:{:02}", secs / 60, secs % 60)
    }
}
