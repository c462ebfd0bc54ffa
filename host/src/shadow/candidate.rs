//! The candidate's policy: the live documents, with other intentions for our service.

use std::collections::BTreeSet;
use std::sync::Arc;

use portcullis_core::intention::{Decision, Destination};
use portcullis_core::policy::{Document, HeaderNeeds};
use portcullis_core::time::Timestamp;
use serde_json::{Map, Value, json};

use super::ShadowError;
use crate::decisions::Decided;
use crate::entries::Entries;
use crate::runtime::{Policy, PolicyOptions, aws_lc};

/// The document that all services share.
const MESH: &str = "mesh";

/// A policy that has been told the candidate, as of a live generation.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) policy: Policy,
    pub(super) live_generation: u64,
    pub(super) generation: u64,
    pub(super) needs: Arc<HeaderNeeds>,
}

/// A policy and what it has been told.
#[derive(Debug)]
pub(super) struct Told {
    policy: Policy,
    names: BTreeSet<String>,
    live_generation: u64,
    needs: Arc<HeaderNeeds>,
}

impl Told {
    /// To compare with.
    pub(super) fn candidate(&self) -> Candidate {
        Candidate {
            policy: self.policy.clone(),
            live_generation: self.live_generation,
            generation: self.policy.generation(),
            needs: Arc::clone(&self.needs),
        }
    }
}

impl Candidate {
    /// What it says of the same client and the same request.
    pub(super) fn ask(&self, service: &str, decided: &Decided<'_>) -> Decision {
        let request = match decided.request {
            None => None,
            Some(asked) => match asked.to_core(&self.needs) {
                Some(request) => Some(request),
                None => {
                    let code = portcullis_core::intention::Reason::BadRequest;
                    return Decision::denied(code, self.generation);
                }
            },
        };
        self.policy
            .authorize(service, decided.client, request.as_ref(), decided.now)
    }
}

/// Tells a policy the live documents with the candidate's intentions in place of those that
/// they replace; the one from before if it is by the same component.
pub(super) fn tell(
    live: &Policy,
    service: &str,
    candidate: &Entries,
    before: Option<Told>,
) -> Result<Told, ShadowError> {
    let target = Destination::parse(service).map_err(|error| unknown(&error))?;
    let (live_generation, _, documents) = live.in_force();
    let component = live.component();
    let sha256 = |policy: &Policy| policy.component().map(|component| component.sha256());
    let before = before.filter(|told| sha256(&told.policy) == sha256(live));
    let (policy, known) = match (before, &component) {
        (Some(told), _) => (told.policy, told.names),
        (None, Some(component)) => {
            let policy = Policy::new(component, PolicyOptions::default())?;
            (policy, BTreeSet::new())
        }
        (None, None) => (Policy::native(aws_lc()), BTreeSet::new()),
    };
    let own = target.document().to_ascii_lowercase();
    let mut changes = Vec::new();
    for document in documents {
        let body = document.body.unwrap_or_default();
        let body = match document.name.as_str() {
            MESH => mesh(&body, candidate)?,
            name if name == own => intentions(&body, &target, candidate)?,
            _ => body,
        };
        changes.push(Document {
            name: document.name,
            body: Some(body),
            confirmed_at: document.confirmed_at,
        });
    }
    let names: BTreeSet<String> = changes.iter().map(|change| change.name.clone()).collect();
    changes.extend(known.difference(&names).map(|gone| Document {
        name: gone.clone(),
        body: None,
        confirmed_at: Timestamp::default(),
    }));
    let report = policy.load(changes)?;
    for warning in report.warnings {
        tracing::debug!(?warning, "the candidate");
    }
    if let Some(refused) = report.refused.into_iter().next() {
        return Err(ShadowError::Refused {
            document: refused.document,
            pointer: refused.pointer,
            text: refused.text,
        });
    }
    let needs = Arc::new(policy.needed_headers(service));
    Ok(Told {
        policy,
        names,
        live_generation,
        needs,
    })
}

fn unknown(error: &dyn ToString) -> ShadowError {
    ShadowError::Live(error.to_string())
}

fn object(body: &[u8]) -> Result<Map<String, Value>, ShadowError> {
    serde_json::from_slice(body).map_err(|error| unknown(&error))
}

