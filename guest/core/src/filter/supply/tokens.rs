//! The providers of tokens that the service's intentions name, and their keys.
//!
//! Nothing is asked while no intention names one. Keys that are not in the entry are fetched
//! as the plugin configuration says: by a cluster for exactly this URI, or from the relay.
//! Each set is a topic of its own, made anew when its provider names another place, so that
//! keys from the old one count no more.

use std::collections::BTreeSet;

use serde_json::value::RawValue;

use super::{Asks, Ticked, key};
use crate::agent::{
    HttpReply, HttpRequest, Method, ReplyHeaders, RequestError, excerpt_bytes, providers,
};
use crate::filter::Shelf;
use crate::filter::settings::{KeyServer, Settings};
use crate::filter::topic::Topic;
use crate::identity::Excerpt;
use crate::intention::json::At;
use crate::jwt::{self, MAX_KEY_SET, Place, Provider, Source};
use crate::watch::{Digest, Mode, Settings as WatchSettings};

/// How long live requests go on by the intentions before, while providers that are named
/// newly are asked for.
const WAIT_MS: u64 = 2_000;
/// How many key sets are fetched at once.
const AT_ONCE: usize = 8;
/// How many providers of one service have their keys fetched.
const MAX_KEY_SETS: usize = 64;
/// What stands in the place of providers, or of keys, while nobody asks for them. No agent says
/// that, so it counts as no answer.
const NOTHING: &[u8] = b"";

/// What is followed for tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    /// Whether requests are judged: nobody else can show a token.
    may_be_shown: bool,
    named: BTreeSet<String>,
    /// When another one was named last.
    since: u64,
    pub(super) providers: Topic,
    entries: Option<Box<RawValue>>,
    /// The names of those that can be read.
    known: BTreeSet<String>,
    is_stale: bool,
    key_sets: Vec<KeySet>,
    last_id: u32,
    /// Other providers are named: their keys are to be followed.
    is_due: bool,
    /// How many values there were of key sets that are gone.
    retired: u64,
    /// What is still awaited: see [`Tokens::is_awaited`].
    is_awaited: bool,
    /// Something else has changed, and what lives has not been judged again yet.
    is_held: bool,
}

/// Keys that are not in their provider's entry.
#[derive(Debug)]
struct KeySet {
    id: u32,
    source: Source,
    /// The way to them, or why there is none.
    way: Result<(Way, Topic), String>,
    /// Keys are in force.
    is_loaded: bool,
    is_stale: bool,
    asked_at: u64,
}

/// How keys are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// At the server that the provider names, by a cluster of its own.
    Server(KeyServer),
    /// At the relay, which knows the provider.
    Relay,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'s> {
    /// Envoy's cluster.
    pub cluster: &'s str,
    /// The `Host` that is sent.
    pub authority: &'s str,
    /// `http` or `https`.
    pub scheme: &'s str,
}

impl Tokens {
    pub(super) fn new(settings: &Settings, providers: Topic) -> Self {
        Self {
            may_be_shown: settings.protocol.is_none_or(|protocol| protocol.is_http()),
            named: BTreeSet::new(),
            since: 0,
            providers,
            entries: None,
            known: BTreeSet::new(),
            is_stale: false,
            key_sets: Vec::new(),
            last_id: 0,
            is_due: false,
            retired: 0,
            is_awaited: false,
            is_held: false,
        }
    }

    /// Whether a rule asks for a token.
    pub(super) fn are_asked_for(&self) -> bool {
        !self.named.is_empty()
    }

    /// Whether what a rule needs has been asked for and has not come yet, nor failed; for a
    /// while only.
    pub(super) const fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// As the document `mesh` has them; an empty list is none, because what nobody has said
    /// opens nothing, not even by a denial.
    pub(super) fn entries(&self) -> Option<&RawValue> {
        let entries = self.entries.as_deref().filter(|_| !self.is_stale);
        entries.filter(|entries| entries.get() != "[]")
    }

