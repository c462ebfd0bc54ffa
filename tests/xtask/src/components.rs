//! The WebAssembly components and the command that carries one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::report::Report;
use crate::shell;

/// What we publish.
const PUBLISHED: [&str; 2] = ["portcullis-policy", "portcullis-mesh-policy"];

/// The filter for Envoy: no component, but a core module with a profile of its own.
const FILTER: &str = "portcullis-envoy";

/// How many bytes `filter.wasm` may have.
const MAX_FILTER: u64 = 1_500_000;

/// Limits of `policy.wasm`, in bytes: as built, and compressed by gzip.
const MAX_SIZE: u64 = 2_000_000;
const MAX_COMPRESSED: u64 = 700_000;

/// Builds the published components.
pub(crate) fn build(report: &mut Report) -> Result<()> {
    let mut cargo = guest_cargo("build");
    for package in PUBLISHED {
        cargo.args(["--package", package]);
    }
    shell::step(report, "build the components", &mut cargo)?;
    filter(report).map(|_| ())
}

/// Builds `filter.wasm`, and returns its file.
pub(crate) fn filter(report: &mut Report) -> Result<PathBuf> {
    let mut cargo = filter_cargo("build");
    cargo.args(["--package", FILTER]);
    shell::step(report, "build the Envoy filter", &mut cargo)?;
    let file = portcullis_xtask::filter::place(&folder())?;
    report.note(format!("the Envoy filter is `{}`", file.display()));
    Ok(file)
}

/// Cargo for guests: their own target folder, so that a build script may build
/// them while the host is being built, and their own profile.
pub(crate) fn guest_cargo(verb: &str) -> Command {
    cargo_for(verb, "component", "wasm32-wasip2")
}

/// Cargo for the Envoy filter.
pub(crate) fn filter_cargo(verb: &str) -> Command {
    cargo_for(verb, "filter", "wasm32-wasip1")
}

fn cargo_for(verb: &str, profile: &str, target: &str) -> Command {
    let mut cargo = shell::command(
        shell::cargo(),
        &[
            verb,
            "--profile",
            profile,
            "--target",
            target,
            "--target-dir",
        ],
    );
    cargo.arg(folder()).env_remove("RUSTFLAGS");
    cargo
}

/// Builds the command; returns its file.
pub(crate) fn host(report: &mut Report) -> Result<PathBuf> {
    let mut cargo = shell::command(
        shell::cargo(),
        &[
            "build",
            "--release",
            "--package",
            "portcullis",
            "--bin",
            "portcullis",
        ],
    );
    shell::step(report, "build the command", &mut cargo)?;
    Ok(shell::target().join("release/portcullis"))
}

/// Notes the sizes, and fails where `policy.wasm` or `filter.wasm` is too large.
pub(crate) fn sizes(report: &mut Report) -> Result<()> {
    let mut too_large = None;
    for package in PUBLISHED {
        let file = folder()
            .join("wasm32-wasip2/component")
            .join(format!("{}.wasm", package.replace('-', "_")));
        let size = fs::metadata(&file)
            .with_context(|| format!("cannot read `{}`", file.display()))?
            .len();
        let compressed = gzip(&file)?;
        report.note(format!(
            "{package}: {size} bytes, {compressed} compressed by gzip"
        ));
        if package == "portcullis-policy" && (size > MAX_SIZE || compressed > MAX_COMPRESSED) {
            too_large = Some(format!(
                "{package} may have {MAX_SIZE} bytes, {MAX_COMPRESSED} compressed"
            ));
        }
    }
    let filter = folder().join("filter.wasm");
    let size = fs::metadata(&filter)
        .with_context(|| format!("cannot read `{}`", filter.display()))?
        .len();
    report.note(format!("{FILTER}: {size} bytes"));
    if size > MAX_FILTER {
        too_large = Some(format!("{FILTER} may have {MAX_FILTER} bytes"));
    }
    too_large.map_or(Ok(()), |text| bail!(text))
}

fn folder() -> PathBuf {
    shell::root().join("target/guest")
}

fn gzip(file: &Path) -> Result<u64> {
    let output = Command::new("gzip")
        .args(["--best", "--stdout"])
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .context("cannot run `gzip`")?;
    u64::try_from(output.stdout.len()).context("a size fits 64 bits")
}
