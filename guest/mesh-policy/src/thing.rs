//! One thing that is fetched from the agent and kept current.
use portcullis_core::agent::HttpRequest;
use portcullis_core::watch::{Digest, Event, Mode, Position, Settings, Watch, WatchRequest};

use crate::fetch::{Agent, Fetch, Look, Reply};

/// How long the agent may hold a query open.
const WAIT_MS: u64 = 60_000;
/// A state that was seen longer ago than this is asked for again before it decides.
const LAG_MS: u64 = 1_000;

/// When something was true: by the monotonic clock, and by the time that callers give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) monotonic: u64,
    pub(crate) wall: u64,
}

impl Moment {
    /// This moment, `monotonic` being when it really was.
    fn back_to(self, monotonic: u64) -> Self {
        let ago = self.monotonic.saturating_sub(monotonic);
        Self {
            monotonic,
            wall: self.wall.saturating_sub(ago),
        }
    }
}

/// A watch with its request under way and what is known about its last good answer.
pub(crate) struct Thing {
    watch: Watch,
    fetch: Option<Fetch>,
    /// The last good answer was current at this moment; `None` before the first.
    current: Option<Moment>,
    before: Option<Moment>,
    /// When somebody last looked for a reply and it had not begun.
    looked: u64,
    /// What is known may be out of date, and a fresh answer has not come yet.
    lagging: bool,
    /// Whether a query is meant to be open all the time.
    follows: bool,
    /// Somebody has waited in vain for the request under way.
    waited: bool,
}

impl Thing {
    /// Followed by blocking queries.
    pub(crate) fn blocking(seed: u64) -> Self {
        Self::new(Mode::Blocking { wait_ms: WAIT_MS }, seed)
    }

    /// Asked about now and then.
    pub(crate) fn polled(every_ms: u64, seed: u64) -> Self {
        Self::new(
            Mode::ShortPoll {
                wait_ms: 0,
                every_ms,
            },
            seed,
        )
    }

    fn new(mode: Mode, seed: u64) -> Self {
        Self {
            watch: Watch::new(Settings {
                mode,
                seed,
                ..Settings::default()
            }),
            fetch: None,
            current: None,
            before: None,
            looked: 0,
            lagging: false,
            follows: matches!(mode, Mode::Blocking { .. }),
            waited: false,
        }
    }

    /// A reply that has arrived since the last look.
    pub(crate) fn arrived(&mut self, now: Moment) -> Option<Result<Reply, String>> {
        match self.fetch.take()?.look(now.monotonic) {
            Look::Done(result) => Some(result),
            Look::Pending(fetch) => {
                if !fetch.is_answering() {
                    self.looked = now.monotonic;
                }
                self.fetch = Some(fetch);
                None
            }
        }
    }

    /// The reply was good. Whether its content is to be used is the event; the reply
    /// may have lain there since the last look, so it proves only what held then.
    pub(crate) fn good(&mut self, now: Moment, at: &Position, digest: Digest) -> Event {
        let sent = self.watch.sent_at().unwrap_or(now.monotonic);
        let as_of = self.looked.max(sent).min(now.monotonic);
        let event = self
            .watch
            .handle_old_reply(now.monotonic, as_of, at, digest);
        self.lagging = match event {
            Event::WentBack { .. } => true,
            Event::Changed | Event::Unchanged => {
                self.before = self.current;
                self.current = Some(now.back_to(as_of));
                self.follows && now.monotonic.saturating_sub(as_of) > LAG_MS
            }
        };
        if self.lagging && !matches!(event, Event::WentBack { .. }) {
            self.watch.refresh(now.monotonic);
        }
        event
    }

    /// There is no good reply.
    pub(crate) fn failed(&mut self, now: Moment, error: &str) {
        self.lagging = false;
        self.watch.handle_error(now.monotonic, error);
    }

    /// The content that [`Thing::good`] has just called changed cannot be used.
    pub(crate) fn refused(&mut self, now: Moment, error: &str) {
        self.current = self.before;
        self.lagging = false;
        self.watch.handle_refused(now.monotonic, error);
    }

    /// Sends what is due.
    pub(crate) fn send(
        &mut self,
        agent: &Agent,
        now: Moment,
        request: impl FnOnce(&WatchRequest) -> Result<HttpRequest, String>,
    ) {
        if self
            .watch
            .poll_timeout()
            .is_none_or(|due| due > now.monotonic)
        {
            return;
        }
        // Nobody has watched for a while: ask for the present state first, and wait for it.
        // After errors the question is such a one anyway, and nobody waits for it.
        let unwatched = |at: Moment| now.monotonic.saturating_sub(at.monotonic) > LAG_MS;
        if self.follows && self.watch.failures() == 0 && self.current.is_some_and(unwatched) {
            self.lagging = true;
            self.watch.refresh(now.monotonic);
        }
        let Some(due) = self.watch.poll_request(now.monotonic) else {
            return;
        };
        self.looked = now.monotonic;
        self.waited = false;
        match request(&due).and_then(|request| Fetch::send(agent, &request, now.monotonic)) {
            Ok(fetch) => self.fetch = Some(fetch),
            Err(error) => self.failed(now, &error),
        }
    }

    /// Drops a query that may wait for long and asks for the present state instead.
    pub(crate) fn refresh(&mut self, now: Moment) {
        self.fetch = None;
        self.lagging = true;
        self.watch.refresh(now.monotonic);
    }

    /// When the last good answer was current.
    pub(crate) fn current(&self) -> Option<Moment> {
        self.current
    }

    /// Whether the last good answer is older than `max_stale` by either clock; 0 is no limit.
    pub(crate) fn is_stale(&self, now: Moment, max_stale: u64) -> bool {
        self.current.is_some_and(|at| {
            let age = now
                .monotonic
                .saturating_sub(at.monotonic)
                .max(now.wall.saturating_sub(at.wall));
            max_stale != 0 && age > max_stale
        })
    }

    /// The request under way, if its answer is worth waiting for. With data that may decide,
    /// one caller waits in vain for a silent agent, and the next ones no longer.
    pub(crate) fn awaited(&self, now: Moment, max_stale: u64) -> Option<&Fetch> {
        let nothing = self.current.is_none() || self.is_stale(now, max_stale);
        let soon = |fetch: &&Fetch| !self.waited && (self.lagging || fetch.is_answering());
        self.fetch.as_ref().filter(|fetch| nothing || soon(fetch))
    }

    /// The request under way, if its answer is worth waiting for and nobody has waited for
    /// it in vain: what else is known may decide without.
    pub(crate) fn awaited_once(&self) -> Option<&Fetch> {
        let soon = |fetch: &&Fetch| {
            !self.waited && (self.current.is_none() || self.lagging || fetch.is_answering())
        };
        self.fetch.as_ref().filter(soon)
    }

    /// A caller has waited as long as it may.
    pub(crate) fn waited(&mut self) {
        self.waited = true;
    }

    /// The last index that the agent gave.
    pub(crate) fn index(&self) -> u64 {
        self.watch.index()
    }

    /// The failure since the last good answer.
    pub(crate) fn last_error(&self) -> Option<&str> {
        self.watch.last_error()
    }
}
