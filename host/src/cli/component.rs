//! `portcullis component`: prepares policy components before they are used.

use std::path::PathBuf;
use std::process::ExitCode;

use portcullis::runtime::{Component, ComponentOptions, Limits};
use serde_json::json;

use super::failure::Failure;
use super::output::{self, Format, OutputArgs};
use portcullis::escape::escape;

/// Compile and try out a policy component before a proxy uses it
#[derive(Debug, clap::Args)]
pub(crate) struct ComponentArgs {
    #[command(subcommand)]
    command: ComponentCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ComponentCommand {
    Compile(CompileArgs),
}

/// Compile a component into the cache, and ask it questions whose answers are known
///
/// A proxy that finds the compiled form in its cache starts in milliseconds and needs no
/// place to write. With -portable it fits every processor of this kind, not only this
/// one: for images that run elsewhere. A cache that belongs to root is used by any user,
/// as the program itself is.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis component compile                                     the built-in one, for this machine
  portcullis component compile new.wasm                            would a proxy take it over?
  portcullis component compile -portable -cache-dir /var/cache/portcullis    while an image is built")]
pub(crate) struct CompileArgs {
    /// The component; the built-in one if left out
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The cache [env: PORTCULLIS_CACHE_DIR] [default: ~/.cache/portcullis]
    #[arg(long, value_name = "DIRECTORY")]
    cache_dir: Option<PathBuf>,
    /// For every processor of this kind, without what only newer ones have
    #[arg(long)]
    portable: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
pub(crate) fn run(arguments: &ComponentArgs) -> Result<ExitCode, Failure> {
    let ComponentCommand::Compile(arguments) = &arguments.command;
    let failed = |error| Failure::from_error(&error);
    let options = ComponentOptions {
        compiler: std::env::current_exe().ok(),
        ..ComponentOptions::default()
    };
    let Some(cache) = arguments.cache_dir.clone().or(options.cache.clone()) else {
        return Err(Failure::usage(
            "there is no cache to compile into: give -cache-dir, or set PORTCULLIS_CACHE_DIR or HOME",
        ));
    };
    let options = ComponentOptions {
        cache: Some(cache.clone()),
        portable: arguments.portable,
        must_keep: true,
        ..options
    };
    let component = match &arguments.file {
        Some(file) => Component::from_file(file, &options),
        None => Component::embedded(&options),
    }
    .map_err(failed)?;
    component.try_out(&Limits::default()).map_err(failed)?;
    match arguments.output.output {
        Format::Json => output::json(&json!({
            "name": component.name(),
            "sha256": component.sha256(),
            "cache": cache,
            "portable": arguments.portable,
        }))?,
        Format::Text => output::line(&format!(
            "{} is compiled{} in {} and answers as it should\nsha256 {}",
            escape(component.name(), 500),
            if arguments.portable {
                ", portably,"
            } else {
                ""
            },
            escape(&cache.display().to_string(), 500),
            component.sha256()
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}
