//! `portcullis envoy`: Envoy's configuration.

mod bootstrap;
mod lint;
#[cfg(feature = "envoy")]
pub(crate) mod serving;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use portcullis::proxy::ListenAddress;

use super::failure::Failure;
use super::proxy::operate;

/// Write or check a configuration of Envoy
///
/// `bootstrap` writes a whole one for a service; `lint` finds what makes the policy in one
/// useless or open.
#[derive(Debug, clap::Args)]
pub(crate) struct EnvoyArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Bootstrap(Box<bootstrap::BootstrapArgs>),
    Lint(lint::LintArgs),
}

/// Runs the command.
pub(crate) async fn run(arguments: &EnvoyArgs) -> Result<ExitCode, Failure> {
    match &arguments.action {
        Action::Bootstrap(arguments) => bootstrap::run(arguments).await,
        Action::Lint(arguments) => lint::run(arguments),
    }
}

/// `unix:path`, for clap.
pub(crate) fn socket(text: &str) -> Result<PathBuf, String> {
    match operate::parse(text) {
        Ok(ListenAddress::Unix(path)) => Ok(path),
        Ok(ListenAddress::Tcp(_)) => Err(
            "private keys go over it, so it must be a socket like `unix:/run/portcullis/db.sock`"
                .to_owned(),
        ),
        Err(_) => Err("write it like `unix:/run/portcullis/db.sock`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_over_unix_sockets_only() {
        assert_eq!(socket("unix:/run/a"), Ok(PathBuf::from("/run/a")));
        for text in ["8080", "127.0.0.1:1", ":1", "unix:", "/run/a", ""] {
            assert!(socket(text).is_err(), "{text}");
        }
    }
}
