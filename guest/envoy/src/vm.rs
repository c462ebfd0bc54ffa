//! One VM: its root contexts, connections and requests.
//!
//! A VM has one thread. Its state is lent to one callback at a time; should Envoy ever call
//! back within a call, that call refuses.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::BuildHasher as _;

use portcullis_core::filter::{EnvoyRequest, Layer, Settings, token_ends};
use portcullis_core::intention::{Effect, Reason};
use portcullis_core::jwt::TokenEnds;
use portcullis_core::time::Timestamp;
use proxy_wasm::types::{Action, LogLevel, StreamType};

use crate::clock::{self, Moment};
use crate::filter::{Filter, Outcome};
use crate::host;
use crate::known::{FAILED, Known, Seen, connection_id};

/// How many connections' peers are remembered for their next requests.
const MAX_REMEMBERED: usize = 8_192;

/// Whose bytes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The client's.
    Client,
    /// The application's.
    Application,
}

/// A connection of a network filter, or a request of an HTTP filter: its first callback tells.
#[derive(Debug)]
struct Context {
    root: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing has come yet.
    New,
    /// The client's first bytes wait for a policy.
    WaitingConnection { known: Known, since: u64 },
    /// The headers wait for a policy.
    WaitingRequest {
        known: Known,
        request: EnvoyRequest,
        since: u64,
    },
    /// Allowed; judged again when the policy changes.
    Connection { known: Known },
    /// Allowed; judged again when the policy changes.
    Request {
        known: Known,
        request: EnvoyRequest,
        ends: TokenEnds,
    },
    /// Let pass without a judgement that could change.
    Passing,
    /// Refused.
    Refused,
}

#[derive(Default)]
struct Vm {
    /// Root contexts with their filter.
    roots: BTreeMap<u32, u64>,
    filters: BTreeMap<u64, Filter>,
    next_filter: u64,
    contexts: BTreeMap<u32, Context>,
    /// Peers by connection and filter.
    remembered: BTreeMap<(u64, u64), Known>,
    /// Certificates that were read before.
    seen: Seen,
}

thread_local! {
    static VM: RefCell<Vm> = RefCell::new(Vm::default());
}

/// Lends the state; `otherwise` if it is lent already.
fn with<R>(otherwise: R, use_it: impl FnOnce(&mut Vm) -> R) -> R {
    let lent = VM.try_with(|vm| match vm.try_borrow_mut() {
        Ok(mut vm) => Ok(use_it(&mut vm)),
        Err(_) => Err(otherwise),
    });
    match lent {
        Ok(Ok(result) | Err(result)) => result,
        // The thread ends, and with it the VM.
        Err(_) => std::process::abort(),
    }
}

/// A connection or a request is there.
pub(crate) fn created(context: u32, root: u32) {
    let fresh = Context {
        root,
        state: State::New,
    };
    with((), |vm| drop(vm.contexts.insert(context, fresh)));
}

/// A root's configuration; whether it is good.
pub(crate) fn configured(root: u32, length: usize) -> bool {
    let configuration = host::configuration(length).unwrap_or_default();
    match Settings::parse(&configuration) {
        Ok(settings) => with(false, |vm| {
            vm.configure(root, settings);
            true
        }),
        Err(error) => {
            host::log(LogLevel::Error, &format!("portcullis: {error}"));
            false
        }
    }
}

/// Time has passed.
pub(crate) fn tick(root: u32) {
    with((), |vm| vm.tick(root, false));
}

/// A reply came from the agent, or will not come.
pub(crate) fn replied(root: u32, token: u32, headers: usize, body: usize) {
    with((), |vm| {
        let now = clock::now();
        let filter = vm.filters.values_mut().find(|filter| filter.awaits(token));
        if let Some(filter) = filter {
            filter.replied(token, headers, body, now);
        }
        // What has just been published is taken over at once.
        vm.tick(root, true);
    });
}

/// Bytes came on a connection.
pub(crate) fn bytes(context: u32, side: Side) -> Action {
    with(Action::Pause, |vm| vm.bytes(context, side))
}

/// A request's headers came.
pub(crate) fn request(context: u32) -> Action {
    with(Action::Pause, |vm| vm.request(context))
}

/// A connection or a request is gone; false if it is neither.
pub(crate) fn deleted(context: u32) -> bool {
    with(true, |vm| vm.contexts.remove(&context).is_some())
}

/// A root context is gone.
pub(crate) fn root_deleted(root: u32) {
    with((), |vm| vm.forget_root(root));
}

impl Vm {
    fn configure(&mut self, root: u32, settings: Settings) {
        self.forget_root(root);
        let same = self
            .filters
            .iter()
            .find(|(_, filter)| *filter.settings() == settings)
            .map(|(id, _)| *id);
        let id = same.unwrap_or_else(|| {
            self.next_filter = self.next_filter.saturating_add(1);
            // Seeded by the system: no two VMs have the same name.
            let name = std::hash::RandomState::new().hash_one(self.next_filter);
            self.filters
                .insert(self.next_filter, Filter::new(settings, name));
            self.next_filter
        });
        self.roots.insert(root, id);
        if let Some(filter) = self.filters.get_mut(&id) {
            filter.roots.push(root);
            filter.start(root);
        }
    }