    /// These intentions are in force.
    pub(super) fn name(&mut self, intentions: &str, now: u64) {
        let named = match self.may_be_shown {
            true => jwt::named_by(intentions),
            false => BTreeSet::new(),
        };
        if !named.is_subset(&self.named) {
            self.since = now;
            self.is_awaited = true;
        }
        self.is_due |= named != self.named;
        self.named = named;
    }

    /// How many values there were.
    pub(super) fn number(&self) -> u64 {
        let key_sets = self.key_sets.iter().filter_map(|set| set.way.as_ref().ok());
        key_sets.fold(
            self.providers.number().saturating_add(self.retired),
            |sum, (_, topic)| sum.saturating_add(topic.number()),
        )
    }

    /// The topic of a key set.
    pub(super) fn key_topic(&mut self, id: u32) -> Option<&mut Topic> {
        let (_, topic) = self.key_set_mut(id)?.way.as_mut().ok()?;
        Some(topic)
    }

    fn key_set(&self, id: u32) -> Option<&KeySet> {
        self.key_sets.iter().find(|set| set.id == id)
    }

    fn key_set_mut(&mut self, id: u32) -> Option<&mut KeySet> {
        self.key_sets.iter_mut().find(|set| set.id == id)
    }

    /// Whether providers need not be asked for; whoever has led leaves nothing behind.
    pub(super) fn rest(&mut self, shelf: &impl Shelf, now: u64) -> bool {
        let rests = !self.are_asked_for();
        if rests {
            self.providers.rest(shelf, now, NOTHING);
        }
        rests
    }

    /// The questions about keys that are due.
    pub(super) fn due(
        &mut self,
        shelf: &impl Shelf,
        now: u64,
    ) -> Vec<(Asks, Result<HttpRequest, RequestError>)> {
        let mut places = self
            .key_sets
            .iter()
            .filter(|set| matches!(&set.way, Ok((_, topic)) if topic.is_under_way()))
            .count();
        let mut requests = Vec::new();
        for set in &mut self.key_sets {
            let Ok((way, topic)) = &mut set.way else {
                continue;
            };
            // Votes even where there is no place: who leads must stay it.
            if topic.due_if(shelf, now, places < AT_ONCE).is_none() {
                continue;
            }
            places = places.saturating_add(1);
            set.asked_at = now;
            let request = match way {
                Way::Server(server) => Ok(HttpRequest {
                    method: Method::Get,
                    path_and_query: server.path_and_query.clone(),
                    body: None,
                    headers: Vec::new(),
                    read_timeout_ms: set.source.timeout_ms,
                    max_reply: MAX_KEY_SET,
                }),
                Way::Relay => providers::relayed_keys(&set.source.provider, set.source.timeout_ms),
            };
            requests.push((Asks::Keys(set.id), request));
        }
        requests
    }

