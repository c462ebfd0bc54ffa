//! The command line: `portcullis COMMAND`.
//!
//! [`table`] is the list of commands, in help and README alike.

mod argv;
mod failure;
mod output;
mod version;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::telemetry::{self, LogArgs};
use failure::Failure;

/// Which command to use when.
const WHICH: &str = "\
Which command when:
  demo         see it work: two services, allowed, refused and cut off, no Consul needed
  dev          develop or test without Consul: an agent with its own CA, in memory
  proxy        put a service into the mesh: mTLS in and out, each connection decided by the policy
  intention    list or change who may talk to whom, on a Consul or dev agent
  check        ask one question: may SOURCE connect to DESTINATION, and why
  eval         ask many questions from a file, without an agent: replay, CI, comparing engines
  inspect      see a certificate or SPIFFE ID as the policy sees it
  version      which policy component is built in, its sha256 and size

Every long flag takes one dash or two: `-service web`, `--service=web`.
The agent is found by -http-addr or CONSUL_HTTP_ADDR, the token by -token-file or CONSUL_HTTP_TOKEN_FILE.
Exit status: 0 done or allowed, 1 failed or denied, 2 wrong usage (for `check`: any error).";

/// Who may talk to whom in a Consul service mesh, decided by one WebAssembly policy that says why.
#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    version,
    after_help = WHICH,
    max_term_width = 100,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = false
)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Version(version::VersionArgs),
}

/// Runs the command of this process.
pub(crate) fn main() -> ExitCode {
    report_panics_in_one_line();
    let mut command = Cli::command();
    let arguments = argv::normalise(&command, std::env::args_os());
    let parsed = command
        .try_get_matches_from_mut(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => run(cli).unwrap_or_else(|failure| failure.report()),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => output::help(&error),
            ErrorKind::MissingSubcommand => Failure::usage(
                "no command given; start with `portcullis demo`, or see `portcullis --help`",
            )
            .report(),
            _ => failure::from_clap(&error).report(),
        },
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    telemetry::start(&cli.log, "warn").map_err(|error| Failure::usage(error))?;
    match cli.command {
        Command::Version(arguments) => version::run(&arguments),
    }
}

/// A panic is our defect: one line that can be reported, no backtrace.
fn report_panics_in_one_line() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("unknown");
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let failure = Failure::runtime(format_args!(
            "this is a defect of portcullis: {message} (at {place}); please report it with what you ran"
        ));
        output::to_stderr(&format!("portcullis: {failure}"));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_is_in_the_table() {
        for command in Cli::command()
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            let row = format!("\n  {} ", command.get_name());
            assert!(WHICH.contains(&row), "{row}");
        }
    }
}
