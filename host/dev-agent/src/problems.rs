//! Several problems in one text, as the Go agent words them.

use std::fmt::Display;

/// Refuses with the list of what is wrong, if anything is.
pub(crate) fn none(problems: &[impl Display]) -> Result<(), String> {
    if problems.is_empty() {
        return Ok(());
    }
    let plural = if problems.len() == 1 {
        "error"
    } else {
        "errors"
    };
    let lines: Vec<_> = problems
        .iter()
        .map(|problem| format!("\t* {problem}\n"))
        .collect();
    Err(format!(
        "{} {plural} occurred:\n{}\n",
        problems.len(),
        lines.concat()
    ))
}