    fn forget_root(&mut self, root: u32) {
        let Some(id) = self.roots.remove(&root) else {
            return;
        };
        let Some(filter) = self.filters.get_mut(&id) else {
            return;
        };
        filter.lost(root, clock::now().monotonic);
        if let Some(next) = filter.roots.first().copied() {
            if host::set_effective_context(next).is_ok() {
                filter.start(next);
                let _ = host::set_effective_context(root);
            }
        } else {
            self.filters.remove(&id);
            self.remembered.retain(|(_, of), _| *of != id);
        }
    }

    fn tick(&mut self, root: u32, is_forced: bool) {
        let now = clock::now();
        let Some(id) = self.roots.get(&root).copied() else {
            return;
        };
        let Some(filter) = self.filters.get_mut(&id) else {
            return;
        };
        let is_due = filter.tick(root, now, is_forced);
        let mut has_switched = false;
        if is_due {
            filter.expiry = Timestamp::MAX;
        }
        let roots = &self.roots;
        for (context, place) in &mut self.contexts {
            if roots.get(&place.root) == Some(&id) {
                has_switched |= look_after(filter, *context, &mut place.state, is_due, now);
            }
        }
        if has_switched {
            let _ = host::set_effective_context(root);
        }
    }

    /// The filter of a context, the context, and the certificates that were read before.
    fn place(&mut self, context: u32) -> Option<(&mut Filter, &mut State, &mut Seen)> {
        let place = self.contexts.get_mut(&context)?;
        let id = *self.roots.get(&place.root)?;
        let filter = self.filters.get_mut(&id)?;
        Some((filter, &mut place.state, &mut self.seen))
    }

    fn bytes(&mut self, context: u32, side: Side) -> Action {
        let Some((filter, state, seen)) = self.place(context) else {
            return refuse_connection();
        };
        match state {
            State::Connection { .. } | State::Passing => return Action::Continue,
            State::New => {}
            // What the application says would be held for ever.
            State::WaitingConnection { .. } if side == Side::Application => {
                let outcome = Outcome::denied(Reason::NotReady.code());
                filter.record(outcome, Layer::Connections);
                *state = State::Refused;
                return refuse_connection();
            }
            State::WaitingConnection { .. } => return Action::Pause,
            State::Refused | State::Request { .. } | State::WaitingRequest { .. } => {
                return refuse_connection();
            }
        }
        let now = filter.now(Layer::Connections);
        let mut known = Known::read(seen, filter.settings().peer_verification, false);
        let can_wait = side == Side::Client
            && known.refused.is_none()
            && filter.settings().start_wait_ms > 0
            && !filter.is_shadow();
        if can_wait && !filter.is_ready(Layer::Connections) {
            *state = State::WaitingConnection {
                known,
                since: now.monotonic,
            };
            return Action::Pause;
        }
        let outcome = filter.judge_connection(&mut known, now);
        *state = settle_connection(filter, outcome, known);
        match state {
            State::Refused => refuse_connection(),
            _ => Action::Continue,
        }
    }

    fn request(&mut self, context: u32) -> Action {
        let connection = connection_id();
        let Some(place) = self.contexts.get_mut(&context) else {
            return refuse_request(Outcome::denied(FAILED));
        };
        let id = self.roots.get(&place.root);
        let Some((id, filter)) = id.and_then(|id| Some((*id, self.filters.get_mut(id)?))) else {
            return refuse_request(Outcome::denied(FAILED));
        };
        let now = filter.now(Layer::Requests);
        let verification = filter.settings().peer_verification;
        let seen = &mut self.seen;
        let mut unnumbered;
        let known = match connection {
            Some(number) => self
                .remembered
                .entry((number, id))
                .or_insert_with(|| Known::read(seen, verification, true)),
            None => {
                unnumbered = Known::read(seen, verification, true);
                &mut unnumbered
            }
        };
        let read = host::request_headers()
            .ok()
            .and_then(|map| EnvoyRequest::read(map, known.version).ok());
        let Some(request) = read else {
            let outcome = Outcome {
                effect: Effect::BadRequest,
                reason: Reason::BadRequest.code(),
            };
            place.state = State::Refused;
            if filter.record(outcome, Layer::Requests) {
                place.state = State::Passing;
                return Action::Continue;
            }
            return refuse_request(outcome);
        };
        let can_wait =
            known.refused.is_none() && filter.settings().start_wait_ms > 0 && !filter.is_shadow();
        if can_wait && filter.must_wait(Layer::Requests) {
            place.state = State::WaitingRequest {
                known: known.clone(),
                request,
                since: now.monotonic,
            };
            return Action::Pause;
        }
        let outcome = filter.judge_request(known, &request, now);
        let outcome = filter.carry_out(outcome);
        place.state = settle_request(filter, outcome, known, request, now);
        while self.remembered.len() > MAX_REMEMBERED {
            // Connections are numbered in order: the oldest goes.
            self.remembered.pop_first();
        }
        match place.state {
            State::Refused => refuse_request(outcome),
            _ => Action::Continue,
        }
    }
}

