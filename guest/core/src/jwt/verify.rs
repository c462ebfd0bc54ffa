//! Whether a request meets a JWT requirement.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;

use super::MAX_SIGNATURES;
use super::jwks::Jwks;
use super::locate::Presented;
use super::locate::without_parameter;
use super::provider::{KeySource, Location, Provider};
use super::token::{self, Accepted, Stopped, TokenError};
use crate::intention::{Action, Claim, HeaderChange, Jwt, Matching, Tokens};
use crate::time::Timestamp;

/// All providers of a mesh, and the keys that the host has handed in.
#[derive(Clone, Debug, Default)]
pub struct Providers {
    /// `None` for an entry that could not be read.
    providers: BTreeMap<String, Option<Provider>>,
    /// Nobody has said which others there are.
    are_unknown: bool,
}

impl Providers {
    /// Nobody has said which there are: nothing can be said about their tokens.
    pub(crate) fn unknown() -> Self {
        Self {
            are_unknown: true,
            ..Self::default()
        }
    }

    /// Adds an entry; `None` for one that could not be read.
    pub(crate) fn insert(&mut self, name: String, provider: Option<Provider>) {
        // Two entries of one name are no entry that can be read.
        let is_known = self.providers.contains_key(&name);
        self.providers.insert(name, provider.filter(|_| !is_known));
    }

    /// There is an entry whose name cannot be read: whatever is not listed may be it.
    pub(crate) fn doubt(&mut self) {
        self.are_unknown = true;
    }

    /// Whether there is an entry of this name, readable or not.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.providers.contains_key(name)
    }

    /// The headers that only a verified token may set, in lower case.
    pub(crate) fn payload_headers(&self) -> impl Iterator<Item = String> {
        self.iter()
            .filter_map(|provider| provider.forwarding.as_ref())
            .map(|forwarding| forwarding.header.to_ascii_lowercase())
    }

    /// Every provider that could be read.
    pub fn iter(&self) -> impl Iterator<Item = &Provider> {
        self.providers.values().flatten()
    }
}

/// Why nothing can be said about a provider's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unverifiable {
    /// Nobody has said which providers there are.
    NotLoaded,
    /// Its config entry cannot be read.
    Unreadable,
    /// Its keys have not been handed in, or are beyond the staleness budget.
    NoKeys,
    /// The request carries more tokens than are verified for one.
    TooMany,
}

/// How a request stands with a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is no such provider.
    Unknown,
    /// It carries no token for it.
    Absent,
    /// It carries one that is not valid.
    Invalid(TokenError),
    /// It cannot be said: an allow does not hold then, and a denial does.
    Unverifiable(Unverifiable),
    /// It carries a valid one; whether by the strict rules as well.
    Valid {
        /// Whether also by the strict rules.
        strictly: bool,
    },
}

/// The tokens of one request, verified when first asked for, each once.
pub struct Verifier<'p, 'r> {
    request: Presented<'r>,
    now: u64,
    matching: Matching,
    checks: Cell<u32>,
    entries: BTreeMap<&'p str, Entry<'p>>,
    are_unknown: bool,
}

struct Entry<'p> {
    provider: Option<&'p Provider>,
    keys: Option<&'p Jwks>,
    judged: OnceCell<(Standing, Option<Accepted>)>,
}

impl<'p, 'r> Verifier<'p, 'r> {
    /// The tokens of a request. `fetched` gives the keys that the host has handed in
    /// for a provider, if they are fresh.
    pub fn new(
        providers: &'p Providers,
        fetched: impl Fn(&str) -> Option<&'p Jwks>,
        request: Presented<'r>,
        now: Timestamp,
        matching: Matching,
    ) -> Self {
        let entry = |(name, provider): (&'p String, &'p Option<Provider>)| {
            let provider = provider.as_ref();
            let keys = match provider.map(|provider| &provider.keys) {
                Some(KeySource::Inline(keys)) => Some(keys),
                Some(KeySource::File(_) | KeySource::Remote(_)) => fetched(name),
                None => None,
            };
            let entry = Entry {
                provider,
                keys,
                judged: OnceCell::new(),
            };
            (name.as_str(), entry)
        };
        Self {
            request,
            now: now.as_millis() / 1_000,
            matching,
            checks: Cell::new(MAX_SIGNATURES),
            entries: providers.providers.iter().map(entry).collect(),
            are_unknown: providers.are_unknown,
        }
    }

    /// How the request stands with a provider.
    #[must_use]
    pub fn standing(&self, provider: &str) -> Standing {
        match self.judged(provider) {
            Some((standing, _)) => standing.clone(),
            None if self.are_unknown => Standing::Unverifiable(Unverifiable::NotLoaded),
            None => Standing::Unknown,
        }
    }

