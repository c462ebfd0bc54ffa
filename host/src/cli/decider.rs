//! The policy component that a command lets decide.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use portcullis::runtime::{self, Component, ComponentOptions, Policy, PolicyOptions};

use super::failure::Failure;

/// Which component decides
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ComponentArgs {
    /// Policy component to use instead of the built-in one
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
}

impl ComponentArgs {
    /// The component, compiled. The first time takes some seconds, in a process of its own.
    ///
    /// Fails when the file cannot be read, or is no policy of our version.
    pub(crate) fn component(&self) -> Result<Component, Failure> {
        let options = self.options();
        let loaded = match &self.component {
            Some(file) => Component::from_file(file, &options),
            None => Component::embedded(&options),
        };
        loaded.map_err(|error| Failure::from_error(&error))
    }

    /// The component's file, where it is not the built-in one.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.component.as_deref()
    }

    /// How components are compiled: by a process of their own.
    pub(crate) fn options(&self) -> ComponentOptions {
        ComponentOptions {
            compiler: std::env::current_exe().ok(),
            ..ComponentOptions::default()
        }
    }

    /// A policy without documents, for a few questions.
    ///
    /// Fails as [`ComponentArgs::component`], and when it cannot be instantiated.
    pub(crate) fn policy(&self) -> Result<Policy, Failure> {
        policy(&self.component()?)
    }
}

/// Instances of `component`.
///
/// Fails when it cannot be instantiated.
pub(crate) fn policy(component: &Component) -> Result<Policy, Failure> {
    Policy::new(component, PolicyOptions::default()).map_err(|error| Failure::from_error(&error))
}

/// `portcullis __compile`: the child that compiles for another process.
pub(crate) fn compile() -> Result<ExitCode, Failure> {
    runtime::compile_stdin_to_stdout().map_err(Failure::runtime)?;
    Ok(ExitCode::SUCCESS)
}
