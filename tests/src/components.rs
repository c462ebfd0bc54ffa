//! The WebAssembly components of this tree, built when a test first asks for one.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use crate::peers::workspace;

/// An honest policy but for one thing: whatever the decision, it allows.
#[must_use]
pub fn allow_everything() -> PathBuf {
    build("portcullis-hostile-allow-everything")
}

/// A policy that misbehaves on request.
#[must_use]
pub fn tricks() -> PathBuf {
    build("portcullis-hostile-tricks")
}

/// A `mesh-policy` that sends whatever request it is told to.
#[must_use]
pub fn lent_http() -> PathBuf {
    build("portcullis-hostile-lent-http")
}

/// `policy.wasm`.
#[must_use]
pub fn policy() -> PathBuf {
    build("portcullis-policy")
}

/// `mesh-policy.wasm`.
#[must_use]
pub fn mesh_policy() -> PathBuf {
    build("portcullis-mesh-policy")
}

/// `filter.wasm`, for Envoy: a core module.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn envoy_filter() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let _ = plain_envoy_filter();
            portcullis_xtask::filter::place(&folder()).expect("it can be trimmed")
        })
        .clone()
}

/// The filter as cargo builds it, with every callback that the crate `proxy-wasm` exports.
#[must_use]
pub fn plain_envoy_filter() -> PathBuf {
    build_for("portcullis-envoy", "filter", "wasm32-wasip1")
}

fn folder() -> PathBuf {
    workspace().join("target/guest")
}

fn build(package: &str) -> PathBuf {
    build_for(package, "component", "wasm32-wasip2")
}

/// Cargo finds what is unchanged within a second.
fn build_for(package: &str, profile: &str, target: &str) -> PathBuf {
    // One at a time, so that the tests of one program do not wait for each other inside of cargo.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock();
    let folder = folder();
    let status = Command::new(env!("CARGO"))
        .current_dir(workspace())
        .args(["build", "--quiet"])
        .arg(format!("--profile={profile}"))
        .arg(format!("--target={target}"))
        .arg(format!("--package={package}"))
        .arg("--target-dir")
        .arg(&folder)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "{package} does not build");
    folder
        .join(target)
        .join(profile)
        .join(format!("{}.wasm", package.replace('-', "_")))
}
