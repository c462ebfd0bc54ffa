//! `portcullis demo`: the mesh in a minute, every claim checked.
//!
//! Five processes with real sockets: a dev agent, the services `web` and `db`,
//! and a proxy for each. The story tells and checks; [`children`] starts and
//! ends; [`service`] is what the proxies protect.

mod children;
mod evidence;
mod load;
pub(crate) mod service;
mod stage;
mod story;
mod telling;

use std::path::PathBuf;
use std::process::ExitCode;

use super::failure::Failure;
use super::output::{self, Paint, paint};
use super::shutdown::{Shutdown, StopArgs};
use stage::Stage;

/// Show the mesh at work: allowed, refused, cut off, rotated; no Consul needed
///
/// Starts a development agent, two small services and their proxies as processes
/// of their own, and checks everything that it claims. Ends with status 1 when a
/// claim does not hold.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis demo
  portcullis demo --keep                     leave it running, with commands to paste
  portcullis demo --component my-policy.wasm see what another policy would do")]
pub(crate) struct DemoArgs {
    /// Leave everything running until Ctrl-C, and print commands to paste
    #[arg(long)]
    keep: bool,
    /// Policy component to use instead of the built-in one
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
    /// How many handshakes to run while the CA is rotated
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(100..=20_000))]
    handshakes: u32,
    #[command(flatten)]
    stop: StopArgs,
}

/// How the story came to its end.
enum End {
    /// Everything was told.
    Told,
    /// Somebody had enough of it.
    Stopped(&'static str),
    /// Something went wrong.
    Failed(Failure),
}

/// Runs the command.
pub(crate) async fn run(arguments: &DemoArgs) -> Result<ExitCode, Failure> {
    let mut shutdown = Shutdown::listen(&arguments.stop)
        .map_err(|error| Failure::while_doing("cannot listen for signals", &error))?;
    let mut stage = Stage::new()?;
    let end = tokio::select! {
        told = story::tell(&mut stage, arguments) => told.map_or_else(End::Failed, |()| End::Told),
        signal = shutdown.requested() => End::Stopped(signal),
    };
    if arguments.keep && matches!(end, End::Told) {
        let text = "\nEverything keeps running; Ctrl-C ends it.";
        output::line(&paint(Paint::Strong, text))?;
        shutdown.requested().await;
    }
    let logs = stage.logs().display().to_string();
    let failed = matches!(end, End::Failed(_));
    let ended = shutdown.while_cleaning_up(stage.end(failed)).await;
    match (end, ended) {
        (End::Failed(failure), _) => {
            Err(failure.advice(format_args!("the logs of all processes are in `{logs}`")))
        }
        (End::Stopped(signal), _) => {
            Err(Failure::runtime(format_args!("stopped by {signal}")).code(130))
        }
        (End::Told, Err(code)) => Ok(code),
        (End::Told, Ok(bad)) if bad.is_empty() => Ok(ExitCode::SUCCESS),
        (End::Told, Ok(bad)) => Err(Failure::runtime(format_args!(
            "the demo's claims hold, but these processes did not end cleanly: {}; their logs are in `{logs}`",
            bad.join(", ")
        ))),
    }
}