    /// Where a question about keys goes; `None` to the agent.
    pub(super) fn route(&self, id: u32) -> Option<Route<'_>> {
        let set = self.key_set(id)?;
        match &set.way {
            Ok((Way::Server(server), _)) => Some(Route {
                cluster: &server.cluster,
                authority: &server.authority,
                scheme: if server.is_https { "https" } else { "http" },
            }),
            _ => None,
        }
    }

    /// Whether this worker asks for these keys.
    pub(super) fn leads(&self, id: u32) -> bool {
        let set = self.key_set(id);
        set.is_some_and(|set| set.way.as_ref().is_ok_and(|(_, topic)| topic.leads()))
    }

    /// What is asked for, in words.
    pub(super) fn subject(&self, id: u32) -> Option<String> {
        let set = self.key_set(id)?;
        let place = set.source.place.bare();
        let relayed = match &set.way {
            Ok((Way::Relay, _)) => " by the relay",
            _ => "",
        };
        Some(format!(
            "keys of the provider `{}` from `{}`{relayed}",
            Excerpt::of(&set.source.provider),
            Excerpt::of(&place),
        ))
    }

    /// The failures, if this worker leads.
    pub(super) fn errors(&self) -> impl Iterator<Item = (Asks, &str)> {
        let leads = self.providers.leads();
        self.key_sets.iter().filter_map(move |set| {
            let error = match &set.way {
                Ok((_, topic)) => topic.last_error()?,
                Err(why) if leads => why,
                Err(_) => return None,
            };
            Some((Asks::Keys(set.id), error))
        })
    }

    /// A reply with providers, as it is published.
    pub(super) fn read_providers(reply: &HttpReply<'_>) -> Result<String, String> {
        let entries = providers::decode(reply).map_err(|error| error.to_string())?;
        Ok(providers::array(&entries))
    }

    /// A reply with keys: the provider's name, when they were asked for, and the keys.
    pub(super) fn read_keys<'r>(
        &mut self,
        id: u32,
        reply: &HttpReply<'r>,
    ) -> Result<(String, u64, &'r [u8]), String> {
        let set = self.key_set(id).ok_or("nobody asks for these keys")?;
        let is_relayed = matches!(&set.way, Ok((Way::Relay, _)));
        let body = match reply.status {
            200 => reply.ok(MAX_KEY_SET).map_err(|error| error.to_string())?,
            status @ 300..400 => {
                return Err(format!(
                    "it answers with a redirect ({status}), which is never followed"
                ));
            }
            status if is_relayed => {
                let text = excerpt_bytes(reply.body);
                return Err(format!("the relay answers {status}: {text}"));
            }
            status => return Err(format!("it answers with status {status}")),
        };
        if body.is_empty() {
            return Err("the answer is empty".to_owned());
        }
        Ok((set.source.provider.clone(), set.asked_at, body))
    }

    /// Takes over the providers that were published. Whether the document `mesh` or the keys
    /// to follow may change.
    pub(super) fn take_over_providers(
        &mut self,
        shelf: &impl Shelf,
        now: u64,
        budget: u64,
        ticked: &mut Ticked,
    ) -> bool {
        let mut has_changed = std::mem::take(&mut self.is_due);
        if !self.are_asked_for() {
            if self.providers.confirmed_at().is_some() {
                // The same list counts anew once somebody asks again.
                self.providers.forget();
            }
            return has_changed | self.entries.take().is_some();
        }
        match self.providers.take(shelf, now) {
            None => {}
            // Whoever has led does not ask any more, and we will be told why.
            Some(nothing) if nothing == NOTHING => self.providers.refused(),
            Some(value) => match read_list(value) {
                Ok(entries) => {
                    self.providers.accepted();
                    self.entries = Some(entries);
                    has_changed = true;
                }
                Err(error) => {
                    let problem = format!("jwt providers are refused: {error}");
                    ticked.problems.push(problem);
                    self.providers.refused();
                }
            },
        }
        let is_stale = self.providers.is_stale(now, budget);
        has_changed |= self.entries.is_some() && is_stale != self.is_stale;
        self.is_stale = is_stale;
        has_changed
    }

    /// Makes a topic of each key set that is wanted now. Gives the names of those that are not
    /// any more, whose keys are to be removed.
    pub(super) fn reconcile(
        &mut self,
        shelf: &impl Shelf,
        settings: &Settings,
        name: u64,
        now: u64,
    ) -> Vec<String> {
        let entries = self.entries.as_deref().map(RawValue::get);
        let entries: Vec<&RawValue> = entries
            .and_then(|entries| serde_json::from_str(entries).ok())
            .unwrap_or_default();
        let read = |raw: &&RawValue| Provider::decode(raw, &At::ROOT, &mut Vec::new()).ok();
        let known = entries.iter().filter_map(read);
        self.known = known.map(|provider| provider.name).collect();
        let mut wanted: Vec<Source> = Vec::new();
        for source in entries.into_iter().filter_map(Source::of) {
            let is_new = wanted.iter().all(|other| other.provider != source.provider);
            if self.named.contains(&source.provider) && is_new {
                wanted.push(source);
            }
        }
        let mut removed = Vec::new();
        let mut kept = Vec::new();
        for mut set in std::mem::take(&mut self.key_sets) {
            let same = wanted.iter().find(|source| {
                source.provider == set.source.provider && source.place == set.source.place
            });
            match same {
                // There may be room, or a way, by now.
                Some(_) if set.way.is_err() => {}
                Some(same) if *same == set.source => kept.push(set),
                Some(same) => {
                    // Other times: asked anew, and what is in force stays so long.
                    set.source = same.clone();
                    if let Ok((_, topic)) = &mut set.way {
                        topic.ask_otherwise(watch(&set.source, settings, name));
                    }
                    kept.push(set);
                }
                None => {
                    if let Ok((_, topic)) = &mut set.way {
                        topic.rest(shelf, now, NOTHING);
                        self.retired = self.retired.saturating_add(topic.number());
                    }
                    removed.push(set.source.provider);
                }
            }
        }
        for source in wanted {
            if kept
                .iter()
                .any(|set| set.source.provider == source.provider)
            {
                continue;
            }
            self.last_id = self.last_id.saturating_add(1);
            let way = if kept.len() >= MAX_KEY_SETS {
                Err(format!(
                    "the keys of more than {MAX_KEY_SETS} providers are not fetched"
                ))
            } else {
                way(&source, settings).map(|way| {
                    let topic = topic(&source, &way, settings, name);
                    (way, topic)
                })
            };
            kept.push(KeySet {
                id: self.last_id,
                source,
                way,
                is_loaded: false,
                is_stale: false,
                asked_at: now,
            });
        }
        self.key_sets = kept;
        removed
    }

    /// The key sets that were published: number, provider and keys.
    pub(super) fn take_keys(
        &mut self,
        shelf: &impl Shelf,
        now: u64,
    ) -> Vec<(u32, String, Vec<u8>)> {
        let mut taken = Vec::new();
        for set in &mut self.key_sets {
            let Ok((_, topic)) = &mut set.way else {
                continue;
            };
            match topic.take(shelf, now) {
                None => {}
                Some(nothing) if nothing == NOTHING => topic.refused(),
                Some(keys) => taken.push((set.id, set.source.provider.clone(), keys)),
            }
        }
        taken
    }

    /// Keys that were taken are in force, or cannot be used.
    pub(super) fn loaded(&mut self, id: u32, is_used: bool) {
        let Some(set) = self.key_set_mut(id) else {
            return;
        };
        if let Ok((_, topic)) = &mut set.way {
            if is_used {
                topic.accepted();
                set.is_loaded = true;
            } else {
                topic.refused();
            }
        }
    }

    /// Takes all keys over once more, for a policy that has none.
    pub(super) fn keys_again(&mut self) {
        for set in &mut self.key_sets {
            if let Ok((_, topic)) = &mut set.way {
                topic.again();
            }
        }
    }

    /// The keys that are in force, with the time of their last confirmation.
    pub(super) fn ages(&self) -> impl Iterator<Item = (&str, u64)> {
        self.key_sets
            .iter()
            .filter(|set| set.is_loaded)
            .filter_map(|set| {
                let (_, topic) = set.way.as_ref().ok()?;
                Some((set.source.provider.as_str(), topic.confirmed_at()?))
            })
    }

    /// How many of the providers that intentions name can have no good token: the entry is not
    /// there or not to be believed, or its keys are not.
    pub(super) fn lacking(&self) -> usize {
        let are_known = self.entries().is_some();
        let has_keys = |name: &String| {
            let set = self
                .key_sets
                .iter()
                .find(|set| set.source.provider == *name);
            set.is_none_or(|set| set.is_loaded && !set.is_stale)
        };
        let can = |name: &&String| are_known && self.known.contains(*name) && has_keys(name);
        let good = self.named.iter().filter(can).count();
        self.named.len().saturating_sub(good)
    }

    /// Notes what is stale and what is awaited. What lives is judged again where keys have
    /// become stale; a change of intentions waits so long for what it asks for.
    pub(super) fn settle(&mut self, now: u64, budget: u64, start_wait: u64, ticked: &mut Ticked) {
        for set in &mut self.key_sets {
            let Ok((_, topic)) = &set.way else { continue };
            let is_stale = set.is_loaded && topic.is_stale(now, budget);
            ticked.has_changed |= is_stale != set.is_stale;
            set.is_stale = is_stale;
        }
        let since = now.saturating_sub(self.since);
        let is_there =
            |topic: &Topic| topic.confirmed_at().is_some() || topic.last_error().is_some();
        self.is_awaited = self.is_awaited
            && self.are_asked_for()
            && since < start_wait.max(WAIT_MS)
            && !(is_there(&self.providers)
                && self.key_sets.iter().all(|set| match &set.way {
                    Ok((_, topic)) => is_there(topic),
                    Err(_) => true,
                }));
        if self.is_awaited && since < WAIT_MS {
            self.is_held |= std::mem::take(&mut ticked.has_changed);
        } else {
            ticked.has_changed |= std::mem::take(&mut self.is_held);
        }
    }
}

