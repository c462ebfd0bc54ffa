//! The compiled intentions of one destination.

use std::collections::HashMap;

use super::decode;
use super::error::{DecodeError, Problem};
use super::json;
use super::matcher::Permissions;
use super::model::{Intention, Rule};
use super::pattern::{
    Caller, CallerOrigin, Destination, KeyParts, Origin, OriginPart, Source, SourceKey, WILDCARD,
};
use super::permission::Permission;
use super::{Action, Protocol};
use crate::words::WordHash;

/// How names are compared, and requests that can be read in two ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Matching {
    /// An allow must hold in every reading and a denial in any: a denial also covers
    /// ASCII case variants of its source.
    #[default]
    Strict,
    /// As Envoy does: compared exactly.
    Envoy,
}

impl Matching {
    /// The stable name: `strict` or `envoy`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Envoy => "envoy",
        }
    }
}

/// Only operators write its keys, so nobody can make them collide.
#[derive(Clone, Debug, Default)]
struct Index {
    places: HashMap<Source, u32, WordHash>,
    /// Which forms of names it has, so that others are not looked for: a name in a
    /// namespace, every name of one, and every name.
    forms: [bool; 3],
}

impl Index {
    /// Adds a source, unless it has a place already.
    fn add(&mut self, source: Source, place: u32) {
        let [named, of_namespace, any] = &mut self.forms;
        match (&*source.namespace, &*source.name) {
            (WILDCARD, WILDCARD) => *any = true,
            (_, WILDCARD) => *of_namespace = true,
            _ => *named = true,
        }
        self.places.entry(source).or_insert(place);
    }

    /// The first place of a source that covers the caller.
    fn first(&self, origin: OriginPart<'_>, caller: &Caller<'_>) -> Option<u32> {
        let names = [
            (caller.namespace, caller.name),
            (caller.namespace, WILDCARD),
            (WILDCARD, WILDCARD),
        ];
        names
            .into_iter()
            .zip(self.forms)
            .filter(|(_, is_there)| *is_there)
            .filter_map(|((namespace, name), _)| {
                let key: &dyn SourceKey = &KeyParts {
                    origin,
                    namespace,
                    name,
                };
                self.places.get(key).copied()
            })
            .min()
    }
}

/// The intentions of one destination, in the order in which they are considered.
///
/// A look-up probes an index a constant number of times, however many there are.
#[derive(Clone, Debug, Default)]
pub struct IntentionSet {
    intentions: Vec<Intention>,
    /// The permissions of each intention that has some, compiled.
    permissions: Vec<Option<Permissions>>,
    /// For each source the first intention that has it.
    exact: Index,
    /// The same in lower case, for those that deny.
    folded: Index,
    /// Whether a denying source has an upper-case letter; if not, a client without
    /// one finds in `exact` whatever is in `folded`.
    cased: bool,
    /// Whether a source comes from anywhere, which only unreadable ones do.
    anywhere: bool,
}

impl IntentionSet {
    /// Reads the list that the match reply has for `target`: an array in any order,
    /// or `null` for none. A rule that cannot be read denies whatever reaches it and
    /// is among the problems.
    ///
    /// # Errors
    /// If the text cannot be read as such a list, or is too large.
    pub fn decode(json: &[u8], target: &Destination) -> Result<(Self, Vec<Problem>), DecodeError> {
        if json.len() > decode::MAX_LIST {
            return Err(DecodeError::TooLarge {
                limit: decode::MAX_LIST,
            });
        }
        Self::decode_raw(json::document(json).map_err(DecodeError::Syntax)?, target)
    }

    pub(crate) fn decode_raw(
        raw: &serde_json::value::RawValue,
        target: &Destination,
    ) -> Result<(Self, Vec<Problem>), DecodeError> {
        let (intentions, problems) = decode::list(raw, target)?;
        Ok((Self::compile(intentions), problems))
    }

