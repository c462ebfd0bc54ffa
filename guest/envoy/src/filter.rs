//! One filter in one VM: its policy, the agent's answers, what lives and what waits.

use std::collections::BTreeMap;

use portcullis_core::agent::HttpRequest;
use portcullis_core::filter::{
    Asks, EnvoyRequest, FilterState, Layer, Mode, Onward, PeerVerification, Reply, Settings,
    Supply, forwarded_client, presented, read_reply,
};
use portcullis_core::http::RequestRef;
use portcullis_core::intention::{Decision, Effect, Reason};
use portcullis_core::policy::Client;
use portcullis_core::time::Timestamp;
use proxy_wasm::types::{LogLevel, Status};

use crate::clock::{self, Moment};
use crate::host::{self, SharedData};
use crate::known::{EXPIRED, FAILED, Known, NOT_NORMALIZED, REFUSED, Verified};
use crate::ledger::{Count, Ledger};

/// How often the policy is looked after, and how often until there is one.
const TICK_MS: u32 = 500;
const START_TICK_MS: u32 = 50;

/// For how long a certificate that was refused is not looked at again on its connection, so
/// that many requests of nobody cost little.
const REFUSED_MS: u64 = 10_000;

/// What becomes of a connection or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) effect: Effect,
    /// A reason of the policy or of the filter.
    pub(crate) reason: &'static str,
}

impl Outcome {
    pub(crate) const fn denied(reason: &'static str) -> Self {
        Self {
            effect: Effect::Deny,
            reason,
        }
    }

    const fn bad(reason: &'static str) -> Self {
        Self {
            effect: Effect::BadRequest,
            reason,
        }
    }

    pub(crate) fn is_allowed(self) -> bool {
        self.effect == Effect::Allow
    }
}

/// One filter in one VM. Plugins with the same configuration are one filter.
#[derive(Debug)]
pub(crate) struct Filter {
    supply: Supply,
    /// Its root contexts; the first one's tick drives it.
    pub(crate) roots: Vec<u32>,
    /// Requests to the agent by token, with the root that sent them.
    calls: BTreeMap<u32, (Asks, u32)>,
    ledger: Ledger,
    ticked_at: u64,
    tick_ms: u32,
    /// What was logged last about each thing.
    told: BTreeMap<Asks, String>,
    is_stale: bool,
    /// What changes in the request that was judged last, if it goes on.
    onward: Option<Onward>,
    /// The earliest end of a certificate or a token among what lives.
    pub(crate) expiry: Timestamp,
}

impl Filter {
    pub(crate) fn new(settings: Settings, name: u64) -> Self {
        let ledger = Ledger::new(settings.service.name());
        Self {
            supply: Supply::new(settings, name),
            roots: Vec::new(),
            calls: BTreeMap::new(),
            ledger,
            ticked_at: 0,
            tick_ms: 0,
            told: BTreeMap::new(),
            is_stale: false,
            onward: None,
            expiry: Timestamp::MAX,
        }
    }

    pub(crate) const fn settings(&self) -> &Settings {
        self.supply.settings()
    }

    pub(crate) fn is_shadow(&self) -> bool {
        self.settings().mode == Mode::Shadow
    }

    /// Asks for the first tick, for a root that is in effect.
    pub(crate) fn start(&mut self, root: u32) {
        self.set_tick_period(root);
    }

    /// Looks after the policy. Whether what lives must be judged again.
    pub(crate) fn tick(&mut self, root: u32, now: Moment, is_forced: bool) -> bool {
        self.set_tick_period(root);
        let since = now.monotonic.saturating_sub(self.ticked_at);
        // Of several roots one is enough; any of them will do should the first one sleep.
        if !is_forced && since < u64::from(self.tick_ms) / 2 {
            return false;
        }
        self.ticked_at = now.monotonic;
        let ticked = self.supply.tick(&SharedData, now.monotonic, now.wall);
        for (asks, request) in ticked.requests {
            self.send(root, asks, &request, now.monotonic);
        }
        for problem in ticked.problems {
            self.log(LogLevel::Warn, &problem);
        }
        self.tell();
        let age = self.supply.age(now.monotonic);
        self.count(age, now.monotonic);
        let budget = self.settings().max_stale_ms;
        let is_stale = budget != 0 && age.is_some_and(|age| age > budget);
        let has_aged = is_stale != self.is_stale;
        if has_aged && is_stale {
            self.log(
                LogLevel::Error,
                "the policy is older than `max_stale_ms`: everything is refused until the agent answers",
            );
        }
        self.is_stale = is_stale;
        let has_expired = now.wall > self.expiry;
        self.set_tick_period(root);
        ticked.has_changed || has_aged || has_expired
    }

