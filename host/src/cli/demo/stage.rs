//! Where the demo plays: a directory for logs, and the five processes.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::children::{Children, Process, end_all};
use crate::cli::failure::Failure;

/// The directory and the processes; [`Stage::end`] takes them down in order.
pub(crate) struct Stage {
    directory: PathBuf,
    children: Children,
    agent: Option<String>,
    component: Vec<String>,
    /// Started first to last; ended last to first.
    running: Vec<Process>,
}

/// A line of a process' output that says it is ready, and the process' place.
pub(crate) struct Ready {
    /// What it printed.
    pub(crate) said: Value,
    place: usize,
}

impl Ready {
    /// The address under `name`, which may be a JSON pointer.
    ///
    /// Fails when it is not there.
    pub(crate) fn address(&self, pointer: &str) -> Result<SocketAddr, Failure> {
        self.text(pointer)?.parse().map_err(|_| {
            Failure::runtime(format_args!("`{pointer}` in {} is no address", self.said))
        })
    }

    /// The text under a JSON pointer.
    ///
    /// Fails when it is not there.
    pub(crate) fn text(&self, pointer: &str) -> Result<&str, Failure> {
        self.said
            .pointer(pointer)
            .and_then(Value::as_str)
            .ok_or_else(|| Failure::runtime(format_args!("no `{pointer}` in {}", self.said)))
    }
}

impl Stage {
    /// An empty stage.
    ///
    /// Fails when the directory for the logs cannot be made.
    pub(crate) fn new() -> Result<Self, Failure> {
        let name = format!("portcullis-demo-{:08x}", rand::random::<u32>());
        let directory = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|error| {
                Failure::while_doing(
                    format_args!("cannot make the directory `{}`", directory.display()),
                    &error,
                )
            })?;
        Ok(Self {
            children: Children::new(&directory)?,
            directory,
            agent: None,
            component: Vec::new(),
            running: Vec::new(),
        })
    }

    /// Everything that decides uses this component from now on.
    pub(crate) fn use_component(&mut self, file: &Path) {
        self.component = vec!["--component".to_owned(), file.display().to_string()];
    }

    /// Everything that asks an agent asks this one from now on.
    pub(crate) fn use_agent(&mut self, address: &str) {
        self.agent = Some(address.to_owned());
    }

    /// Where the logs are.
    pub(crate) fn logs(&self) -> &Path {
        &self.directory
    }

    fn complete(&self, arguments: &[&str], decides: bool) -> Vec<String> {
        let mut all: Vec<String> = arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect();
        if let Some(agent) = &self.agent {
            all.extend(["--http-addr".to_owned(), agent.clone()]);
        }
        if decides {
            all.extend(self.component.iter().cloned());
        }
        all
    }

    /// Starts `portcullis ARGUMENTS` and waits for the line of JSON that it
    /// prints when it is ready.
    ///
    /// Fails when it ends before, or does not get ready in time.
    pub(crate) async fn start(
        &mut self,
        name: &'static str,
        arguments: &[&str],
        role: Role,
    ) -> Result<Ready, Failure> {
        let arguments = match role {
            Role::Bystander => arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            Role::Proxy => {
                let ours = ["--log-json", "--output", "json", "--drain-timeout", "1s"];
                self.complete(&[arguments, &ours].concat(), true)
            }
        };
        let process = self.children.start(name, &arguments)?;
        let ready = process.printed.find(0, |line| Some(line.clone())).await;
        let ready = match ready {
            Some(said) => Ok(Ready {
                said,
                place: self.running.len(),
            }),
            None => Err(process.failed("did not start").await),
        };
        self.running.push(process);
        ready
    }

    /// The log of a process that got ready.
    pub(crate) fn process(&self, ready: &Ready) -> Result<&Process, Failure> {
        self.running
            .get(ready.place)
            .ok_or_else(|| Failure::runtime("a process of the demo is gone"))
    }

    /// Runs `portcullis ARGUMENTS` against the agent to its end; exit status
    /// and output.
    ///
    /// Fails when it fails.
    pub(crate) async fn command(
        &self,
        arguments: &[&str],
        decides: bool,
    ) -> Result<(i32, String), Failure> {
        self.children
            .output(&self.complete(arguments, decides))
            .await
    }

    /// Ends all processes, and removes the logs unless they are wanted.
    /// Returns the names of those that did not end well.
    pub(crate) async fn end(mut self, keep_logs: bool) -> Vec<&'static str> {
        self.running.reverse();
        let bad = end_all(std::mem::take(&mut self.running)).await;
        if !keep_logs && bad.is_empty() {
            // Nothing depends on it: it is in the temporary directory.
            let _ = std::fs::remove_dir_all(&self.directory);
        }
        bad
    }
}

/// What a process is to the demo.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Has nothing to do with the agent.
    Bystander,
    /// Asks the agent and decides.
    Proxy,
}
