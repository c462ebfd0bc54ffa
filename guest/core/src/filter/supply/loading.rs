//! What was published is loaded into the policies.

use serde_json::value::RawValue;

use super::documents::{
    PublishedRoots, in_words, keys_document, mesh_document, published_default, service_document,
};
use super::{Layer, Supply, Ticked};
use crate::chain;
use crate::filter::Shelf;
use crate::filter::topic::Topic;
use crate::intention::Protocol;
use crate::policy::{Document, Policy};
use crate::time::Timestamp;

impl Supply {
    /// Loads what was published.
    pub(super) fn take_over(&mut self, shelf: &impl Shelf, now: u64, ticked: &mut Ticked) {
        let mut mesh_changed = self.take_over_roots(shelf, now, ticked);
        mesh_changed |= self.take_over_default(shelf, now);
        if let Some(topic) = &mut self.mesh_entry
            && let Some(value) = topic.take(shelf, now)
        {
            let raw = String::from_utf8(value)
                .ok()
                .and_then(|json| RawValue::from_string(json).ok());
            match raw {
                Some(raw) => {
                    topic.accepted();
                    self.known_normalization = Some(raw).filter(|raw| raw.get() != "null");
                    mesh_changed = true;
                }
                None => topic.refused(),
            }
        }
        self.take_over_intentions(shelf, now);
        let own = self.known_roots.as_ref();
        let own = own.map(|roots| roots.trust_domain.as_str());
        let budget = self.settings.max_stale_ms;
        if self.peers.take_over(shelf, now, budget, own, ticked) {
            self.anchors = self.anchors.saturating_add(1);
            mesh_changed = true;
        }
        if mesh_changed {
            self.load_mesh(ticked);
        }
        if let Some(list) = self.peers.released(now) {
            self.load_intentions(&list, now, ticked);
        }
        self.take_over_tokens(shelf, now, ticked);
    }

    /// Whether the default policy is another now: one that is too old is not known any more.
    fn take_over_default(&mut self, shelf: &impl Shelf, now: u64) -> bool {
        let Some(topic) = &mut self.default_policy else {
            return false;
        };
        if let Some(value) = topic.take(shelf, now) {
            topic.accepted();
            self.published_default = published_default(&value);
        }
        let is_stale = topic.is_stale(now, self.settings.max_stale_ms);
        let known = self.published_default.clone().filter(|_| !is_stale);
        let is_other = known != self.known_default;
        self.known_default = known;
        is_other
    }

    /// A new list waits for the bundles of the peers that it names.
    fn take_over_intentions(&mut self, shelf: &impl Shelf, now: u64) {
        if let Some(list) = self.intentions.take(shelf, now) {
            match String::from_utf8(list) {
                Ok(list) => self.peers.hold(list, now),
                Err(_) => self.intentions.refused(),
            }
        }
    }

    /// Loads the providers of tokens and their keys.
    fn take_over_tokens(&mut self, shelf: &impl Shelf, now: u64, ticked: &mut Ticked) {
        let budget = self.settings.max_stale_ms;
        if self.tokens.take_over_providers(shelf, now, budget, ticked) {
            self.load_mesh(ticked);
            let removed = self.tokens.reconcile(shelf, &self.settings, self.name, now);
            for provider in removed {
                self.load(keys_document(&provider), &|_| None, ticked);
            }
        }
        for (id, provider, keys) in self.tokens.take_keys(shelf, now) {
            let body = |_| Some(keys.clone());
            let is_used = self.load(keys_document(&provider), &body, ticked);
            self.tokens.loaded(id, is_used);
        }
        let start_wait = self.settings.start_wait_ms;
        self.tokens.settle(now, budget, start_wait, ticked);
    }

    fn take_over_roots(&mut self, shelf: &impl Shelf, now: u64, ticked: &mut Ticked) -> bool {
        let Some(value) = self.roots.take(shelf, now) else {
            return false;
        };
        let read = serde_json::from_slice::<PublishedRoots>(&value)
            .map_err(|error| error.to_string())
            .and_then(|roots| self.check_trust_domain(&roots).map(|()| roots));
        match read {
            Ok(roots) => {
                self.roots.accepted();
                self.known_roots = Some(roots);
                self.anchors = self.anchors.saturating_add(1);
                true
            }
            Err(error) => {
                ticked.problems.push(format!("roots are refused: {error}"));
                self.roots.refused();
                self.is_mesh_refused = false;
                false
            }
        }
    }