    /// Tells Envoy what was counted, and how the policy stands.
    fn count(&mut self, age: Option<u64>, now: u64) {
        self.ledger.flush();
        let seconds = |age: Option<u64>| age.map(|age| age / 1_000);
        let number = |count: usize| u64::try_from(count).ok();
        for (gauge, value) in [
            ("policy_age_seconds", seconds(age)),
            ("generation", Some(self.supply.generation())),
            (
                "peers_without_bundle",
                number(self.supply.peers_without_bundle()),
            ),
            (
                "jwks_age_seconds",
                // Without fetched keys nothing grows old.
                seconds(self.supply.keys_age(now).or(Some(0))),
            ),
            (
                "providers_without_keys",
                number(self.supply.providers_without_keys()),
            ),
        ] {
            self.ledger.tell(gauge, value);
        }
    }

    fn set_tick_period(&mut self, root: u32) {
        let is_ready = self.is_ready(Layer::Connections) || self.is_ready(Layer::Requests);
        let is_ready = is_ready && !self.supply.awaits_tokens();
        let period = if is_ready { TICK_MS } else { START_TICK_MS };
        if period != self.tick_ms && self.roots.first() == Some(&root) {
            self.tick_ms = period;
            if let Err(status) = host::set_tick_period(period) {
                self.log(LogLevel::Error, &format!("no ticks: {status}"));
            }
        }
    }

    fn send(&mut self, root: u32, asks: Asks, request: &HttpRequest, now: u64) {
        let route = self.supply.route(asks);
        match host::call(route, request) {
            Ok(token) => {
                self.calls.insert(token, (asks, root));
                self.supply.sent(asks, now, request.read_timeout_ms);
            }
            Err(Status::BadArgument) => {
                let error = format!("Envoy has no cluster `{}`", route.cluster);
                self.supply.failed(asks, now, &error);
            }
            Err(status) => {
                let error = format!("Envoy does not send the request: {status:?}");
                self.supply.failed(asks, now, &error);
            }
        }
    }

    /// Whether a reply with this token is meant for this filter.
    pub(crate) fn awaits(&self, token: u32) -> bool {
        self.calls.contains_key(&token)
    }

    /// Takes the reply in effect. `headers` is 0 if there is none.
    pub(crate) fn replied(&mut self, token: u32, headers: usize, body: usize, now: Moment) {
        let Some((asks, root)) = self.calls.remove(&token) else {
            return;
        };
        let now = now.monotonic;
        let reply = match read(headers, body, Supply::limit(asks)) {
            Ok(reply) => reply,
            Err(error) => return self.supply.failed(asks, now, &error),
        };
        if let Some(request) = self.supply.reply(&SharedData, asks, now, &reply) {
            self.send(root, asks, &request, now);
        }
    }

    /// A root context is gone, and with it the calls that it made.
    pub(crate) fn lost(&mut self, root: u32, now: u64) {
        self.roots.retain(|other| *other != root);
        let lost: Vec<(u32, Asks)> = self
            .calls
            .iter()
            .filter(|(_, (_, of))| *of == root)
            .map(|(token, (asks, _))| (*token, *asks))
            .collect();
        for (token, asks) in lost {
            self.calls.remove(&token);
            self.supply.lost(asks, now);
        }
        // Another root has to ask for ticks.
        self.tick_ms = 0;
    }

    pub(crate) fn is_ready(&self, layer: Layer) -> bool {
        self.supply.is_ready(layer)
    }

    /// Whether something that can still come is worth waiting for.
    pub(crate) fn must_wait(&self, layer: Layer) -> bool {
        !self.is_ready(layer) || (layer == Layer::Requests && self.supply.awaits_tokens())
    }