/// What was published, checked as a reply is.
fn read_list(value: Vec<u8>) -> Result<Box<RawValue>, String> {
    let reply = HttpReply {
        status: 200,
        headers: ReplyHeaders::default(),
        body: &value,
    };
    providers::decode(&reply).map_err(|error| error.to_string())?;
    let text = String::from_utf8(value).map_err(|error| error.to_string())?;
    RawValue::from_string(text).map_err(|error| error.to_string())
}

/// The way to keys.
fn way(source: &Source, settings: &Settings) -> Result<Way, String> {
    let relayed = settings.agent.jwks;
    match &source.place {
        Place::Remote(uri) => {
            let server = settings.jwks.iter().find(|server| server.uri == *uri);
            match server {
                Some(server) => Ok(Way::Server(server.clone())),
                None if relayed => Ok(Way::Relay),
                None => Err(
                    "no cluster is named for this URI: put it into `jwks` of the plugin configuration, or ask a relay that fetches keys (`agent.jwks`)".to_owned(),
                ),
            }
        }
        Place::File(_) if relayed => Ok(Way::Relay),
        Place::File(_) => {
            Err("Envoy's filter reads no files: ask a relay that does (`agent.jwks`)".to_owned())
        }
    }
}

fn topic(source: &Source, way: &Way, settings: &Settings, name: u64) -> Topic {
    let by = match way {
        Way::Server(server) => server.cluster.as_str(),
        Way::Relay => "",
    };
    let (kind, place) = match &source.place {
        Place::Remote(uri) => ("uri", uri),
        Place::File(path) => ("file", path),
    };
    let parts = [source.provider.as_str(), by, kind, place.as_str()];
    let digest = Digest::of(parts.join("\0").as_bytes());
    let service = settings.service.key();
    let what = format!("jwks/{service}/{digest}");
    Topic::new(&key(settings, &what), name, watch(source, settings, name))
}

fn watch(source: &Source, settings: &Settings, name: u64) -> WatchSettings {
    let every_ms = match settings.max_stale_ms {
        0 => source.every_ms,
        budget => source.every_ms.min((budget / 4).max(1)),
    };
    WatchSettings {
        mode: Mode::ShortPoll {
            wait_ms: 0,
            every_ms,
        },
        backoff_first_ms: source.retry_first_ms,
        backoff_max_ms: source.retry_longest_ms,
        seed: name,
        ..WatchSettings::default()
    }
}
