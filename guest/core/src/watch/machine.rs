//! One watch: Consul's blocking queries as a state machine.
use super::backoff::Backoff;
use super::digest::Digest;
use super::rate::Rate;
use super::seeded::Seeded;
use crate::agent::{After, Consistency, HttpReply, Query};

/// How a watch asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One query is always under way; the agent answers when something changes.
    Blocking {
        /// How long the agent may take.
        wait_ms: u64,
    },
    /// For callers who cannot leave a query open: short waits, several times a minute.
    ShortPoll {
        /// How long the agent may take.
        wait_ms: u64,
        /// From an answer to the next question, with a tenth of jitter.
        every_ms: u64,
    },
}

/// What the agent's answers are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// `X-Consul-Index`.
    Index,
    /// `X-Consul-ContentHash` (`agent/service`).
    Hash,
}

/// Settings of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How to ask.
    pub mode: Mode,
    /// What answers are compared by.
    pub key: Key,
    /// Wait after a first failure; doubles.
    pub backoff_first_ms: u64,
    /// Longest wait after failures.
    pub backoff_max_ms: u64,
    /// How many answers in a row may change nothing before the limit holds.
    pub unchanged_burst: u32,
    /// Then one question in this time.
    pub unchanged_every_ms: u64,
    /// Least time between questions when every answer brings a change.
    pub changed_gap_ms: u64,
    /// From an answer that cannot be blocked on (no index) to the next question.
    pub unblocked_every_ms: u64,
    /// Spreads those who start together.
    pub seed: u64,
}

impl Default for Settings {
    /// Blocking, five minutes, by index.
    fn default() -> Self {
        Self {
            mode: Mode::Blocking {
                wait_ms: crate::agent::request::DEFAULT_WAIT_MS,
            },
            key: Key::Index,
            backoff_first_ms: 250,
            backoff_max_ms: 30_000,
            unchanged_burst: 4,
            unchanged_every_ms: 1_000,
            changed_gap_ms: 50,
            unblocked_every_ms: 10_000,
            seed: 0,
        }
    }
}

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchRequest {
    /// Where to go on.
    pub after: After,
    /// How long the agent may take.
    pub wait_ms: u64,
    /// An older state was seen: ask the leader with confirmation by a quorum.
    pub reread: bool,
}

impl WatchRequest {
    /// As query parameters.
    #[must_use]
    pub fn query(&self) -> Query {
        let consistency = if self.reread {
            Consistency::Consistent
        } else {
            Consistency::default()
        };
        Query {
            after: self.after.clone(),
            wait_ms: self.wait_ms,
            consistency,
            ..Query::default()
        }
    }
}

/// Where an answer stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// `X-Consul-Index`.
    pub index: Option<u64>,
    /// `X-Consul-ContentHash`.
    pub hash: Option<String>,
}

impl Position {
    /// Of a 200; other statuses have none, whatever their headers say.
    #[must_use]
    pub fn of(reply: &HttpReply<'_>) -> Self {
        let hash = reply
            .headers
            .content_hash
            .clone()
            .filter(|_| reply.status == 200);
        Self {
            index: reply.index(),
            hash,
        }
    }
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The content is new: use it.
    Changed,
    /// Nothing new; what there is, is confirmed.
    Unchanged,
    /// Other content under a lower index than one already seen, as from a restored snapshot
    /// or a server that lags: do not use it, log it. It is read again at once, and what then
    /// comes counts.
    WentBack {
        /// The index seen before.
        from: u64,
        /// The index of this answer.
        to: u64,
    },
}

/// Follows one thing.
#[derive(Debug, Clone)]
pub struct Watch {
    settings: Settings,
    /// What to go on from; index 0 and no hash mean at once.
    from: u64,
    hash: Option<String>,
    /// The index of the last answer that was used.
    accepted: u64,
    digest: Option<Digest>,
    reread: bool,
    /// When the request under way was sent, and whether it is a second reading.
    sent: Option<(u64, bool)>,
    next_at: u64,
    confirmed_at: Option<u64>,
    /// What `confirmed_at` was before the last reply.
    confirmed_before: Option<u64>,
    last_error: Option<String>,
    backoff: Backoff,
    unchanged: Rate,
    changed: Rate,
    random: Seeded,
}

