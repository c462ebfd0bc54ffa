//! Other programs: run with their output in a log file, or on this terminal.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use crate::report::Report;

/// How much of a failed step's log is shown.
const TAIL: usize = 60;

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    // Two levels above this crate; the crate's place is fixed.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// The target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs us.
pub(crate) fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// A command in the workspace's folder.
pub(crate) fn command(program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null());
    command
}

/// Runs a step with its output in `target/xtask/<name>.log`, and returns that
/// output. A failure shows the log's end.
pub(crate) fn step(report: &mut Report, name: &str, command: &mut Command) -> Result<String> {
    let logs = target().join("xtask");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create `{}`", logs.display()))?;
    let path = logs.join(format!("{}.log", name.replace([' ', '/', ':', ','], "-")));
    let log = File::create(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
    let began = report.begin(name);
    let status = command
        .stdout(log.try_clone().context("cannot share the log")?)
        .stderr(log)
        .status()
        .with_context(|| format!("cannot run `{}`", command.get_program().display()));
    let good = status.as_ref().is_ok_and(ExitStatus::success);
    report.end(name, began, good);
    let output = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
    let status = status?;
    if !good {
        let lines: Vec<&str> = output.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
            println!("    {line}");
        }
        bail!("{name}: {status}; the whole log is in `{}`", path.display());
    }
    Ok(output)
}

/// Runs a program on this terminal.
pub(crate) fn inherit(program: &Path, fixed: &[&str], more: &[String]) -> Result<ExitStatus> {
    Command::new(program)
        .args(fixed)
        .args(more)
        .current_dir(root())
        .status()
        .with_context(|| format!("cannot run `{}`", program.display()))
}

/// What a program prints, if it runs well.
pub(crate) fn output(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let output = command(program, arguments)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
