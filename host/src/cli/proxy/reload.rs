//! Reading token, CA files and component again: on SIGHUP, and when the files change.

use std::time::Duration;

use portcullis::agent_client::AgentClient;
use portcullis::decisions::Decisions;
use portcullis::reload::{ComponentFile, ReloadConfig, Reloader};
use portcullis::runtime::Policy;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::decider::ComponentArgs;
use crate::cli::failure::Failure;
use crate::cli::systemd::Manager;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// SIGHUP, which no longer ends the process once this exists.
pub(crate) struct Hangup(Signal);

impl Hangup {
    /// Starts to listen.
    ///
    /// Fails when the handler cannot be installed.
    pub(crate) fn listen() -> Result<Self, Failure> {
        signal(SignalKind::hangup())
            .map(Self)
            .map_err(|error| Failure::while_doing("cannot listen for SIGHUP", &error))
    }
}

/// What this command reads again.
pub(crate) fn reloader(
    component: &ComponentArgs,
    agent: AgentClient,
    policy: Policy,
    decisions: &Decisions,
) -> Reloader {
    Reloader::new(ReloadConfig {
        agent,
        policy,
        shadow: decisions.shadow.clone(),
        component: component.file().map(|path| ComponentFile {
            path: path.to_owned(),
            options: component.options(),
        }),
    })
}

/// Reads again, for ever.
pub(crate) async fn keep_current(
    reloader: &Reloader,
    decisions: &Decisions,
    hangup: &mut Hangup,
    manager: &Manager,
) {
    let on_request = async {
        while hangup.0.recv().await.is_some() {
            tracing::info!(signal = "SIGHUP", "reading again");
            manager.reloading();
            if let Some(log) = &decisions.log {
                log.reopen();
            }
            if reloader.reload().await.is_empty() && decisions.log.is_none() {
                tracing::info!("nothing comes from a file: there is nothing to read again");
            }
            manager.ready();
        }
    };
    let shadow = async {
        if let Some(shadow) = &decisions.shadow {
            shadow.keep().await;
        }
    };
    tokio::join!(reloader.watch(LOOK), on_request, shadow);
}
