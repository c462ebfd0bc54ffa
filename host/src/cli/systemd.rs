//! What the service manager is told: systemd's `sd_notify`, and its watchdog.

use std::time::Duration;

use portcullis::admin::Subject;
use portcullis::member::Member;
use portcullis::proxy::Proxy;
use portcullis_core::intention::Reason;
use portcullis_core::policy::Client;
use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

/// How often the status is looked at where there is no watchdog.
const LOOK: Duration = Duration::from_secs(5);

/// The service manager that started this process; without one nothing is told.
pub(crate) struct Manager {
    /// Within which time it wants to hear that we work.
    watchdog: Option<Duration>,
    /// Whether it listens at all.
    listens: bool,
}

impl Manager {
    /// The one that the environment names.
    pub(crate) fn from_env() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled().filter(|within| !within.is_zero()),
            listens: std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty()),
        }
    }

    /// We do what we are for.
    pub(crate) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// Configuration is read again; [`Manager::ready`] ends it.
    pub(crate) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
        }
    }

    /// We end, on request.
    pub(crate) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// Says how many connections are still waited for; for ever.
    pub(crate) async fn see_out(&self, proxy: &Proxy) {
        if !self.listens {
            return std::future::pending().await;
        }
        let mut beat = self.beat();
        loop {
            beat.tick().await;
            let status = format!("stopping: {} connections may finish", proxy.stats().active);
            tell(&[NotifyState::Status(&status)]);
            self.feed(proxy.member(), proxy.is_accepting()).await;
        }
    }

    /// Says when `subject` is ready and how it does, and feeds the watchdog while it
    /// really works; for ever.
    pub(crate) async fn tend(&self, subject: &Subject, is_accepting: impl Fn() -> bool) {
        if !self.listens {
            return std::future::pending().await;
        }
        let mut beat = self.beat();
        let (mut ready, mut told) = (false, String::new());
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                () = subject.ready(), if !ready => {
                    ready = true;
                    self.ready();
                }
            }
            let status = status(subject);
            if status != told {
                tell(&[NotifyState::Status(&status)]);
                told = status;
            }
            self.feed(subject.member(), is_accepting()).await;
        }
    }

    fn beat(&self) -> Interval {
        let third = self.watchdog.map_or(LOOK, |within| within / 3);
        let mut beat = interval(third.min(LOOK));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat
    }

    async fn feed(&self, member: &Member, is_accepting: bool) {
        let Some(within) = self.watchdog else {
            return;
        };
        match works(member, is_accepting, within / 3).await {
            Ok(()) => tell(&[NotifyState::Watchdog]),
            Err(why) => tracing::error!(why, "the watchdog is not told that all is well"),
        }
    }
}

/// Whether connections would be taken and decided, whatever the agent does.
async fn works(member: &Member, is_accepting: bool, within: Duration) -> Result<(), &'static str> {
    if !is_accepting {
        return Err("a listener takes no connections any more");
    }
    let member = member.clone();
    // Nobody is denied for having no identity: that is an answer, too.
    let ask = tokio::task::spawn_blocking(move || {
        let verifier = member.tls().verifier();
        let nobody = Client {
            uris: Vec::new(),
            via_gateway: None,
        };
        verifier
            .policy()
            .authorize(member.service(), &nobody, None, verifier.clock().now())
    });
    match timeout(within, ask).await {
        Ok(Ok(decision)) if decision.code != Reason::PolicyFailed => Ok(()),
        Ok(_) => Err("the policy fails"),
        Err(_) => Err("the policy does not answer"),
    }
}

/// One line for `systemctl status`.
fn status(subject: &Subject) -> String {
    let missing = subject.missing();
    if !missing.is_empty() {
        let missing: Vec<_> = missing.into_iter().map(|lack| lack.text).collect();
        return format!("not ready: {}", missing.join("; "));
    }
    let generation = subject.member().watcher().config().policy.generation();
    match subject {
        Subject::Proxy(proxy) => {
            let active = proxy.stats().active;
            format!("ready: {active} connections open, policy generation {generation}")
        }
        #[cfg(feature = "envoy")]
        Subject::Server(_) => format!("ready: Envoy is answered, policy generation {generation}"),
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager does not listen");
    }
}