    fn compile(intentions: Vec<Intention>) -> Self {
        let mut set = Self::default();
        for (index, intention) in (0_u32..).zip(&intentions) {
            if !intention.covers_target {
                continue;
            }
            let source = &intention.source;
            set.anywhere |= source.origin == Origin::Anywhere;
            set.exact.add(source.clone(), index);
            if !intention.rule.only_allows() {
                let folded = source.folded();
                set.cased |= folded != *source;
                set.folded.add(folded, index);
            }
        }
        set.permissions = intentions
            .iter()
            .map(|intention| match &intention.rule {
                Rule::Requests { permissions, .. } if intention.covers_target => {
                    Some(Permissions::compile(permissions))
                }
                _ => None,
            })
            .collect();
        set.intentions = intentions;
        set
    }

    /// The intentions, highest precedence first. Places in a decision count from here.
    #[must_use]
    pub fn intentions(&self) -> &[Intention] {
        &self.intentions
    }

    /// The intention at a place.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&Intention> {
        self.intentions.get(usize::try_from(index).ok()?)
    }

    /// The compiled permissions of the intention at a place.
    pub(crate) fn permissions(&self, index: u32) -> Option<&Permissions> {
        self.permissions.get(usize::try_from(index).ok()?)?.as_ref()
    }

    /// The first intention that covers the caller, and its place.
    #[must_use]
    pub fn find(&self, caller: &Caller<'_>, matching: Matching) -> Option<(u32, &Intention)> {
        let exact = self.probe(&self.exact, caller);
        let index = match matching {
            Matching::Envoy => exact,
            Matching::Strict => first(exact, self.probe_folded(caller)),
        }?;
        Some((index, self.get(index)?))
    }

    /// The next intention after a place that covers the caller. Slower than [`Self::find`].
    pub(super) fn find_after(
        &self,
        place: u32,
        caller: &Caller<'_>,
        matching: Matching,
    ) -> Option<(u32, &Intention)> {
        (0_u32..)
            .zip(&self.intentions)
            .skip_while(|(index, _)| *index <= place)
            .find(|(_, intention)| intention.covers(caller, matching))
    }

    fn probe_folded(&self, caller: &Caller<'_>) -> Option<u32> {
        if self.folded.places.is_empty() {
            return None;
        }
        let partition = match caller.origin {
            CallerOrigin::Local(partition) => partition,
            CallerOrigin::Peer(_) => "",
        };
        let upper = |text: &str| text.bytes().any(|b| b.is_ascii_uppercase());
        let cased = upper(caller.name) || upper(caller.namespace) || upper(partition);
        if !cased && !self.cased {
            return None;
        }
        let [partition, namespace, name] =
            [partition, caller.namespace, caller.name].map(str::to_ascii_lowercase);
        let origin = match caller.origin {
            CallerOrigin::Local(_) => CallerOrigin::Local(&partition),
            peer @ CallerOrigin::Peer(_) => peer,
        };
        self.probe(
            &self.folded,
            &Caller {
                origin,
                namespace: &namespace,
                name: &name,
            },
        )
    }

    fn probe(&self, index: &Index, caller: &Caller<'_>) -> Option<u32> {
        let origin = match caller.origin {
            CallerOrigin::Local(partition) => OriginPart::Local(partition),
            CallerOrigin::Peer(peer) => OriginPart::Peer(peer),
        };
        let known = index.first(origin, caller);
        if self.anywhere {
            first(known, index.first(OriginPart::Anywhere, caller))
        } else {
            known
        }
    }

    /// The first intention that denies a peer which `is_loaded` does not know.
    pub(crate) fn first_orphan_denial(
        &self,
        protocol: Protocol,
        is_loaded: impl Fn(&str) -> bool,
    ) -> Option<u32> {
        (0_u32..)
            .zip(&self.intentions)
            .find_map(|(index, intention)| {
                let Origin::Peer(peer) = &intention.source.origin else {
                    return None;
                };
                let counts = intention.covers_target
                    && !is_loaded(peer)
                    && may_deny(&intention.rule, protocol);
                counts.then_some(index)
            })
    }
}

fn first(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Whether a rule refuses anything on a target of this protocol.
fn may_deny(rule: &Rule, protocol: Protocol) -> bool {
    match rule {
        Rule::Connection { action, .. } => *action == Action::Deny,
        Rule::Requests { permissions, .. } => {
            let denies = |permission: &Permission| permission.action == Action::Deny;
            !protocol.is_http() || permissions.iter().any(denies)
        }
        Rule::Unreadable { .. } => true,
    }
}
