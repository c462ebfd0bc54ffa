//! Takes over replies: reads them, and loads what changed into the policy.

use std::collections::BTreeSet;

use portcullis_core::agent::default_policy::{self, Discovery};
use portcullis_core::agent::{AllowDeny, ReplyError, authorize, matches, peerings, roots};
use portcullis_core::policy::Document;
use portcullis_core::time::Timestamp;
use portcullis_core::watch::{Digest, Event, Position};
use serde_json::{Map, Value, json};

use super::{Mesh, query_name};
use crate::fetch::Reply;
use crate::thing::Moment;

impl Mesh {
    pub(super) fn take_roots(&mut self, now: Moment, result: Result<Reply, String>) {
        let read = result.and_then(|reply| {
            let read = roots::decode(&reply.as_reply()).map_err(|e| e.to_string())?;
            Ok((Position::of(&reply.as_reply()), read))
        });
        let (at, read) = match read {
            Ok(read) => read,
            Err(error) => return self.roots.failed(now, &error),
        };
        // The index and Consul's own indexes move without a change: they do not count.
        let digest = Digest::of(format!("{read:?}").as_bytes());
        match self.roots.good(now, &at, digest) {
            Event::Changed => {
                let before = self.known_roots.replace(read);
                if let Err(error) = self.load_mesh() {
                    self.known_roots = before;
                    self.roots.refused(now, &error);
                }
            }
            Event::Unchanged => self.touch("mesh", &[self.roots.current()]),
            Event::WentBack { .. } => {}
        }
    }

    pub(super) fn take_default(&mut self, now: Moment, result: Result<Reply, String>) {
        let read = result.map(|reply| authorize::decode(&reply.as_reply()));
        match read.map(|read| default_policy::from_probe(&read)) {
            Ok(Discovery::Known { policy, source }) => {
                let digest = Digest::of(format!("{policy:?}").as_bytes());
                self.default_policy.good(now, &Position::default(), digest);
                if self.known_default != Some((policy, source)) {
                    self.known_default = Some((policy, source));
                    if let Err(error) = self.load_mesh() {
                        self.default_policy.refused(now, &error);
                    }
                }
            }
            Ok(Discovery::Unknown { because } | Discovery::Refused { because }) => {
                self.default_policy.failed(now, &because)
            }
            Ok(Discovery::Probe) => {}
            Err(error) => self.default_policy.failed(now, &error),
        }
    }

    pub(super) fn take_peerings(&mut self, now: Moment, result: Result<Reply, String>) {
        let read = result.and_then(|reply| {
            let read = peerings::decode(&reply.as_reply()).map_err(|e| e.to_string())?;
            Ok((Position::of(&reply.as_reply()), read))
        });
        let (at, read) = match read {
            Ok(read) => read,
            Err(error) => return self.peerings.failed(now, &error),
        };
        // Heartbeats come and go while the roots stay.
        let digest = Digest::of(format!("{read:?}").as_bytes());
        if matches!(self.peerings.good(now, &at, digest), Event::WentBack { .. })
            || self.known_peerings == read
        {
            return;
        }
        let before = std::mem::replace(&mut self.known_peerings, read);
        if let Err(error) = self.load_mesh() {
            self.known_peerings = before;
            self.peerings.refused(now, &error);
        }
    }

    /// The bundles of the peers that intentions name, as the document has them.
    fn peers(&self) -> Map<String, Value> {
        let named = self.services.values().flat_map(|one| &one.named);
        let named: BTreeSet<String> = named.cloned().collect();
        let own = self.known_roots.as_ref();
        let own = own.map(|roots| roots.trust_domain.as_str());
        let usable = |name: &String| {
            let bundle = peerings::usable(name, &named, &self.known_peerings, own).ok()?;
            Some((name.clone(), bundle.document()))
        };
        named.iter().filter_map(usable).collect()
    }

    pub(super) fn take_service(&mut self, now: Moment, key: &str, result: Result<Reply, String>) {
        let Some(service) = self.services.get_mut(key) else {
            return;
        };
        let name = query_name(&service.destination);
        let reply = match result {
            Ok(reply) => reply,
            Err(error) => return service.thing.failed(now, &error),
        };
        let reply = reply.as_reply();
        let list = matches::decode(&reply, &[&name]).and_then(|matches| {
            matches.lists.into_iter().next().map_or_else(
                || {
                    Err(ReplyError::Missing {
                        field: name.clone(),
                    })
                },
                |(_, list)| list,
            )
        });
        let list = match list {
            Ok(list) => list,
            Err(error) => return service.thing.failed(now, &error.to_string()),
        };
        let document = service.destination.document();
        match service.thing.good(now, &Position::of(&reply), list.digest) {
            Event::Changed => {
                let body = format!(r#"{{"protocol":"tcp","intentions":{}}}"#, list.json);
                let confirmed = service.thing.current();
                let named = peerings::named_by(list.json);
                let loaded = self.load(document, body.into_bytes(), confirmed);
                let Some(service) = self.services.get_mut(key) else {
                    return;
                };
                match loaded {
                    Err(error) => service.thing.refused(now, &error),
                    Ok(()) if service.named != named => {
                        service.named = named;
                        // What was loaded a moment ago loads again, with other peers.
                        let _ = self.load_mesh();
                    }
                    Ok(()) => {}
                }
            }
            Event::Unchanged => {
                let confirmed = service.thing.current();
                self.touch(&document, &[confirmed]);
            }
            Event::WentBack { .. } => {}
        }
    }

    pub(super) fn load_mesh(&mut self) -> Result<(), String> {
        let Some(roots) = &self.known_roots else {
            return Ok(());
        };
        let (default, source) = match self.known_default {
            Some((AllowDeny::Allow, source)) => ("allow", source),
            Some((AllowDeny::Deny, source)) => ("deny", source),
            None => ("unknown", "auto"),
        };
        let body = json!({
            "trust_domain": roots.trust_domain,
            "roots": roots.pems().collect::<Vec<_>>(),
            "default_policy": default,
            "default_policy_source": source,
            "matching": if self.settings.envoy_matching { "envoy" } else { "strict" },
            "max_stale_ms": self.settings.max_stale,
            "peers": self.peers(),
        });
        self.load(
            "mesh".to_owned(),
            body.to_string().into_bytes(),
            self.roots.current(),
        )
    }

    pub(super) fn load(
        &mut self,
        name: String,
        body: Vec<u8>,
        at: Option<Moment>,
    ) -> Result<(), String> {
        self.generation = self.generation.saturating_add(1);
        let confirmed_at = Timestamp::from_millis(at.map_or(0, |at| at.wall));
        let document = Document {
            name,
            body: Some(body),
            confirmed_at,
        };
        match self
            .policy
            .load(self.generation, vec![document])
            .refused
            .first()
        {
            Some(refused) => Err(format!("`{}` {}", refused.pointer, refused.text)),
            None => Ok(()),
        }
    }

    pub(super) fn touch(&mut self, name: &str, at: &[Option<Moment>]) {
        for at in at.iter().flatten() {
            self.policy
                .touch(&[name.to_owned()], Timestamp::from_millis(at.wall));
        }
    }
}
