//! JWT providers of the mesh, and the key sets that the host hands in for them.

use std::cell::OnceCell;
use std::collections::HashMap;

use super::Policy;
use super::document::LoadProblem;
use super::freshness::Freshness;
use super::mesh::Mesh;
use super::reading::{MAX_DOCUMENT, Refused};
use crate::http::Prepared;
use crate::identity::Excerpt;
use crate::intention::json::{self, At, Fields};
use crate::intention::{Action, HeaderChange, Jwt, Rule, Tokens};
use crate::jwt::{Jwks, Presented, Provider, Providers, Verifier};
use crate::time::Timestamp;
use crate::words::WordHash;

/// What the names of such documents begin with; the provider's name follows.
pub(super) const PREFIX: &str = "jwks/";

/// The keys of one provider, as the host fetched or read them.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Jwks,
    pub(super) freshness: Freshness,
}

impl KeySet {
    /// Reads the document's body: a key set as RFC 7517 has it.
    pub(super) fn read(
        document: &str,
        body: &[u8],
        confirmed_at: Timestamp,
        warnings: &mut Vec<LoadProblem>,
    ) -> Result<Self, Refused> {
        let refused = |text: String| Refused {
            pointer: String::new(),
            text,
        };
        if body.len() > MAX_DOCUMENT {
            let text = format!("the document is longer than {MAX_DOCUMENT} bytes");
            return Err(refused(text));
        }
        let keys = Jwks::parse(body).map_err(|error| refused(error.to_string()))?;
        warnings.extend(keys.problems().iter().map(|problem| LoadProblem {
            document: Excerpt::of(document).to_string(),
            pointer: "/keys".to_owned(),
            text: problem.clone(),
        }));
        Ok(Self {
            keys,
            freshness: Freshness::confirmed(confirmed_at),
        })
    }
}

/// Takes `jwt_providers` out of the mesh document; without the field nobody knows them. An entry that cannot be read is
/// kept by its name: it satisfies nothing, and nobody takes it for one that is missing.
pub(super) fn read_providers(
    fields: &mut Fields<'_>,
    at: &At<'_>,
    warn: &mut impl FnMut(String, String),
) -> Result<Providers, Refused> {
    let list = at.key("jwt_providers");
    let Some(raw) = fields.take("jwt_providers", at)? else {
        return Ok(Providers::unknown());
    };
    let mut providers = Providers::default();
    for (i, raw) in json::items(raw, &list)?.into_iter().enumerate() {
        let at = list.index(i);
        Fields::of(raw, &at)?;
        let mut warnings = Vec::new();
        match Provider::decode(raw, &at, &mut warnings) {
            Ok(provider) => providers.insert(provider.name.clone(), Some(provider)),
            Err(flaw) => {
                let what = "no token of this provider is accepted";
                warn(flaw.pointer, format!("{}; {what}", flaw.text));
                match Provider::name_of(raw, &at) {
                    Some(name) => providers.insert(name, None),
                    None => providers.doubt(),
                }
            }
        }
        for flaw in warnings {
            warn(flaw.pointer, flaw.text);
        }
    }
    Ok(providers)
}

/// The key sets that the host has handed in, by the provider's name.
pub(super) type KeySets = HashMap<String, KeySet, WordHash>;

impl Mesh {
    fn verifier<'p, 'r>(
        &'p self,
        key_sets: &'p KeySets,
        request: Presented<'r>,
        now: Timestamp,
    ) -> Verifier<'p, 'r> {
        let fetched = |name: &str| {
            let set = key_sets.get(name)?;
            (!set.freshness.is_stale(now, self.max_stale)).then_some(&set.keys)
        };
        Verifier::new(&self.providers, fetched, request, now, self.matching)
    }
}

/// The tokens of a request that is judged; nothing is looked at before a rule asks.
pub(super) struct RequestTokens<'p, 'q> {
    pub(super) mesh: &'p Mesh,
    pub(super) key_sets: &'p KeySets,
    pub(super) request: &'q Prepared<'q>,
    pub(super) now: Timestamp,
    pub(super) verifier: OnceCell<Verifier<'p, 'q>>,
}

impl<'p, 'q> RequestTokens<'p, 'q> {
    pub(super) fn verifier(&self) -> &Verifier<'p, 'q> {
        self.verifier.get_or_init(|| {
            let request = Presented {
                headers: self.request.headers(),
                path: self.request.path_and_query().unwrap_or_default(),
            };
            self.mesh.verifier(self.key_sets, request, self.now)
        })
    }

    /// What changes in the request that goes upstream: tokens of the rule that has let it
    /// through are used up, and nobody but us says what was in them.
    pub(super) fn upstream(
        &self,
        rule: Option<&Rule>,
        permission: Option<u32>,
    ) -> (Option<Vec<u8>>, Vec<HeaderChange>) {
        let mut changes: Vec<HeaderChange> = Vec::new();
        for name in self.mesh.providers.payload_headers() {
            if changes.iter().all(|change| change.name != name) {
                changes.push(HeaderChange { name, value: None });
            }
        }
        let mut path = None;
        for jwt in requirements(rule, permission) {
            for provider in &jwt.providers {
                self.verifier()
                    .use_up(&provider.name, &mut path, &mut changes);
            }
        }
        (path, changes)
    }
}