/// Judges what waits, and what lives if `is_due`. Whether the context in effect is another now.
fn look_after(
    filter: &mut Filter,
    context: u32,
    state: &mut State,
    is_due: bool,
    now: Moment,
) -> bool {
    let wait = filter.settings().start_wait_ms;
    let is_over = |since: u64| now.monotonic.saturating_sub(since) >= wait;
    match state {
        State::WaitingConnection { known, since } => {
            if !filter.is_ready(Layer::Connections) && !is_over(*since) {
                return false;
            }
            if host::set_effective_context(context).is_err() {
                return false;
            }
            let outcome = filter.judge_connection(known, now);
            *state = settle_connection(filter, outcome, known.clone());
            let done = match state {
                State::Refused => host::close(StreamType::Downstream),
                _ => host::resume(StreamType::Downstream),
            };
            if let Err(status) = done {
                filter.log(
                    LogLevel::Error,
                    &format!("a connection that waited: {status}"),
                );
            }
            true
        }
        State::WaitingRequest {
            known,
            request,
            since,
        } => {
            if filter.must_wait(Layer::Requests) && !is_over(*since) {
                return false;
            }
            if host::set_effective_context(context).is_err() {
                return false;
            }
            let outcome = filter.judge_request(known, request, now);
            let outcome = filter.carry_out(outcome);
            let request = std::mem::take(request);
            *state = settle_request(filter, outcome, &known.clone(), request, now);
            if matches!(state, State::Refused) {
                refuse_request(outcome);
            } else if let Err(status) = host::resume(StreamType::HttpRequest) {
                filter.log(LogLevel::Error, &format!("a request that waited: {status}"));
            }
            true
        }
        State::Connection { known } if is_due => {
            let outcome = filter.judge_connection(known, now);
            filter.expiry = filter.expiry.min(known.not_after());
            if outcome.is_allowed() {
                return false;
            }
            end(filter, context, state, outcome, Layer::Connections)
        }
        State::Request {
            known,
            request,
            ends,
        } if is_due => {
            let outcome = filter.judge_request(known, request, now);
            if filter.asks_for_tokens() && *ends == TokenEnds::default() {
                // No rule may have asked for one when it began.
                *ends = token_ends(request);
            }
            filter.expiry = filter.expiry.min(end_of(known, ends, now));
            if outcome.is_allowed() {
                return false;
            }
            end(filter, context, state, outcome, Layer::Requests)
        }
        _ => false,
    }
}

/// Ends something that lived.
fn end(
    filter: &mut Filter,
    context: u32,
    state: &mut State,
    outcome: Outcome,
    layer: Layer,
) -> bool {
    if host::set_effective_context(context).is_err() {
        return false;
    }
    filter.record_end(outcome);
    *state = State::Refused;
    match layer {
        Layer::Connections => refuse_connection(),
        // A request whose answer has begun is reset by Envoy instead.
        Layer::Requests => refuse_request(outcome),
    };
    true
}

fn settle_connection(filter: &mut Filter, outcome: Outcome, known: Known) -> State {
    match (
        filter.record(outcome, Layer::Connections),
        outcome.is_allowed(),
    ) {
        (true, true) if !filter.is_shadow() => {
            filter.expiry = filter.expiry.min(known.not_after());
            State::Connection { known }
        }
        // Shadow mode ends nothing.
        (true, _) => State::Passing,
        (false, _) => State::Refused,
    }
}

/// When a request must be judged again at the latest.
fn end_of(known: &Known, ends: &TokenEnds, now: Moment) -> Timestamp {
    let token = ends.next(now.wall).unwrap_or(Timestamp::MAX);
    known.not_after().min(token)
}

fn settle_request(
    filter: &mut Filter,
    outcome: Outcome,
    known: &Known,
    request: EnvoyRequest,
    now: Moment,
) -> State {
    match (
        filter.record(outcome, Layer::Requests),
        outcome.is_allowed(),
    ) {
        (true, true) if !filter.is_shadow() => {
            let ends = if filter.asks_for_tokens() {
                token_ends(&request)
            } else {
                TokenEnds::default()
            };
            filter.expiry = filter.expiry.min(end_of(known, &ends, now));
            State::Request {
                known: known.clone(),
                request,
                ends,
            }
        }
        (true, _) => State::Passing,
        (false, _) => State::Refused,
    }
}

/// Closes the connection in effect; none of its bytes goes on.
fn refuse_connection() -> Action {
    let _ = host::close(StreamType::Downstream);
    Action::Pause
}

/// Answers the request in effect; it does not go on.
fn refuse_request(outcome: Outcome) -> Action {
    let (status, body) = match outcome.effect {
        Effect::BadRequest | Effect::Redirect => (400, "Bad Request"),
        Effect::Allow | Effect::Deny => (403, "Forbidden"),
    };
    let details = format!("portcullis[{}]", outcome.reason);
    if host::respond(status, &details, body).is_err() {
        let _ = host::close(StreamType::HttpRequest);
    }
    Action::Pause
}
