//! The command `portcullis` as a user runs it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The file of the command: `PORTCULLIS_BIN`, or else what cargo builds from
/// this checkout, once per test program.
///
/// # Panics
/// When it cannot be built.
pub fn path() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = std::env::var_os("PORTCULLIS_BIN") {
        return path.into();
    }
    BUILT
        .get_or_init(|| {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let built = Command::new(cargo)
                .args([
                    "build",
                    "--quiet",
                    "--release",
                    "--package",
                    "portcullis",
                    "--bin",
                    "portcullis",
                ])
                .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
                .status()
                .expect("cargo starts");
            assert!(built.success(), "the command cannot be built");
            let here = std::env::current_exe().expect("a test program has a file");
            let release = here
                .ancestors()
                .nth(2)
                .expect("it is in target/release/deps");
            release.join("portcullis")
        })
        .clone()
}

/// `portcullis ARGUMENTS` without the variables that would change what it does.
pub fn portcullis<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(path());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CONSUL_")
            || text.starts_with("CONNECT_")
            || text == "RUST_LOG"
            || text == "LOG_FORMAT"
        {
            command.env_remove(&name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What a command that ended has said.
#[derive(Debug)]
pub struct Said {
    /// Exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("standard output is text"),
            err: String::from_utf8(output.stderr).expect("standard error is text"),
        }
    }
}

/// Runs `command` to its end.
///
/// # Panics
/// When it cannot be started, or prints something that is not UTF-8.
pub fn run(command: &mut Command) -> Said {
    command.output().expect("the command starts").into()
}