    /// Whether rules look at tokens.
    pub(crate) fn asks_for_tokens(&self) -> bool {
        self.supply.asks_for_tokens()
    }

    /// This moment, for a decision. The clock that nobody sets is asked only where something
    /// has to be waited for or loaded first; else the last tick's time will do.
    pub(crate) fn now(&self, layer: Layer) -> Moment {
        if self.is_ready(layer) && self.supply.is_prepared(layer) {
            Moment {
                monotonic: self.ticked_at,
                wall: clock::wall(),
            }
        } else {
            clock::now()
        }
    }

    /// What is decided about a connection.
    pub(crate) fn judge_connection(&mut self, known: &mut Known, now: Moment) -> Outcome {
        if let Some(outcome) = self.check(Layer::Connections, known, None, now) {
            return outcome;
        }
        let decision = self.authorize(Layer::Connections, known.client(), None, now);
        outcome(&decision)
    }

    /// What is decided about a request.
    pub(crate) fn judge_request(
        &mut self,
        known: &mut Known,
        request: &EnvoyRequest,
        now: Moment,
    ) -> Outcome {
        self.onward = None;
        if let Some(outcome) = self.check(Layer::Requests, known, Some(request), now) {
            return outcome;
        }
        let client = if known.is_mesh_gateway() {
            &Client {
                via_gateway: forwarded_client(request, known.leaf().unwrap_or_default()),
                ..known.client().clone()
            }
        } else {
            known.client()
        };
        let decision = self.authorize(Layer::Requests, client, Some(request.into()), now);
        let judged = outcome(&decision);
        match decision.effect {
            Effect::Allow if decision.path.is_none() && decision.headers.is_empty() => judged,
            // The filter normalises nothing: what is forwarded is what was judged, or nothing.
            Effect::Allow => match Onward::of(request, decision.path, decision.headers) {
                Some(onward) => {
                    self.onward = (!onward.is_nothing()).then_some(onward);
                    judged
                }
                None => Outcome::bad(NOT_NORMALIZED),
            },
            Effect::Redirect => Outcome::bad(NOT_NORMALIZED),
            _ => judged,
        }
    }

    /// Changes the request in effect as it was judged to need it; what cannot be changed does
    /// not go on.
    pub(crate) fn carry_out(&mut self, outcome: Outcome) -> Outcome {
        let Some(onward) = self.onward.take() else {
            return outcome;
        };
        // Shadow mode changes nothing.
        if !outcome.is_allowed() || self.is_shadow() {
            return outcome;
        }
        let mut removed = onward.removed.iter().map(|name| host::remove_header(name));
        let done = removed.try_for_each(|removed| removed).and_then(|()| {
            let mut set = onward
                .set
                .iter()
                .map(|(name, value)| host::set_header(name, value));
            set.try_for_each(|set| set)
        });
        match done {
            Ok(()) => outcome,
            Err(status) => {
                let text = format!("headers of a request cannot be changed: {status}");
                self.log(LogLevel::Error, &text);
                Outcome::denied(FAILED)
            }
        }
    }

    fn authorize(
        &mut self,
        layer: Layer,
        client: &Client,
        request: Option<RequestRef<'_>>,
        now: Moment,
    ) -> Decision {
        self.supply
            .authorize(&SharedData, layer, client, request, now.monotonic, now.wall)
    }

