//! Real peers: where they are, and what a test does without one.

use std::io::Write;
use std::path::PathBuf;

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Names another `consul` program than the one in `target/peers`: an older line, say.
pub const OTHER_CONSUL: &str = "PORTCULLIS_TEST_CONSUL";

/// The file of a peer below `target/peers`, for example `consul`; that one may be
/// another by [`OTHER_CONSUL`].
///
/// Returns `None` where peers are left out on purpose (`PORTCULLIS_NO_PEERS`):
/// the test then says so loudly, is counted as skipped, and must return.
///
/// # Panics
/// If the peer is missing and nobody asked to leave it out: a missing peer is
/// a failure, with its remedy.
pub fn require(test: &str, peer: &str) -> Option<PathBuf> {
    if std::env::var_os("PORTCULLIS_NO_PEERS").is_some_and(|value| !value.is_empty()) {
        skipped(test, peer);
        return None;
    }
    if let Some(other) = std::env::var_os(OTHER_CONSUL).filter(|_| peer == "consul") {
        // Tests run in their package's folder; a relative path is meant from the workspace.
        let path = workspace().join(other);
        assert!(
            path.is_file(),
            "`{}`, which {OTHER_CONSUL} names, is not there",
            path.display()
        );
        return Some(path);
    }
    let path = workspace().join("target/peers").join(peer);
    assert!(
        path.exists(),
        "`target/peers/{peer}` is missing: run `cargo xtask peers`, or set PORTCULLIS_NO_PEERS=1 to leave it out"
    );
    Some(path)
}

/// Tells the person in front and `cargo xtask test` that a test did not run.
pub fn skipped(test: &str, peer: &str) {
    eprintln!("SKIPPED: {test} needs {peer}");
    let Some(list) = std::env::var_os("PORTCULLIS_SKIPPED") else {
        return;
    };
    let mut list = std::fs::File::options()
        .append(true)
        .create(true)
        .open(list)
        .expect("the list of skipped tests can be written");
    writeln!(list, "{test} (needs {peer})").expect("the list of skipped tests can be written");
}
