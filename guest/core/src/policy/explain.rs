//! How a decision came about: every intention on the way to the deciding one.

use super::judge::{self, Identified};
use super::mesh::{Home, Mesh};
use super::question::Client;
use super::recent::Recent;
use super::service::Service;
use super::trace::{Step, Trace};
use super::{Policy, explain_request};
use crate::http::{Request, RequestRef};
use crate::identity::{Excerpt, SpiffeId};
use crate::intention::pattern::Mismatch;
use crate::intention::{Caller, CallerOrigin, Decision, Destination, Intention, Matching, Reason};
use crate::time::Timestamp;

/// How many intentions are listed one by one.
const MAX_STEPS: usize = 1_000;

impl Policy {
    /// The decision of [`Policy::authorize`] for the same arguments, with the way to
    /// it. Leaves no trace: a moment in the future makes nothing stale.
    #[must_use]
    pub fn explain(
        &self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Trace {
        let key = Destination::parse(target).map(|destination| destination.key());
        let service = key.as_ref().ok().and_then(|key| self.services.get(key));
        let (Some(mesh), Some(service)) = (&self.mesh, service) else {
            let code = match (&key, &self.mesh) {
                (Err(_), _) => Reason::MalformedTarget,
                (Ok(_), None) => Reason::NotReady,
                (Ok(_), Some(_)) => Reason::UnknownTarget,
            };
            let notes = key
                .err()
                .map(|error| error.to_string())
                .into_iter()
                .collect();
            let client = self.mesh.as_ref().map(|mesh| judge::identify(mesh, client));
            return Trace {
                source: client.and_then(|read| read.map_or_else(|u| u.id, |i| Some(i.id))),
                notes,
                ..self.bare_trace(target, Decision::denied(code, self.generation))
            };
        };
        let request = request.map(RequestRef::from);
        let asked = judge::Asked {
            mesh,
            key_sets: &self.key_sets,
            service,
            client,
            request,
            now,
        };
        let judgement = judge::judge(&asked, &mut Recent::new());
        let decision = judgement.into_decision(self.generation);
        let mut trace = self.bare_trace(target, decision);
        note_age(mesh, service, now, &mut trace.notes);
        let request = request.filter(|_| service.protocol.is_http());
        match judge::identify_for(mesh, client, request) {
            Ok(identified) => {
                walk(mesh, service, &identified, &mut trace);
                trace.source = Some(identified.id);
                let was_asked = !matches!(
                    trace.decision.code,
                    Reason::Stale | Reason::PeerWithoutBundle | Reason::UnreadableRule
                );
                if let (Some(request), true) = (request, was_asked) {
                    let notes = explain_request::notes(&asked, request, &trace.decision);
                    trace.notes.extend(notes);
                }
            }
            Err(unidentified) => {
                trace.notes.extend(unidentified.note.map(str::to_owned));
                trace
                    .notes
                    .extend(unidentified.error.map(|error| error.to_string()));
                trace
                    .notes
                    .extend(unidentified.id.as_ref().and_then(|id| note_home(mesh, id)));
                trace.source = unidentified.id;
            }
        }
        trace
    }

    fn bare_trace(&self, target: &str, decision: Decision) -> Trace {
        let default_policy = match &self.mesh {
            None => "unknown".to_owned(),
            Some(Mesh {
                default_policy,
                default_policy_source: None,
                ..
            }) => default_policy.to_string(),
            Some(Mesh {
                default_policy,
                default_policy_source: Some(source),
                ..
            }) => {
                format!("{default_policy} ({source})")
            }
        };
        Trace {
            text: self.describe(target, &decision),
            decision,
            source: None,
            steps: Vec::new(),
            default_policy,
            notes: Vec::new(),
        }
    }
}

/// Lists the intentions up to the deciding one, if they were read at all.
fn walk(mesh: &Mesh, service: &Service, identified: &Identified<'_>, trace: &mut Trace) {
    let Some(caller) = identified.caller() else {
        return;
    };
    let decided = trace.decision.intention;
    let were_read = decided.is_some()
        || matches!(
            trace.decision.code,
            Reason::DefaultPolicy | Reason::DefaultPolicyUnknown
        );
    if !were_read {
        return;
    }
    let intentions = service.intentions.intentions();
    let last = decided.unwrap_or(u32::MAX);
    let mut left_out = 0_usize;
    for (index, intention) in (0_u32..=last).zip(intentions) {
        let is_last = Some(index) == decided;
        if trace.steps.len() >= MAX_STEPS && !is_last {
            left_out = left_out.saturating_add(1);
            continue;
        }
        let failed = if is_last {
            None
        } else {
            Some(why_not(intention, &caller, mesh.matching))
        };
        trace.steps.push(Step {
            intention: index,
            precedence: intention.precedence,
            rule: intention.to_string(),
            matched: is_last,
            failed,
        });
    }
    if left_out > 0 {
        trace.notes.push(format!(
            "{left_out} intentions that did not match are not listed"
        ));
    }
    if let Some(deciding) = decided.and_then(|index| service.intentions.get(index)) {
        note_case(deciding, &caller, &mut trace.notes);
        note_envoy(
            deciding,
            last,
            intentions,
            &caller,
            mesh.matching,
            &mut trace.notes,
        );
    }
}

/// Whether an intention covers a client: denials also in another case, if matching is strict.
fn mismatch(intention: &Intention, caller: &Caller<'_>, matching: Matching) -> Option<Mismatch> {
    let fold = matching == Matching::Strict && !intention.rule.only_allows();
    intention.source.first_mismatch(caller, fold)
}

fn why_not(intention: &Intention, caller: &Caller<'_>, matching: Matching) -> String {
    if !intention.covers_target {
        return "destination: the rule is about another service".to_owned();
    }
    let source = &intention.source;
    match mismatch(intention, caller, matching) {
        Some(Mismatch::Origin) => match caller.origin {
            CallerOrigin::Local(_) => "origin: the client is of this mesh".to_owned(),
            CallerOrigin::Peer(peer) => format!("origin: the client is of peer `{peer}`"),
        },
        Some(Mismatch::Partition) => match caller.origin {
            CallerOrigin::Local(partition) => format!("partition: the client's is `{partition}`"),
            CallerOrigin::Peer(_) => "partition".to_owned(),
        },
        Some(Mismatch::Namespace) => format!(
            "namespace: `{}` is not `{}`",
            Excerpt::of(caller.namespace),
            Excerpt::of(&source.namespace)
        ),
        Some(Mismatch::Name) => {
            format!(
                "name: `{}` is not `{}`",
                Excerpt::of(caller.name),
                Excerpt::of(&source.name)
            )
        }
        None => "order: another rule decided before any was considered".to_owned(),
    }
}

fn note_age(mesh: &Mesh, service: &Service, now: Timestamp, notes: &mut Vec<String>) {
    for (name, document) in [
        ("mesh", &mesh.freshness),
        ("the target", &service.freshness),
    ] {
        if document.is_stale(now, mesh.max_stale) {
            let age = document.age(now);
            let budget = mesh.max_stale;
            notes.push(format!(
                "the policy of {name} was confirmed {age} ms ago, the budget is {budget} ms"
            ));
        }
    }
}

fn note_home(mesh: &Mesh, id: &SpiffeId) -> Option<String> {
    let domain = id.trust_domain();
    match mesh.home(id) {
        Home::Foreign => Some(format!("`{domain}` is the trust domain of no loaded peer")),
        Home::OtherPartition => Some(format!(
            "`{domain}` is the trust domain of a peer, but the client's partition is not the one that it exports"
        )),
        Home::Local | Home::Peer(_) => Some(format!("the ID names: {}", id.kind().name())),
    }
}

/// A denial that covers the client only because case does not count.
fn note_case(deciding: &Intention, caller: &Caller<'_>, notes: &mut Vec<String>) {
    let differs = deciding.source.first_mismatch(caller, false).is_some();
    if differs && deciding.source.first_mismatch(caller, true).is_none() {
        notes.push("the client's name differs from the rule's source only in case, and strict matching lets a denial cover it".to_owned());
    }
}

/// Envoy, as Consul configures it, lets a later rule with a narrower source act.
fn note_envoy(
    deciding: &Intention,
    index: u32,
    intentions: &[Intention],
    caller: &Caller<'_>,
    matching: Matching,
    notes: &mut Vec<String>,
) {
    let after = usize::try_from(index)
        .unwrap_or(usize::MAX)
        .saturating_add(1);
    let wildcards = |rule: &Intention| {
        [&rule.source.namespace, &rule.source.name]
            .iter()
            .filter(|name| &****name == "*")
            .count()
    };
    let narrower = intentions.iter().skip(after).find(|rule| {
        rule.covers_target
            && wildcards(rule) < wildcards(deciding)
            && rule.rule.only_allows() != deciding.rule.only_allows()
            && mismatch(rule, caller, matching).is_none()
    });
    if let Some(rule) = narrower {
        notes.push(format!(
            "Envoy, as Consul configures it, lets `{rule}` act instead, because its source is narrower"
        ));
    }
}
