//! `portcullis man`: the manual pages, from the same texts as `--help`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use super::failure::Failure;
use super::output;
use portcullis::escape::escape;

/// Write the manual pages: portcullis.1 and one for each command
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  portcullis man /usr/local/share/man/man1 && man portcullis-proxy")]
pub(crate) struct ManArgs {
    /// The folder, which is made where it is missing
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Runs the command.
pub(crate) fn run(arguments: &ManArgs, command: clap::Command) -> Result<ExitCode, Failure> {
    let shown = escape(&arguments.directory.display().to_string(), 500);
    let failed = |error: std::io::Error| {
        Failure::while_doing(
            format_args!("cannot write manual pages to `{shown}`"),
            &error,
        )
    };
    fs::create_dir_all(&arguments.directory).map_err(failed)?;
    clap_mangen::generate_to(command, &arguments.directory).map_err(failed)?;
    output::line(&format!(
        "the manual pages are in {shown}; `man portcullis` is the first"
    ))?;
    Ok(ExitCode::SUCCESS)
}