    /// Loads the document `mesh` into every policy.
    fn load_mesh(&mut self, ticked: &mut Ticked) {
        let Some(roots) = &self.known_roots else {
            return;
        };
        let default = self
            .known_default
            .as_ref()
            .map(|(policy, source)| (*policy, source.as_str()));
        let document = mesh_document(
            &self.settings,
            roots,
            default,
            self.known_normalization.as_deref(),
            self.peers.documents(),
            self.tokens.entries(),
        );
        match document {
            Ok(body) => {
                if !self.load("mesh".to_owned(), &|_| Some(body.clone()), ticked) {
                    self.roots.refused();
                    self.is_mesh_refused = true;
                } else if std::mem::take(&mut self.is_mesh_refused) {
                    // It was something else in the document.
                    self.roots.accepted();
                }
            }
            Err(error) => ticked.problems.push(error),
        }
    }

    fn load_intentions(&mut self, list: &str, now: u64, ticked: &mut Ticked) {
        let body = |protocol| Some(service_document(protocol, list));
        if self.load(self.settings.service.document(), &body, ticked) {
            self.intentions.accepted();
            self.peers.loaded();
            self.tokens.name(list, now);
        } else {
            self.intentions.refused();
        }
    }

    /// Loads one document into every policy; whether all took it.
    fn load(
        &mut self,
        name: String,
        body: &dyn Fn(Protocol) -> Option<Vec<u8>>,
        ticked: &mut Ticked,
    ) -> bool {
        self.generation = self.generation.saturating_add(1);
        let mut is_taken = true;
        for (protocol, policy) in &mut self.policies {
            let document = Document {
                name: name.clone(),
                body: body(*protocol),
                confirmed_at: Timestamp::from_millis(0),
            };
            let report = policy.load(self.generation, vec![document]);
            is_taken &= report.refused.is_empty();
            for problem in report.refused.iter().chain(&report.warnings) {
                ticked.problems.push(in_words(problem));
            }
        }
        ticked.has_changed |= is_taken;
        is_taken
    }

    /// Tells the policies how old their documents are.
    pub(super) fn touch(&mut self, now: u64, wall: Timestamp) {
        let at = |topic: &Topic| {
            let age = now.saturating_sub(topic.confirmed_at()?);
            Some(wall.saturating_sub_millis(age))
        };
        let mesh = at(&self.roots);
        let service = at(&self.intentions);
        let name = self.settings.service.document();
        for (_, policy) in &mut self.policies {
            if let Some(at) = mesh {
                policy.touch(&["mesh".to_owned()], at);
            }
            if let Some(at) = service {
                policy.touch(std::slice::from_ref(&name), at);
            }
            for (provider, confirmed_at) in self.tokens.ages() {
                let at = wall.saturating_sub_millis(now.saturating_sub(confirmed_at));
                policy.touch(&[keys_document(provider)], at);
            }
        }
    }

    /// Whether the policy of a layer is loaded, so that [`Supply::authorize`] needs no time but
    /// that of certificates.
    #[must_use]
    pub fn is_prepared(&self, layer: Layer) -> bool {
        let protocol = self.protocol(layer);
        self.policies.iter().any(|(known, _)| *known == protocol)
    }

    /// The policy of a layer; made when it is first asked for, as only the filter's first
    /// connection tells where it stands.
    pub(super) fn prepare(&mut self, shelf: &impl Shelf, layer: Layer, now: u64, wall: Timestamp) {
        if self.is_prepared(layer) {
            return;
        }
        let protocol = self.protocol(layer);
        self.policies
            .push((protocol, Policy::new(chain::rustcrypto())));
        let mut ticked = std::mem::take(&mut self.pending);
        self.load_mesh(&mut ticked);
        self.intentions.again();
        self.peers.hurry();
        self.tokens.keys_again();
        self.take_over(shelf, now, &mut ticked);
        self.touch(now, wall);
        self.pending = ticked;
    }
}
