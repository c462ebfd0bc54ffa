//! What is read again while a program runs: the token, the files for TLS to the agent,
//! and the policy component.
//!
//! Everything is read and tried before it takes the place of what is in use; whatever
//! is wrong with it leaves that in use, and is logged as an error that says why.

mod files;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::agent_client::AgentClient;
use crate::runtime::{Component, ComponentOptions, Policy};
use crate::shadow::Shadow;
use files::Stamp;
pub(crate) use files::digest;

/// What to read again.
#[derive(Clone, Debug)]
pub struct ReloadConfig {
    /// Its token file and its files for TLS.
    pub agent: AgentClient,
    /// Whose component is replaced.
    pub policy: Policy,
    /// Where the component comes from; absent for one that is no file.
    pub component: Option<ComponentFile>,
    /// The candidate in the shadow.
    pub shadow: Option<Shadow>,
}

/// A component that lies in a file.
#[derive(Clone, Debug)]
pub struct ComponentFile {
    /// The file.
    pub path: PathBuf,
    /// Where and how it is compiled.
    pub options: ComponentOptions,
}

/// Something that is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reloadable {
    /// The ACL token.
    Token,
    /// CA, client certificate and key for TLS with the agent.
    Tls,
    /// The policy component.
    Component,
    /// The candidate in the shadow.
    Shadow,
}

impl Reloadable {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "the token file",
            Self::Tls => "the files for TLS with the agent",
            Self::Component => "the policy component",
            Self::Shadow => "the candidate in the shadow",
        }
    }
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is what is in use already.
    Unchanged,
    /// It is in use now.
    Replaced,
    /// It is of no use, and why; what was in use still is.
    Kept(String),
}

/// Reads again what it is told to. Clones share it.
#[derive(Clone, Debug)]
pub struct Reloader(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: ReloadConfig,
    /// One at a time.
    parts: Mutex<Vec<Part>>,
}

#[derive(Debug)]
struct Part {
    what: Reloadable,
    files: Vec<PathBuf>,
    /// As it was looked at last, and as it was tried.
    seen: Option<Stamp>,
    tried: Option<Stamp>,
    /// The content that was tried last; an error for what could not be read.
    content: Option<Result<[u8; 32], String>>,
}

impl Reloader {
    /// For what `config` names. Nothing is read yet.
    #[must_use]
    pub fn new(config: ReloadConfig) -> Self {
        let component = config.component.as_ref().map(|file| file.path.clone());
        let parts = [
            (
                Reloadable::Token,
                config
                    .agent
                    .token_file()
                    .map(ToOwned::to_owned)
                    .into_iter()
                    .collect(),
            ),
            (Reloadable::Tls, config.agent.tls_files()),
            (Reloadable::Component, component.into_iter().collect()),
            (
                Reloadable::Shadow,
                config
                    .shadow
                    .iter()
                    .flat_map(|shadow| shadow.files().to_vec())
                    .collect(),
            ),
        ];
        let parts = parts
            .into_iter()
            .filter(|(_, files): &(_, Vec<PathBuf>)| !files.is_empty())
            .map(|(what, files)| Part {
                what,
                files,
                seen: None,
                tried: None,
                content: None,
            })
            .collect();
        Self(Arc::new(Inner {
            config,
            parts: Mutex::new(parts),
        }))
    }

    /// Reads everything again, now. What became of each, for what comes from files.
    pub async fn reload(&self) -> Vec<(Reloadable, Outcome)> {
        let mut parts = self.0.parts.lock().await;
        let mut outcomes = Vec::new();
        for part in parts.iter_mut() {
            part.seen = Some(stamp(&part.files).await);
            part.tried.clone_from(&part.seen);
            part.content = Some(content(&part.files).await);
            let outcome = self.replace(part.what).await;
            tell(part.what, &outcome);
            outcomes.push((part.what, outcome));
        }
        outcomes
    }