impl Watch {
    /// Starts at once: the first request is due whenever it is polled for.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            from: 0,
            hash: None,
            accepted: 0,
            digest: None,
            reread: false,
            sent: None,
            next_at: 0,
            confirmed_at: None,
            confirmed_before: None,
            last_error: None,
            backoff: Backoff::new(
                settings.backoff_first_ms,
                settings.backoff_max_ms,
                settings.seed,
            ),
            unchanged: Rate::new(settings.unchanged_burst, settings.unchanged_every_ms),
            changed: Rate::new(1, settings.changed_gap_ms),
            random: Seeded::new(!settings.seed),
            settings,
        }
    }

    /// The request to send now; `None` while one is under way or none is due.
    pub fn poll_request(&mut self, now: u64) -> Option<WatchRequest> {
        if self.sent.is_some() || now < self.next_at {
            return None;
        }
        self.sent = Some((now, self.reread));
        let after = match (self.settings.key, &self.hash) {
            (Key::Hash, Some(hash)) => After::Hash(hash.clone()),
            (Key::Index, _) if self.from > 0 => After::Index(self.from),
            _ => After::Nothing,
        };
        let (Mode::Blocking { wait_ms } | Mode::ShortPoll { wait_ms, .. }) = self.settings.mode;
        Some(WatchRequest {
            after,
            wait_ms,
            reread: self.reread,
        })
    }

    /// When [`Watch::poll_request`] will have something; `None` while a request is under way.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        self.sent.is_none().then_some(self.next_at)
    }

    /// When the request under way was sent.
    #[must_use]
    pub fn sent_at(&self) -> Option<u64> {
        self.sent.map(|(at, _)| at)
    }

    /// A 200 with readable content came in. `digest` is of what matters in it.
    pub fn handle_reply(&mut self, now: u64, at: &Position, digest: Digest) -> Event {
        self.handle_old_reply(now, now, at, digest)
    }

    /// The same for a reply that may have lain unread since `as_of`: it confirms only what
    /// held then.
    pub fn handle_old_reply(
        &mut self,
        now: u64,
        as_of: u64,
        at: &Position,
        digest: Digest,
    ) -> Event {
        let second_reading = self.sent.take().is_some_and(|(_, reread)| reread);
        self.backoff.succeed();
        self.last_error = None;
        self.hash.clone_from(&at.hash);
        let same = self.digest == Some(digest);
        let index = at.index.map(|index| index.max(1));
        let back = index.filter(|index| *index < self.accepted);
        if let (Some(to), false, false) = (back, same, second_reading) {
            let from = self.accepted;
            self.restart();
            self.reread = true;
            self.last_error = Some(format!(
                "the agent answered with an older state: index {to} after {from}"
            ));
            self.next_at = self.unchanged.take(now);
            return Event::WentBack { from, to };
        }
        self.reread = false;
        // An index that goes back starts the loop again; one that is absent cannot be blocked on.
        self.from = if back.is_some() {
            0
        } else {
            index.unwrap_or(0)
        };
        if let Some(index) = index {
            self.accepted = index;
        }
        self.digest = Some(digest);
        self.confirmed_before = self.confirmed_at;
        self.confirmed_at = Some(self.confirmed_at.map_or(as_of, |before| before.max(as_of)));
        self.next_at = self.next_after(now, at, same);
        if same {
            Event::Unchanged
        } else {
            Event::Changed
        }
    }

    fn next_after(&mut self, now: u64, at: &Position, same: bool) -> u64 {
        let blockable = match self.settings.key {
            Key::Index => at.index.is_some(),
            Key::Hash => at.hash.is_some(),
        };
        let every = match self.settings.mode {
            Mode::ShortPoll { every_ms, .. } => Some(every_ms),
            Mode::Blocking { .. } if !blockable => Some(self.settings.unblocked_every_ms),
            Mode::Blocking { .. } => None,
        };
        if let Some(every) = every {
            let jitter = every / 10;
            let wait = self.random.between(every.saturating_sub(jitter), every);
            now.saturating_add(wait)
        } else if same {
            self.unchanged.take(now)
        } else {
            self.changed.take(now)
        }
    }

    /// The request failed, was refused, or its reply cannot be read. The next one starts from
    /// nothing, after a wait. Gives that wait.
    pub fn handle_error(&mut self, now: u64, error: impl Into<String>) -> u64 {
        self.sent = None;
        self.restart();
        self.last_error = Some(error.into());
        let wait = self.backoff.fail();
        self.next_at = now.saturating_add(wait);
        wait
    }

    /// The agent asked to be left alone for so long (`Retry-After`), of which at most the
    /// longest wait after failures is kept. Jitter of up to a half is added, so that those who
    /// were sent away together do not come back together. Gives the wait.
    pub fn hold_back(&mut self, now: u64, wait_ms: u64) -> u64 {
        let least = wait_ms.min(self.settings.backoff_max_ms);
        let jitter = self.random.between(0, least / 2);
        let wait = least.saturating_add(jitter);
        self.next_at = self.next_at.max(now.saturating_add(wait));
        self.next_at.saturating_sub(now)
    }

    /// The content that [`Watch::handle_reply`] has just called changed turned out to be
    /// unusable: what was before stays in force and ages, and the same content will count as
    /// changed again. Gives the wait.
    pub fn handle_refused(&mut self, now: u64, error: impl Into<String>) -> u64 {
        self.digest = None;
        self.confirmed_at = self.confirmed_before;
        self.handle_error(now, error)
    }

    /// Ask again as soon as errors allow, without blocking. The caller drops the request that
    /// is under way.
    pub fn refresh(&mut self, now: u64) {
        self.sent = None;
        self.restart();
        if self.backoff.failures() == 0 {
            self.next_at = now;
        }
    }

    /// What stood in the way may be gone, such as a token that was not accepted: what
    /// waits after a failure asks at once.
    pub fn retry(&mut self, now: u64) {
        if self.backoff.failures() > 0 {
            self.next_at = self.next_at.min(now);
        }
    }

    fn restart(&mut self) {
        self.from = 0;
        self.hash = None;
    }

    /// Milliseconds since the content was last confirmed; `None` before the first answer.
    #[must_use]
    pub fn age(&self, now: u64) -> Option<u64> {
        self.confirmed_at.map(|at| now.saturating_sub(at))
    }

    /// When the content was last confirmed.
    #[must_use]
    pub fn confirmed_at(&self) -> Option<u64> {
        self.confirmed_at
    }

    /// The index of the last answer that was used; 0 before the first.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.accepted
    }

    /// The failure since the last good answer.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// How many failures there were since the last good answer.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.backoff.failures()
    }
}
