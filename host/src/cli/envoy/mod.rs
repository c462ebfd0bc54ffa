//! `portcullis envoy`: Envoy's configuration.

mod lint;

use std::process::ExitCode;

use clap::Subcommand;

use super::failure::Failure;

/// Check a configuration of Envoy
///
/// `lint` finds what makes the policy in a configuration useless or open.
#[derive(Debug, clap::Args)]
pub(crate) struct EnvoyArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Lint(lint::LintArgs),
}

/// Runs the command.
pub(crate) fn run(arguments: &EnvoyArgs) -> Result<ExitCode, Failure> {
    match &arguments.action {
        Action::Lint(arguments) => lint::run(arguments),
    }
}
