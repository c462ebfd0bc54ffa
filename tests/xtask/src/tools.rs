//! What must be on the machine, and what we can put there.

use anyhow::{Result, bail};

use crate::report::Report;
use crate::shell;

const TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-wasip2"];

/// Installs missing Rust targets, and names missing programs with their remedy.
pub(crate) fn prepare(report: &mut Report) -> Result<()> {
    require(&[(
        "cc",
        "--version",
        "a C compiler, for the TLS library: `apt-get install build-essential`",
    )])?;
    let libdirs = TARGETS.map(|target| {
        let libdir = shell::output("rustc", &["--print", "target-libdir", "--target", target]);
        (
            target,
            libdir.is_some_and(|dir| std::path::Path::new(&dir).is_dir()),
        )
    });
    for (target, present) in libdirs {
        if present {
            continue;
        }
        if shell::output("rustup", &["--version"]).is_none() {
            bail!(
                "the Rust target {target} is missing and there is no rustup to install it: \
                 install Rust by rustup, or add the target's standard library by other means"
            );
        }
        shell::step(
            report,
            &format!("install Rust target {target}"),
            &mut shell::command("rustup", &["target", "add", target]),
        )?;
    }
    Ok(())
}

/// Fails with the remedies for all programs that are missing.
pub(crate) fn require(programs: &[(&str, &str, &str)]) -> Result<()> {
    let missing: Vec<String> = programs
        .iter()
        .filter(|(program, flag, _)| shell::output(program, &[flag]).is_none())
        .map(|(program, _, remedy)| format!("  `{program}`: {remedy}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("missing on this machine:\n{}", missing.join("\n"))
}
