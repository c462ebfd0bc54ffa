//! Builds the policy component that the library carries.
//!
//! Cargo calls cargo here: with a target directory of its own (the outer one is
//! locked) and without the outer build's settings, which are meant for another
//! target. `PORTCULLIS_POLICY_WASM=/path` takes a component that exists already.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use sha2::{Digest as _, Sha256};

const TARGET: &str = "wasm32-wasip2";
const OVERRIDE: &str = "PORTCULLIS_POLICY_WASM";

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    match component().and_then(|path| Ok((sha256(&path)?, path))) {
        Ok((sha256, path)) => {
            println!("cargo::rerun-if-changed={}", path.display());
            println!(
                "cargo::rustc-env=PORTCULLIS_POLICY_COMPONENT={}",
                path.display()
            );
            println!("cargo::rustc-env=PORTCULLIS_POLICY_SHA256={sha256}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            println!("cargo::error={problem}");
            ExitCode::FAILURE
        }
    }
}

/// Found out here, so that a program need not read the whole component at its start.
fn sha256(path: &Path) -> Result<String, String> {
    let wasm = std::fs::read(path)
        .map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    Ok(Sha256::digest(&wasm)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn component() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(OVERRIDE).filter(|path| !path.is_empty()) {
        return std::path::absolute(&path)
            .ok()
            .filter(|path| path.is_file())
            .ok_or_else(|| format!("{OVERRIDE} names `{}`, which is not a file", path.display()));
    }
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .ok_or("CARGO_MANIFEST_DIR is not set: run this through cargo")?;
    let workspace = Path::new(&manifest)
        .parent()
        .ok_or("the host crate has no parent folder")?;
    for source in [
        "guest/core/src",
        "guest/core/Cargo.toml",
        "guest/policy",
        "wit",
        "Cargo.toml",
        "Cargo.lock",
        "rust-toolchain.toml",
    ] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(source).display()
        );
    }
    installed()?;
    build(workspace)
}

/// Says what to do while it is still easy to say.
fn installed() -> Result<(), String> {
    let answer = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|error| format!("cannot run rustc: {error}"))?;
    let folder = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim());
    if answer.status.success() && folder.is_dir() {
        return Ok(());
    }
    Err(format!(
        "the policy is a WebAssembly component, and the Rust target for it is missing: run `rustup target add {TARGET}` (or set {OVERRIDE} to a component that exists)"
    ))
}

fn build(workspace: &Path) -> Result<PathBuf, String> {
    let target = workspace.join("target/guest");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(belongs_to_the_outer_build) {
            cargo.env_remove(name);
        }
    }
    cargo
        .current_dir(workspace)
        .args([
            "build",
            "--locked",
            "--profile",
            "component",
            "--target",
            TARGET,
            "--package",
            "portcullis-policy",
        ])
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_BUILD_BUILD_DIR", &target);
    let done = cargo
        .output()
        .map_err(|error| format!("cannot run cargo for the policy component: {error}"))?;
    if !done.status.success() {
        let shown = String::from_utf8_lossy(&done.stderr);
        for line in shown.lines() {
            println!("cargo::warning={line}");
        }
        return Err("the policy component does not build; the lines above say why".to_owned());
    }
    let path = target
        .join(TARGET)
        .join("component")
        .join("portcullis_policy.wasm");
    path.is_file()
        .then_some(path)
        .ok_or_else(|| "cargo built no portcullis_policy.wasm".to_owned())
}

/// Flags, wrappers and the job server of the outer build do not fit the inner one.
fn belongs_to_the_outer_build(name: &str) -> bool {
    const EXACT: &[&str] = &[
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_MAKEFLAGS",
        "MAKEFLAGS",
        "MFLAGS",
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTC_LINKER",
        "TARGET",
        "HOST",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "NUM_JOBS",
        "OUT_DIR",
        "CLIPPY_ARGS",
        "CLIPPY_CONF_DIR",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_MANIFEST_LINKS",
        "CARGO_PRIMARY_PACKAGE",
        "__CARGO_DEFAULT_LIB_METADATA",
        "CARGO_INCREMENTAL",
    ];
    const PREFIX: &[&str] = &[
        "CARGO_TARGET_",
        "CARGO_PROFILE_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_PKG_",
        "DEP_",
    ];
    EXACT.contains(&name) || PREFIX.iter().any(|prefix| name.starts_with(prefix))
}
