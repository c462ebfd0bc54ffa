//! The command `portcullis`.

mod cli;
mod escape;
mod telemetry;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
