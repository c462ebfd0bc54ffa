//! The command `portcullis`.

mod cli;
mod log_writer;
mod telemetry;
#[cfg(feature = "otel")]
mod traces;

use std::process::ExitCode;

fn main() -> ExitCode {
    let code = cli::main();
    log_writer::flush();
    code
}
