//! Another component takes over in the library: what holds, and what is refused.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use portcullis::runtime::PolicyError;
use portcullis::{Component, ComponentOptions, Policy, PolicyOptions};
use portcullis_core::chain::{self, Usage};
use portcullis_core::intention::Reason;
use portcullis_core::policy::{Client, Document};
use portcullis_core::time::Timestamp;
use portcullis_testkit::TestCa;
use portcullis_tests::components;
use serde_json::json;

const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";
const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

fn component(number: u32) -> Component {
    let name = format!("variant {number}");
    Component::from_bytes(&name, &variant(number), &ComponentOptions::default())
        .expect("it compiles")
}

fn first() -> Component {
    static FIRST: OnceLock<Component> = OnceLock::new();
    FIRST.get_or_init(|| component(0)).clone()
}

fn second() -> Component {
    static SECOND: OnceLock<Component> = OnceLock::new();
    SECOND.get_or_init(|| component(1)).clone()
}

fn variant(number: u32) -> Vec<u8> {
    crate::variant(number)
}

fn policy(instances: usize) -> Policy {
    let options = PolicyOptions {
        instances,
        ..PolicyOptions::default()
    };
    Policy::new(&first(), options).expect("an instance")
}

fn document(name: &str, body: &serde_json::Value) -> Document {
    Document {
        name: name.to_owned(),
        body: Some(body.to_string().into_bytes()),
        confirmed_at: NOW,
    }
}

fn mesh(roots: &[String]) -> Document {
    document(
        "mesh",
        &json!({ "trust_domain": TRUST_DOMAIN, "roots": roots, "default_policy": "deny" }),
    )
}

fn service(name: &str, action: &str) -> Document {
    let intention = json!({ "SourceNS": "default", "SourceName": "web", "DestinationNS": "default",
        "DestinationName": name, "SourceType": "consul", "Action": action, "Precedence": 9 });
    document(
        &format!("service/default/default/{name}"),
        &json!({ "intentions": [intention] }),
    )
}

fn web() -> Client {
    Client::from_uri(format!("spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/web"))
}

#[test]
fn the_documents_go_along_under_a_generation_of_their_own() {
    for instances in [1, 3] {
        let policy = policy(instances);
        policy.replace(&second()).expect("nothing is loaded yet");
        assert_eq!(policy.generation(), 0, "nothing was decided yet");
        policy
            .load(vec![mesh(&[]), service("db", "allow")])
            .unwrap();
        let (digest, before) = (policy.digest(), policy.mesh_version(NOW));
        let mut published = policy.subscribe();
        published.mark_unchanged();

        policy.replace(&first()).unwrap();
        assert_eq!(policy.generation(), 2);
        assert!(
            published.has_changed().unwrap(),
            "live connections are told"
        );
        assert_eq!(*published.borrow_and_update(), 2);
        assert_eq!(policy.digest(), digest, "the documents are the same");
        assert_ne!(
            policy.mesh_version(NOW),
            before,
            "what was verified is forgotten"
        );
        assert_eq!(policy.component().unwrap().sha256(), first().sha256());
        let decision = policy.authorize("db", &web(), None, NOW);
        assert!(
            decision.is_allowed() && decision.generation == 2,
            "{decision:?}"
        );

        policy.load(vec![service("db", "deny")]).unwrap();
        let decision = policy.authorize("db", &web(), None, NOW);
        assert_eq!((decision.code, decision.generation), (Reason::Intention, 3));
        assert!(!decision.is_allowed());
    }
}

#[test]
fn who_fails_the_questions_does_not_take_over() {
    let policy = policy(2);
    policy
        .load(vec![mesh(&[]), service("db", "allow")])
        .unwrap();
    let hostile =
        Component::from_file(components::allow_everything(), &ComponentOptions::default())
            .expect("it compiles");
    let refused = policy.replace(&hostile).unwrap_err();
    let text = refused.to_string();
    assert!(
        matches!(refused, PolicyError::Replace { .. }),
        "{refused:?}"
    );
    assert!(
        text.contains("built-in question")
            && text.contains("not-ready")
            && text.contains("variant 0"),
        "{text}"
    );
    assert!(hostile.try_out(&Default::default()).is_err());
    assert_eq!(policy.generation(), 1);
    assert_eq!(policy.component().unwrap().sha256(), first().sha256());
    assert!(policy.authorize("db", &web(), None, NOW).is_allowed());
    assert!(!policy.authorize("cache", &web(), None, NOW).is_allowed());
}

#[test]
fn who_traps_on_the_documents_in_force_does_not_take_over() {
    let policy = policy(2);
    // Honest in everything but this document.
    policy
        .load(vec![
            mesh(&[]),
            service("db", "allow"),
            service("load-panic", "allow"),
        ])
        .unwrap();
    let tricks = Component::from_file(components::tricks(), &ComponentOptions::default())
        .expect("it compiles");
    tricks
        .try_out(&Default::default())
        .expect("it passes the questions");
    let refused = policy.replace(&tricks).unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("does not take over") && !text.contains("question"),
        "{text}"
    );
    assert_eq!(policy.generation(), 1);
    assert!(policy.authorize("db", &web(), None, NOW).is_allowed());
    // And whoever loads afterwards goes on from there.
    policy.load(vec![service("db", "deny")]).unwrap();
    assert!(!policy.authorize("db", &web(), None, NOW).is_allowed());
}

#[test]
fn the_native_core_has_nothing_to_replace() {
    let refused = Policy::native(chain::rustcrypto()).replace(&first());
    assert!(
        matches!(refused, Err(PolicyError::Replace { .. })),
        "{refused:?}"
    );
}

#[test]
fn while_components_and_generations_change_no_answer_is_lost_or_goes_back() {
    const ROUNDS: usize = 30;
    let policy = policy(3);
    policy
        .load(vec![mesh(&[]), service("db", "allow")])
        .unwrap();
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut last = 0;
                while !stop.load(Ordering::SeqCst) {
                    let before = policy.generation();
                    let decision = policy.authorize("db", &web(), None, NOW);
                    assert!(decision.is_allowed(), "{decision:?}");
                    assert!(
                        decision.generation >= last.max(before),
                        "{} after {last} and {before}",
                        decision.generation
                    );
                    last = decision.generation;
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                policy
                    .load(vec![service("cache", "allow")])
                    .expect("it loads");
                policy.touch(&["mesh"], NOW);
            }
        });
        for round in 0..ROUNDS {
            let next = if round % 2 == 0 { second() } else { first() };
            let generation = policy.generation();
            policy.replace(&next).expect("it takes over");
            assert!(policy.generation() > generation);
        }
        let seen = asked.load(Ordering::SeqCst);
        while asked.load(Ordering::SeqCst) < seen + 100 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn certificates_are_verified_anew() {
    use portcullis::clock::Clock;
    use portcullis::tls::PeerVerifier;
    let ca = TestCa::new(TRUST_DOMAIN);
    let policy = policy(1);
    let clock = Clock::system();
    let mut mesh = mesh(&[ca.pem()]);
    mesh.confirmed_at = clock.now();
    policy.load(vec![mesh]).unwrap();
    let verifier = PeerVerifier::new(policy.clone(), clock, 1);
    let chain = ca.service("web").issue().chain().to_vec();
    let verify = || {
        verifier
            .verify(&chain, Usage::Client, None)
            .expect("a good chain")
    };
    verify();
    verify();
    assert_eq!(verifier.remembered(), 1);
    policy.replace(&second()).unwrap();
    verify();
    assert_eq!(verifier.remembered(), 2, "the old answer was not believed");
}
