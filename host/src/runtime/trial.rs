//! Questions whose answers are known, asked of a component before it takes over.
//!
//! They are few, and such that every policy which follows Consul's and SPIFFE's
//! documents answers them alike: whoever fails one would deny what is allowed, or
//! allow what is denied. The certificates are those of a real Consul agent, asked
//! about at a time when they were valid.

use portcullis_core::chain::{Usage, VerifyErrorKind};
use portcullis_core::intention::{Effect, Reason};
use portcullis_core::policy::{Client, Document};
use portcullis_core::time::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::answer::Failure;
use super::component::Component;
use super::instance::Instance;
use super::limits::Limits;

/// The chain of `web`, and the root that issued it.
const LEAF: &str = include_str!("../../../guest/core/tests/data/consul/p256-leaf.pem");
const ROOT: &str = include_str!("../../../guest/core/tests/data/consul/p256-root0.pem");
/// The root of another mesh.
const FOREIGN_ROOT: &str =
    include_str!("../../../guest/core/tests/data/openssl/p256-sha256-root.pem");
const TRUST_DOMAIN: &str = "51ed6d89-c0bc-08f4-371d-6d8bfbe0c10e.consul";

/// 2026-11-21T05:15:00Z, when the leaf was eight minutes old.
const NOW: Timestamp = Timestamp::from_unix_secs(1_795_238_100);
/// After the leaf's end, three days later.
const EXPIRED: Timestamp = Timestamp::from_unix_secs(1_795_238_100 + 4 * 86_400);
/// How long the documents may go unconfirmed: longer than the leaf is valid.
const MAX_STALE_MS: u64 = 30 * 86_400_000;

/// Asks `component` everything.
///
/// Fails with the first answer that is wrong, or when the component fails.
pub(super) fn passes(component: &Component, limits: &Limits) -> Result<(), Failure> {
    let mut instance = Instance::new(component, limits)?;
    identities(&mut instance)?;
    // Nothing is loaded: whoever allows now always allows.
    decides(
        &mut instance,
        "db",
        "web",
        NOW,
        Effect::Deny,
        Reason::NotReady,
    )?;
    not_verified(
        &mut instance,
        &leaf()?,
        None,
        NOW,
        VerifyErrorKind::NotReady,
    )?;

    load(
        &mut instance,
        1,
        vec![mesh(ROOT), service("db"), service("cache")],
    )?;
    decisions(&mut instance)?;
    chains(&mut instance)?;

    // What is loaded later counts, and what is taken back no longer does.
    let gone = Document {
        body: None,
        ..service("cache")
    };
    load(&mut instance, 2, vec![mesh(FOREIGN_ROOT), gone])?;
    decides(
        &mut instance,
        "cache",
        "web",
        NOW,
        Effect::Deny,
        Reason::UnknownTarget,
    )?;
    decides(
        &mut instance,
        "db",
        "web",
        NOW,
        Effect::Allow,
        Reason::Intention,
    )?;
    not_verified(
        &mut instance,
        &leaf()?,
        None,
        NOW,
        VerifyErrorKind::Untrusted,
    )?;

    // Nobody has confirmed it for longer than its budget, until somebody does.
    let late = NOW.saturating_add_millis(MAX_STALE_MS + 1_000);
    decides(
        &mut instance,
        "db",
        "web",
        late,
        Effect::Deny,
        Reason::Stale,
    )?;
    instance.touch(&[], late)?;
    decides(
        &mut instance,
        "db",
        "web",
        late,
        Effect::Allow,
        Reason::Intention,
    )
}

