//! Builds the component, once per process; cargo finds it unchanged within a second.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use portcullis_tests::peers::workspace;

/// `mesh-policy.wasm` of this tree.
pub(crate) fn built() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build).clone()
}

fn build() -> PathBuf {
    let folder = workspace().join("target/guest");
    let status = Command::new(env!("CARGO"))
        .current_dir(workspace())
        .args([
            "build",
            "--quiet",
            "--profile=component",
            "--target=wasm32-wasip2",
        ])
        .arg("--package=portcullis-mesh-policy")
        .arg("--target-dir")
        .arg(&folder)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "mesh-policy does not build");
    folder.join("wasm32-wasip2/component/portcullis_mesh_policy.wasm")
}