    /// What valid tokens of a provider change in the request that goes upstream: they are
    /// taken out where nothing says that the application sees them, and their payload
    /// goes into the header that the provider names.
    ///
    /// Cookies stay, as in Envoy.
    pub(crate) fn use_up(
        &self,
        provider: &str,
        path: &mut Option<Vec<u8>>,
        changes: &mut Vec<HeaderChange>,
    ) {
        let judged = self.judged(provider);
        let Some((Standing::Valid { strictly }, Some(accepted))) = judged else {
            return;
        };
        let entry = self.entries.get(provider).and_then(|entry| entry.provider);
        let Some(provider) = entry else { return };
        for location in &provider.locations {
            match location {
                Location::Header {
                    name,
                    forward: false,
                    ..
                } if self.request.has(name) => set(changes, name, None),
                Location::Query { name } => {
                    let now = path.as_deref().unwrap_or(self.request.path);
                    if let Some(without) = without_parameter(now, name) {
                        *path = Some(without);
                    }
                }
                Location::Header { .. } | Location::Cookie { .. } => {}
            }
        }
        let is_trusted = *strictly || self.matching == Matching::Envoy;
        if let (Some(forwarding), true) = (&provider.forwarding, is_trusted) {
            let mut payload = accepted.payload.clone();
            while forwarding.pad && payload.len() % 4 != 0 {
                payload.push('=');
            }
            set(changes, &forwarding.header, Some(payload.into_bytes()));
        }
    }

    /// Whether a claim of the provider's valid token is what it must be; `None` without one.
    pub(crate) fn says(&self, provider: &str, claim: &Claim) -> Option<bool> {
        match self.judged(provider)? {
            (Standing::Valid { .. }, Some(accepted)) => {
                Some(accepted.claims.says(&claim.path, &claim.value))
            }
            _ => None,
        }
    }

    fn judged(&self, provider: &str) -> Option<&(Standing, Option<Accepted>)> {
        let entry = self.entries.get(provider)?;
        Some(entry.judged.get_or_init(|| self.judge(entry)))
    }

    fn judge(&self, entry: &Entry<'p>) -> (Standing, Option<Accepted>) {
        let unverifiable = |why| (Standing::Unverifiable(why), None);
        let Some(provider) = entry.provider else {
            return unverifiable(Unverifiable::Unreadable);
        };
        let found = self.request.tokens(provider);
        if found.tokens.is_empty() {
            return (Standing::Absent, None);
        }
        let Some(keys) = entry.keys else {
            return unverifiable(Unverifiable::NoKeys);
        };
        let mut last = None;
        // To Envoy all of them must be valid, and the last one speaks.
        for token in &found.tokens {
            let mut checks = self.checks.get();
            let verified = token::verify(token, provider, keys, self.now, &mut checks);
            self.checks.set(checks);
            match verified {
                Ok(accepted) => last = Some(accepted),
                Err(Stopped::Invalid(error)) => return (Standing::Invalid(error), None),
                Err(Stopped::Spent) => return unverifiable(Unverifiable::TooMany),
            }
        }
        let strictly = found.is_single && last.as_ref().is_some_and(|last| last.is_strict);
        (Standing::Valid { strictly }, last)
    }
}

impl Tokens for Verifier<'_, '_> {
    /// Whether a valid token of one of the providers says all that is asked for.
    ///
    /// For an allow by strict matching it must be valid strictly. Where nothing can be
    /// said because something is missing on our side, a denial holds and an allow does not.
    fn is_met(&self, requirement: &Jwt, action: Action) -> bool {
        requirement.providers.iter().any(|wanted| {
            let Some((standing, accepted)) = self.judged(&wanted.name) else {
                return self.are_unknown && action == Action::Deny;
            };
            match (standing, accepted) {
                (Standing::Unverifiable(_), _) => action == Action::Deny,
                (Standing::Valid { strictly }, Some(accepted)) => {
                    let is_lenient = action == Action::Deny || self.matching == Matching::Envoy;
                    let says = |claim: &Claim| accepted.claims.says(&claim.path, &claim.value);
                    (*strictly || is_lenient) && wanted.claims.iter().all(says)
                }
                _ => false,
            }
        })
    }
}

/// The last change of a header counts.
fn set(changes: &mut Vec<HeaderChange>, name: &str, value: Option<Vec<u8>>) {
    let name = name.to_ascii_lowercase();
    match changes.iter_mut().find(|change| change.name == name) {
        Some(change) if value.is_some() => change.value = value,
        Some(_) => {}
        None => changes.push(HeaderChange { name, value }),
    }
}