    /// What holds whatever the policy says.
    fn check(
        &mut self,
        layer: Layer,
        known: &mut Known,
        request: Option<&EnvoyRequest>,
        now: Moment,
    ) -> Option<Outcome> {
        if let Some(reason) = known.refused {
            return Some(Outcome::denied(reason));
        }
        if !known.is_current(now.wall) {
            return Some(Outcome::denied(EXPIRED));
        }
        let by_filter = self.settings().peer_verification == PeerVerification::Filter;
        let leaf = known.leaf().filter(|_| by_filter)?;
        if !self.is_ready(layer) {
            return Some(Outcome::denied(Reason::NotReady.code()));
        }
        let roots = self.supply.anchors();
        let before = known.verified.as_ref();
        let before = before.filter(|before| before.holds(roots, now.wall));
        if before.is_some_and(|before| before.is_good) {
            return None;
        }
        let others = request.map(|request| presented(request, leaf));
        let others = others.unwrap_or_default();
        if before.is_some_and(|before| before.presented == others) {
            return Some(Outcome::denied(REFUSED));
        }
        let verified =
            self.supply
                .verify(&SharedData, layer, leaf, &others, now.monotonic, now.wall);
        let (is_good, until) = match &verified {
            Ok(peer) => (true, peer.not_after),
            Err(_) => (false, now.wall.saturating_add_millis(REFUSED_MS)),
        };
        known.verified = Some(Verified {
            is_good,
            roots,
            presented: if is_good { Vec::new() } else { others },
            from: now.wall,
            until,
        });
        match verified {
            Ok(_) => None,
            Err(error) => {
                self.log(
                    LogLevel::Info,
                    &format!("a certificate is refused: {error}"),
                );
                Some(Outcome::denied(REFUSED))
            }
        }
    }

    /// Counts an outcome, and writes it where access logs find it. Whether to let it pass.
    pub(crate) fn record(&mut self, outcome: Outcome, layer: Layer) -> bool {
        let is_shadow = self.is_shadow();
        let count = match (outcome.is_allowed(), is_shadow) {
            (true, _) => Count::Allowed,
            (false, true) => Count::Shadow,
            (false, false) => Count::Denied,
        };
        self.ledger.add(count, outcome.reason);
        let wanted = self.settings().filter_state.unwrap_or(match layer {
            Layer::Connections => FilterState::All,
            Layer::Requests => FilterState::Refused,
        });
        let is_wanted = match wanted {
            FilterState::All => true,
            FilterState::Refused => !outcome.is_allowed(),
            FilterState::None => false,
        };
        if is_wanted {
            let shadow = if is_shadow { "shadow " } else { "" };
            let text = format!("{shadow}{} {}", outcome.effect.code(), outcome.reason);
            // Where it cannot be written the decision holds all the same.
            let _ = host::set_property("portcullis.decision", &text);
        }
        outcome.is_allowed() || is_shadow
    }

    /// Counts something that lived and was ended.
    pub(crate) fn record_end(&mut self, outcome: Outcome) {
        self.ledger.add(Count::Closed, outcome.reason);
    }

    /// Tells once what does not work at the agent, and once that it works again.
    fn tell(&mut self) {
        let errors: BTreeMap<Asks, String> = self
            .supply
            .errors()
            .map(|(asks, error)| (asks, error.to_owned()))
            .collect();
        if errors == self.told {
            return;
        }
        for (asks, error) in &errors {
            if self.told.get(asks) != Some(error) {
                let subject = self.supply.subject(*asks);
                self.log(LogLevel::Warn, &format!("{subject}: {error}"));
            }
        }
        // Whoever does not ask any more does not know.
        let is_good = |asks: &&Asks| !errors.contains_key(asks) && self.supply.leads(**asks);
        for asks in self.told.keys().filter(is_good) {
            self.log(
                LogLevel::Info,
                &format!("{}: good again", self.supply.subject(*asks)),
            );
        }
        self.told = errors;
    }

    pub(crate) fn log(&self, level: LogLevel, text: &str) {
        let service = &self.settings().service;
        host::log(level, &format!("portcullis: `{service}`: {text}"));
    }
}

fn outcome(decision: &Decision) -> Outcome {
    Outcome {
        effect: decision.effect,
        reason: decision.code.code(),
    }
}

/// The reply in effect.
fn read(headers: usize, body: usize, limit: usize) -> Result<Reply, String> {
    if headers == 0 {
        // Reading headers that are not there is an error that Envoy does not forgive.
        return Err("no reply, or one that broke off or was too large".to_owned());
    }
    if body > limit {
        return Err(format!("the reply is larger than {limit} bytes"));
    }
    let map = host::reply_headers().map_err(|status| format!("no headers: {status}"))?;
    let (status, headers) = read_reply(&map).map_err(|error| error.to_string())?;
    let body = host::reply_body(body).map_err(|status| format!("no body: {status}"))?;
    Ok(Reply {
        status,
        headers,
        body,
    })
}
