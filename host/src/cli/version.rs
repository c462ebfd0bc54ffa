//! `portcullis version`: what this program is made of.

use std::process::ExitCode;

use portcullis::runtime::Component;
use serde::Serialize;

use super::decider::ComponentArgs;
use super::failure::Failure;
use super::output::{self, Format, OutputArgs};
use portcullis::escape::escape;

/// The WIT package that components implement.
const WIT: &str = "portcullis:mesh@0.1.0";

/// The engine, pinned in `Cargo.toml`; a test compares them.
const WASMTIME: &str = "48.0.8";

/// Show the version, and which policy component is built in
///
/// The sha256 is that of the component's bytes: compare it with the one that
/// another host or a release shows, to know that both decide alike.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis version
  portcullis version -output json | jq -r .component.sha256
  portcullis version -component my-policy.wasm    check that a component can be used here")]
pub(crate) struct VersionArgs {
    #[command(flatten)]
    component: ComponentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Version {
    portcullis: &'static str,
    wit: &'static str,
    wasmtime: &'static str,
    component: About,
}

/// A component.
#[derive(Serialize)]
struct About {
    /// Its path, or that it is the built-in one.
    name: String,
    sha256: String,
    /// In bytes.
    size: usize,
    imports: Vec<String>,
}

impl From<&Component> for About {
    fn from(component: &Component) -> Self {
        Self {
            name: component.name().to_owned(),
            sha256: component.sha256(),
            size: component.size(),
            imports: component.imports().to_vec(),
        }
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &VersionArgs) -> Result<ExitCode, Failure> {
    let version = Version {
        portcullis: env!("CARGO_PKG_VERSION"),
        wit: WIT,
        wasmtime: WASMTIME,
        component: About::from(&arguments.component.component()?),
    };
    match arguments.output.output {
        Format::Json => output::json(&version)?,
        Format::Text => {
            let component = &version.component;
            let rows = [
                ["portcullis".to_owned(), version.portcullis.to_owned()],
                ["WIT package".to_owned(), version.wit.to_owned()],
                ["wasmtime".to_owned(), version.wasmtime.to_owned()],
                ["component".to_owned(), escape(&component.name, 500)],
                ["  sha256".to_owned(), component.sha256.clone()],
                ["  size".to_owned(), format!("{} bytes", component.size)],
                [
                    "  imports".to_owned(),
                    format!(
                        "{} functions, none of which reaches out",
                        component.imports.len()
                    ),
                ],
            ];
            output::line(&output::table(&rows.map(Vec::from)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_the_one_that_is_locked() {
        let lock = include_str!("../../../Cargo.lock");
        let entry = format!("name = \"wasmtime\"\nversion = \"{WASMTIME}\"\n");
        assert!(lock.contains(&entry), "{entry}");
    }
}