    /// Looks at the files every so often, for ever, and reads again what has changed.
    ///
    /// A change counts once a file looks the same twice, so that nobody reads what is
    /// half written. What was of no use is tried again when it changes again.
    pub async fn watch(&self, every: Duration) {
        if self.0.parts.lock().await.is_empty() {
            return std::future::pending().await;
        }
        let mut timer = tokio::time::interval(every);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let mut parts = self.0.parts.lock().await;
            for part in parts.iter_mut() {
                self.look(part).await;
            }
        }
    }

    async fn look(&self, part: &mut Part) {
        let now = stamp(&part.files).await;
        if part.tried.as_ref() == Some(&now) {
            part.seen = Some(now);
            return;
        }
        if part.seen.as_ref() != Some(&now) {
            part.seen = Some(now);
            return;
        }
        part.tried = Some(now);
        let content = Some(content(&part.files).await);
        if part.content == content {
            return;
        }
        // Before the first look it may have changed since the program read it: that is
        // found out by reading it again, and said only if it did.
        let first = part.content.is_none();
        part.content = content;
        let outcome = self.replace(part.what).await;
        let news = match outcome {
            Outcome::Unchanged => false,
            Outcome::Replaced | Outcome::Kept(_) => true,
        };
        if !first || news {
            tell(part.what, &outcome);
        }
    }

    async fn replace(&self, what: Reloadable) -> Outcome {
        let agent = &self.0.config.agent;
        let replaced = match what {
            Reloadable::Token => agent.reload_token().map_err(|error| error.to_string()),
            Reloadable::Tls => agent.reload_tls().map_err(|error| error.to_string()),
            Reloadable::Component => self.replace_component().await,
            Reloadable::Shadow => self.replace_shadow().await,
        };
        match replaced {
            Ok(true) => Outcome::Replaced,
            Ok(false) => Outcome::Unchanged,
            Err(why) => Outcome::Kept(why),
        }
    }

    async fn replace_shadow(&self) -> Result<bool, String> {
        let Some(shadow) = self.0.config.shadow.clone() else {
            return Ok(false);
        };
        let read = tokio::task::spawn_blocking(move || shadow.read()).await;
        match read {
            Ok(Ok(())) => Ok(true),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("reading it broke off".to_owned()),
        }
    }

    async fn replace_component(&self) -> Result<bool, String> {
        let Some(file) = self.0.config.component.clone() else {
            return Ok(false);
        };
        let policy = self.0.config.policy.clone();
        let replace = move || {
            let before = policy.component();
            // Compiling it only to find that out may take seconds.
            if before
                .as_ref()
                .is_some_and(|before| before.is_in(&file.path))
            {
                return Ok(false);
            }
            let component = Component::from_file(&file.path, &file.options)
                .map_err(|error| error.to_string())?;
            let before = before.map(|component| component.sha256());
            policy
                .replace(&component)
                .map_err(|error| error.to_string())?;
            tracing::info!(
                before,
                component = component.sha256(),
                generation = policy.generation(),
                "another policy component decides"
            );
            Ok(true)
        };
        tokio::task::spawn_blocking(replace)
            .await
            .unwrap_or_else(|_| Err("replacing it broke off".to_owned()))
    }
}

fn tell(what: Reloadable, outcome: &Outcome) {
    let what = what.name();
    match outcome {
        Outcome::Unchanged => tracing::debug!(what, "read again: unchanged"),
        Outcome::Replaced => tracing::info!(what, "read again, and in use"),
        Outcome::Kept(error) => {
            tracing::error!(
                what,
                error,
                "read again, and of no use: the last good one stays"
            );
        }
    }
}

async fn stamp(files: &[PathBuf]) -> Stamp {
    let files = files.to_vec();
    // A panic there is a defect; it then looks like a change.
    tokio::task::spawn_blocking(move || Stamp::of(&files))
        .await
        .unwrap_or_else(|_| Stamp::of(&[]))
}

async fn content(files: &[PathBuf]) -> Result<[u8; 32], String> {
    let files = files.to_vec();
    tokio::task::spawn_blocking(move || digest(&files).map_err(|error| error.to_string()))
        .await
        .unwrap_or_else(|_| Err("reading broke off".to_owned()))
}