fn identities(instance: &mut Instance) -> Result<(), Failure> {
    let web = uri("web");
    let parsed = instance.parse_id(&web)?;
    if parsed.as_ref().map(ToString::to_string).ok().as_ref() != Some(&web) {
        return Err(wrong(
            &format!("parse-id `{web}`"),
            &web,
            &format!("{parsed:?}"),
        ));
    }
    for bad in [
        "",
        "https://a.consul/ns/default/dc/dc1/svc/web",
        "spiffe://a.consul/ns/default/dc/dc1/svc/web?x",
    ] {
        if let Ok(identity) = instance.parse_id(bad)? {
            return Err(wrong(
                &format!("parse-id `{bad}`"),
                "an error",
                &identity.to_string(),
            ));
        }
    }
    Ok(())
}

fn decisions(instance: &mut Instance) -> Result<(), Failure> {
    for (source, effect, reason) in [
        ("web", Effect::Allow, Reason::Intention),
        ("eve", Effect::Deny, Reason::Intention),
        ("nobody", Effect::Deny, Reason::DefaultPolicy),
        ("odd", Effect::Deny, Reason::UnreadableRule),
    ] {
        decides(instance, "db", source, NOW, effect, reason)?;
    }
    for (client, reason) in [
        (Vec::new(), Reason::NoIdentity),
        (vec![uri("web"), uri("web")], Reason::SeveralIdentities),
        (vec!["web".to_owned()], Reason::MalformedIdentity),
        (
            vec![format!(
                "spiffe://{TRUST_DOMAIN}/agent/client/dc/dc1/id/node"
            )],
            Reason::NotAService,
        ),
        (
            vec!["spiffe://other.consul/ns/default/dc/dc1/svc/web".to_owned()],
            Reason::ForeignTrustDomain,
        ),
    ] {
        asks(instance, "db", &client, NOW, Effect::Deny, reason)?;
    }
    decides(
        instance,
        "nothing",
        "web",
        NOW,
        Effect::Deny,
        Reason::UnknownTarget,
    )?;
    decides(
        instance,
        "d b",
        "web",
        NOW,
        Effect::Deny,
        Reason::MalformedTarget,
    )?;

    // The rest only has to come, and to agree.
    let client = Client::from_uri(uri("eve"));
    let trace = instance.explain("db", &client, None, NOW)?;
    let decision = instance.authorize("db", &client, None, NOW)?;
    if trace.decision != decision {
        return Err(wrong(
            "explain",
            &format!("{decision:?}"),
            &format!("{:?}", trace.decision),
        ));
    }
    instance.describe("db", &decision)?;
    instance.needed_headers("db").map(drop)
}

fn chains(instance: &mut Instance) -> Result<(), Failure> {
    let (chain, web) = (leaf()?, uri("web"));
    for (usage, expected) in [(Usage::Client, None), (Usage::Server, Some(web.as_str()))] {
        match instance.verify_peer(&borrowed(&chain), usage, expected, NOW)? {
            Ok(peer) if peer.id.to_string() == web => {}
            other => {
                return Err(wrong(
                    "verify-peer for a good chain",
                    &web,
                    &format!("{other:?}"),
                ));
            }
        }
    }
    let other = uri("eve");
    not_verified(
        instance,
        &chain,
        Some(&other),
        NOW,
        VerifyErrorKind::Identity,
    )?;
    not_verified(instance, &chain, None, EXPIRED, VerifyErrorKind::Expired)?;
    not_verified(instance, &[], None, NOW, VerifyErrorKind::Malformed)?;
    // One bit of the signature, which ends the certificate.
    let mut forged = chain;
    if let Some(bit) = forged.first_mut().and_then(|leaf| leaf.last_mut()) {
        *bit ^= 1;
    }
    match instance.verify_peer(&borrowed(&forged), Usage::Client, None, NOW)? {
        Err(_) => Ok(()),
        Ok(peer) => Err(wrong(
            "verify-peer for a forged chain",
            "an error",
            &peer.id.to_string(),
        )),
    }
}

fn decides(
    instance: &mut Instance,
    target: &str,
    source: &str,
    now: Timestamp,
    effect: Effect,
    reason: Reason,
) -> Result<(), Failure> {
    asks(instance, target, &[uri(source)], now, effect, reason)
}