/// The JWT requirements of a rule, and of one of its permissions.
pub(super) fn requirements(
    rule: Option<&Rule>,
    permission: Option<u32>,
) -> impl Iterator<Item = &Jwt> {
    let (own, permissions) = match rule {
        Some(Rule::Connection { jwt, .. }) => (jwt.as_ref(), None),
        Some(Rule::Requests { permissions, jwt }) => (jwt.as_ref(), Some(permissions)),
        Some(Rule::Unreadable { .. }) | None => (None, None),
    };
    let permission = permissions
        .zip(permission.and_then(|place| usize::try_from(place).ok()))
        .and_then(|(permissions, place)| permissions.get(place)?.jwt.as_ref());
    own.into_iter().chain(permission)
}

impl Tokens for RequestTokens<'_, '_> {
    fn is_met(&self, requirement: &Jwt, action: Action) -> bool {
        self.verifier().is_met(requirement, action)
    }
}

impl Policy {
    /// The tokens of a request, as the loaded providers and their fresh keys judge
    /// them; `None` before a mesh document is loaded. Keys are under the staleness
    /// budget of the mesh.
    #[must_use]
    pub fn tokens<'p, 'r>(
        &'p self,
        request: Presented<'r>,
        now: Timestamp,
    ) -> Option<Verifier<'p, 'r>> {
        let mesh = self.mesh.as_ref()?;
        Some(mesh.verifier(&self.key_sets, request, now))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::chain;
    use crate::jwt::{Standing, Unverifiable};
    use crate::policy::{Document, LoadReport};

    fn data() -> Value {
        serde_json::from_str(include_str!("../../tests/data/jwt/tokens.json")).unwrap()
    }

    fn load(policy: &mut Policy, name: &str, body: Option<&Value>, at: u64) -> LoadReport {
        let document = Document {
            name: name.to_owned(),
            body: body.map(|body| body.to_string().into_bytes()),
            confirmed_at: Timestamp::from_unix_secs(at),
        };
        policy.load(policy.generation(), vec![document])
    }

    fn mesh(providers: &Value) -> Value {
        json!({ "trust_domain": "t.consul", "roots": [], "default_policy": "deny",
                "max_stale_ms": 60_000, "jwt_providers": providers })
    }

    fn standing(policy: &Policy, token: &Value, at: u64) -> Standing {
        let value = format!("Bearer {}", token.as_str().unwrap());
        let presented = Presented {
            headers: &[(b"authorization", value.as_bytes())],
            path: b"/",
        };
        let tokens = policy.tokens(presented, Timestamp::from_unix_secs(at));
        tokens.unwrap().standing("okta")
    }

    #[test]
    fn keys_are_documents_that_age() {
        let data = data();
        let (now, token) = (data["now"].as_u64().unwrap(), &data["tokens"]["RS256"]);
        let mut policy = Policy::new(chain::rustcrypto());
        let remote = json!([{ "Name": "okta", "Issuer": "okta",
            "JSONWebKeySet": { "Remote": { "URI": "https://okta.example/keys" } } }]);
        assert_eq!(
            load(&mut policy, "mesh", Some(&mesh(&remote)), now),
            LoadReport::default()
        );
        let none = Standing::Unverifiable(Unverifiable::NoKeys);
        assert_eq!(standing(&policy, token, now), none);

        let keys = &data["keys"]["all"];
        assert_eq!(
            load(&mut policy, "jwks/okta", Some(keys), now),
            LoadReport::default()
        );
        let valid = Standing::Valid { strictly: true };
        assert_eq!(standing(&policy, token, now), valid);
        assert_eq!(standing(&policy, token, now + 60), valid);
        assert_eq!(
            standing(&policy, token, now + 61),
            none,
            "stale keys verify nothing"
        );
        let names = ["jwks/okta".to_owned()];
        policy.touch(&names, Timestamp::from_unix_secs(now + 61));
        assert_eq!(standing(&policy, token, now + 61), valid);

        // What cannot be read leaves the last good set.
        let weak = &data["keys"]["weak"];
        let report = load(&mut policy, "jwks/okta", Some(weak), now);
        assert_eq!(report.refused.len(), 1);
        assert_eq!(standing(&policy, token, now + 61), valid);
        let _ = load(&mut policy, "jwks/okta", None, now);
        assert_eq!(standing(&policy, token, now), none);
    }

    #[test]
    fn an_entry_that_cannot_be_read_accepts_nothing() {
        let data = data();
        let now = data["now"].as_u64().unwrap();
        let mut policy = Policy::new(chain::rustcrypto());
        let broken = json!([{ "Name": "okta", "Issuer": 7, "JSONWebKeySet": {} }]);
        let report = load(&mut policy, "mesh", Some(&mesh(&broken)), now);
        assert_eq!(report.refused, []);
        assert_eq!(report.warnings.len(), 1);
        assert_eq!(report.warnings[0].pointer, "/jwt_providers/0/Issuer");
        assert_eq!(
            standing(&policy, &data["tokens"]["RS256"], now),
            Standing::Unverifiable(Unverifiable::Unreadable)
        );
    }
}
