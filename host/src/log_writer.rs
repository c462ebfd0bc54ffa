//! Log lines go to standard error by a thread of their own.
//!
//! A reader that stalls (a full pipe, a slow disk) must keep no connection waiting; what
//! is dropped meanwhile is logged as soon as somebody reads again.

use std::io::Write as _;
use std::sync::OnceLock;

use portcullis::line_writer::{LineWriter, Sink};

static WRITER: OnceLock<LineWriter> = OnceLock::new();

struct StandardError;

impl Sink for StandardError {
    fn write(&mut self, lines: &[u8]) {
        now(lines);
    }

    fn dropped(&mut self, count: u64) {
        tracing::warn!(
            dropped = count,
            "log lines were dropped: standard error was not read fast enough"
        );
    }
}

/// Starts the thread. Without it lines are written at once.
pub(crate) fn start() {
    let _ = WRITER.get_or_init(|| LineWriter::start("log", StandardError));
}

/// Has a line written, soon and in order.
pub(crate) fn write(line: String) {
    let back = match WRITER.get() {
        Some(writer) => writer.write(line).err(),
        None => Some(line),
    };
    if let Some(line) = back {
        now(line.as_bytes());
    }
}

/// Waits until everything is written, but not for long.
pub(crate) fn flush() {
    if let Some(writer) = WRITER.get() {
        writer.flush();
    }
}

fn now(bytes: &[u8]) {
    // Nobody is left to tell when standard error is gone.
    let _ = std::io::stderr().lock().write_all(bytes);
}
