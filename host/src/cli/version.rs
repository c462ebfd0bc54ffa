//! `portcullis version`: what this program is made of.

use std::process::ExitCode;

use serde::Serialize;

use super::failure::Failure;
use super::output::{self, Format, OutputArgs};

/// Show the version, and which policy component is built in
///
/// The sha256 is that of the component's bytes: compare it with the one that
/// another host or a release shows, to know that both decide alike.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis version
  portcullis version --output json | jq -r .component.sha256")]
pub(crate) struct VersionArgs {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Version {
    portcullis: &'static str,
    wit: &'static str,
}

/// Runs the command.
pub(crate) fn run(arguments: &VersionArgs) -> Result<ExitCode, Failure> {
    let version = Version {
        portcullis: env!("CARGO_PKG_VERSION"),
        wit: "portcullis:mesh@0.1.0",
    };
    match arguments.output.output {
        Format::Json => output::json(&version)?,
        Format::Text => output::line(&format!("portcullis {}", version.portcullis))?,
    }
    Ok(ExitCode::SUCCESS)
}