/// The mesh document: never stale, because staleness is the live policy's, and with the
/// candidate's normalisation and JWT providers where it has some.
fn mesh(body: &[u8], candidate: &Entries) -> Result<Vec<u8>, ShadowError> {
    let mut fields = object(body)?;
    fields.insert("max_stale_ms".to_owned(), json!(0));
    if let Some(told) = candidate.told_normalization() {
        fields.insert("request_normalization".to_owned(), json!(told));
    }
    let providers = candidate.providers();
    if !providers.is_empty() {
        let live = fields.remove("jwt_providers").unwrap_or_default();
        let mut all: Vec<Value> = live.as_array().cloned().unwrap_or_default();
        let name = |entry: &Value| entry.get("Name").cloned();
        all.retain(|one| providers.iter().all(|new| name(new) != name(one)));
        all.extend(providers);
        fields.insert("jwt_providers".to_owned(), all.into());
    }
    Ok(Value::Object(fields).to_string().into_bytes())
}

/// The service's document with the candidate's intentions over the live ones.
fn intentions(
    body: &[u8],
    target: &Destination,
    candidate: &Entries,
) -> Result<Vec<u8>, ShadowError> {
    let mut fields = object(body)?;
    let list = fields.remove("intentions").unwrap_or_default();
    let live = match list.is_null() {
        true => Entries::default(),
        false => Entries::from_json("the live intentions", &list.to_string())?,
    };
    let list = live.with(candidate, false).list(target);
    fields.insert("intentions".to_owned(), list);
    Ok(Value::Object(fields).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_core::intention::Effect;
    use portcullis_core::policy::Client;

    fn load(policy: &Policy, action: &str) {
        let list = json!([{
            "SourceName": "web", "DestinationName": "db", "Action": action, "Precedence": 9,
        }]);
        let mesh =
            json!({ "trust_domain": "t.consul", "default_policy": "deny", "max_stale_ms": 1 });
        let document = |name: &str, body: Value| Document {
            name: name.to_owned(),
            body: Some(body.to_string().into_bytes()),
            confirmed_at: Timestamp::from_millis(1_000),
        };
        let report = policy
            .load(vec![
                document("mesh", mesh),
                document(
                    "service/default/default/db",
                    json!({ "protocol": "tcp", "intentions": list }),
                ),
            ])
            .unwrap();
        assert!(report.refused.is_empty(), "{report:?}");
    }

    fn entry(source: &str, action: &str) -> Entries {
        let text = json!({
            "Kind": "service-intentions", "Name": "db",
            "Sources": [{ "Name": source, "Action": action }],
        });
        Entries::from_json("candidate", &text.to_string()).unwrap()
    }

    fn effect(told: &Told, source: &str) -> Effect {
        let client = Client::from_uri(format!("spiffe://t.consul/ns/default/dc/dc1/svc/{source}"));
        // Long after the live policy has gone stale.
        let now = Timestamp::from_millis(1_000_000);
        told.policy.authorize("db", &client, None, now).effect
    }

    #[test]
    fn it_is_the_live_policy_with_other_intentions_and_follows_it() {
        let live = Policy::native(aws_lc());
        load(&live, "allow");
        let other = entry("other", "allow");
        let told = tell(&live, "db", &other, None).unwrap();
        assert_eq!(effect(&told, "web"), Effect::Deny, "its entry is replaced");
        assert_eq!(effect(&told, "other"), Effect::Allow);
        assert_eq!(told.candidate().live_generation, live.generation());
        let reply = json!([{
            "SourceName": "other", "DestinationName": "db", "Action": "allow", "Precedence": 9,
        }]);
        let reply = Entries::from_json("a match reply", &reply.to_string()).unwrap();
        let told = tell(&live, "db", &reply, Some(told)).unwrap();
        assert_eq!(effect(&told, "web"), Effect::Deny, "a reply is the list");
        assert_eq!(effect(&told, "other"), Effect::Allow);
        let elsewhere = Entries::from_json(
            "candidate",
            r#"{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"web","Action":"deny"}]}"#,
        )
        .unwrap();
        let told = tell(&live, "db", &elsewhere, Some(told)).unwrap();
        assert_eq!(effect(&told, "web"), Effect::Allow, "another service's");
        load(&live, "deny");
        let told = tell(&live, "db", &elsewhere, Some(told)).unwrap();
        assert_eq!(effect(&told, "web"), Effect::Deny, "it follows");
        assert_eq!(told.candidate().live_generation, live.generation());
    }
}
