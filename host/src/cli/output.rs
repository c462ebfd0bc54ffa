//! What a command prints: text for people, JSON for machines.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::failure::Failure;
use portcullis::escape::ascii_json;

/// `--output text|json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON document.
    Json,
}

/// The flag that every command which prints an answer takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OutputArgs {
    /// How to print the answer
    #[arg(
        long,
        short = 'o',
        alias = "format",
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
}

/// Set once the reader of standard output has gone.
static GONE: AtomicBool = AtomicBool::new(false);

/// Writes `text` and a line feed to standard output. A reader that has gone
/// (`| head`) is no error: the rest is dropped and the exit status stays.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    write(&format!("{text}\n"))
}

/// Writes `document` as one line of JSON.
pub(crate) fn json(document: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(document)
        .map_err(|error| Failure::while_doing("cannot write the answer as JSON", &error))?;
    line(&ascii_json(&text))
}

/// Writes `text`, whole lines, to standard output, as [`line`] does.
pub(crate) fn write(text: &str) -> Result<(), Failure> {
    if GONE.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            GONE.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => Err(Failure::while_doing(
            "cannot write to standard output",
            &error,
        )),
        Ok(()) => Ok(()),
    }
}

/// Writes a line to standard error; nobody is left to tell when that fails.
pub(crate) fn to_stderr(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints clap's help or version text.
pub(crate) fn help(error: &clap::Error) -> ExitCode {
    let rendered = error.render();
    let text = if colour() {
        rendered.ansi().to_string()
    } else {
        rendered.to_string()
    };
    match write(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Whether standard output takes colour: a terminal, and `NO_COLOR` is not set.
pub(crate) fn colour() -> bool {
    io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

/// How a piece of text is painted.
#[derive(Clone, Copy)]
pub(crate) enum Paint {
    /// Allowed, done.
    Good,
    /// Refused, failed.
    Bad,
    /// A heading.
    Strong,
    /// Less important.
    Faint,
}

/// `text` painted, where standard output takes colour.
pub(crate) fn paint(paint: Paint, text: &str) -> String {
    let code = match paint {
        _ if !colour() => return text.to_owned(),
        Paint::Good => "32",
        Paint::Bad => "31",
        Paint::Strong => "1",
        Paint::Faint => "2",
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// Rows in columns that line up; the last column is not padded.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut lines = Vec::new();
    for row in rows {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        lines.push(text.trim_end().to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".to_owned(), "bcd".to_owned()],
            vec!["longer".to_owned(), "e".to_owned()],
        ];
        assert_eq!(table(&rows), "a       bcd\nlonger  e");
    }
}