fn asks(
    instance: &mut Instance,
    target: &str,
    uris: &[String],
    now: Timestamp,
    effect: Effect,
    reason: Reason,
) -> Result<(), Failure> {
    let client = Client {
        uris: uris.to_vec(),
        via_gateway: None,
    };
    let decision = instance.authorize(target, &client, None, now)?;
    if (decision.effect, decision.code) == (effect, reason) {
        return Ok(());
    }
    Err(wrong(
        &format!("authorize {uris:?} for `{target}`"),
        &format!("{effect}, {reason}"),
        &format!("{}, {}", decision.effect, decision.code),
    ))
}

fn not_verified(
    instance: &mut Instance,
    chain: &[Vec<u8>],
    expected: Option<&str>,
    now: Timestamp,
    kind: VerifyErrorKind,
) -> Result<(), Failure> {
    let answer = instance.verify_peer(&borrowed(chain), Usage::Client, expected, now)?;
    match answer {
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(wrong(
            "verify-peer",
            &format!("{kind:?}"),
            &format!("{:?} ({error})", error.kind()),
        )),
        Ok(peer) => Err(wrong(
            "verify-peer",
            &format!("{kind:?}"),
            &peer.id.to_string(),
        )),
    }
}

fn load(instance: &mut Instance, generation: u64, changes: Vec<Document>) -> Result<(), Failure> {
    let report = instance.load(generation, &changes)?;
    match report.refused.first() {
        None => Ok(()),
        Some(refused) => Err(wrong(
            "load",
            "everything is accepted",
            &format!("`{}` is refused: {}", refused.document, refused.text),
        )),
    }
}

fn mesh(root: &str) -> Document {
    document(
        "mesh",
        json!({
            "trust_domain": TRUST_DOMAIN,
            "roots": [root],
            "default_policy": "deny",
            "max_stale_ms": MAX_STALE_MS,
        }),
    )
}

/// `web` is allowed, `eve` is not, and what holds for `odd` cannot be read.
fn service(name: &str) -> Document {
    let intention = |source: &str, action: &str| {
        json!({ "SourceNS": "default", "SourceName": source, "DestinationNS": "default",
            "DestinationName": name, "SourceType": "consul", "Action": action, "Precedence": 9 })
    };
    let intentions = [
        intention("web", "allow"),
        intention("eve", "deny"),
        intention("odd", "perhaps"),
    ];
    document(
        &format!("service/default/default/{name}"),
        json!({ "intentions": intentions }),
    )
}

fn document(name: &str, body: Value) -> Document {
    Document {
        name: name.to_owned(),
        body: Some(body.to_string().into_bytes()),
        confirmed_at: NOW,
    }
}

fn uri(service: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/{service}")
}

fn leaf() -> Result<Vec<Vec<u8>>, Failure> {
    CertificateDer::pem_slice_iter(LEAF.as_bytes())
        .map(|der| der.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|error| Failure(format!("our own vector cannot be read: {error}")))
}

fn borrowed(chain: &[Vec<u8>]) -> Vec<&[u8]> {
    chain.iter().map(Vec::as_slice).collect()
}

fn wrong(question: &str, right: &str, answered: &str) -> Failure {
    Failure(super::answer::bounded(format!(
        "it answers the built-in question {question} with {answered}, and right is {right}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ComponentOptions;

    #[test]
    fn the_built_in_component_passes() {
        let component = Component::embedded(&ComponentOptions::default()).unwrap();
        assert_eq!(passes(&component, &Limits::default()), Ok(()));
    }

    #[test]
    fn a_component_without_room_does_not() {
        let component = Component::embedded(&ComponentOptions::default()).unwrap();
        let limits = Limits {
            memory: 64 << 10,
            ..Limits::default()
        };
        assert!(passes(&component, &limits).is_err());
    }
}
