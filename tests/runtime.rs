//! The pool of instances: generations, documents, time, threads.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use portcullis::runtime::aws_lc;
use portcullis::{Component, ComponentOptions, Policy, PolicyOptions};
use portcullis_core::chain::{self, Usage, VerifyErrorKind};
use portcullis_core::intention::Reason;
use portcullis_core::policy::{Client, Document};
use portcullis_core::time::Timestamp;
use portcullis_testkit::TestCa;
use serde_json::{Value, json};

const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";

fn component() -> &'static Component {
    static COMPONENT: OnceLock<Component> = OnceLock::new();
    COMPONENT
        .get_or_init(|| Component::embedded(&ComponentOptions::default()).expect("it compiles"))
}

fn pool(instances: usize) -> Policy {
    Policy::new(
        component(),
        PolicyOptions {
            instances,
            ..PolicyOptions::default()
        },
    )
    .expect("an instance")
}

/// Every engine: they must behave alike.
fn engines() -> [(&'static str, Policy); 4] {
    [
        ("one instance", pool(1)),
        ("three instances", pool(3)),
        ("native", Policy::native(chain::rustcrypto())),
        ("native with aws-lc", Policy::native(aws_lc())),
    ]
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn document(name: &str, body: &Value, confirmed_at: u64) -> Document {
    Document {
        name: name.to_owned(),
        body: Some(body.to_string().into_bytes()),
        confirmed_at: at(confirmed_at),
    }
}

fn mesh(max_stale_ms: u64, confirmed_at: u64) -> Document {
    let body = json!({ "trust_domain": TRUST_DOMAIN, "roots": [], "default_policy": "deny", "max_stale_ms": max_stale_ms });
    document("mesh", &body, confirmed_at)
}

fn service(name: &str, action: &str, confirmed_at: u64) -> Document {
    let intention = json!({ "SourceNS": "default", "SourceName": "web", "DestinationNS": "default",
        "DestinationName": name, "SourceType": "consul", "Action": action, "Precedence": 9 });
    document(
        &format!("service/default/default/{name}"),
        &json!({ "intentions": [intention] }),
        confirmed_at,
    )
}

fn web() -> Client {
    Client::from_uri(format!("spiffe://{TRUST_DOMAIN}/ns/default/dc/dc1/svc/web"))
}

#[test]
fn nothing_is_allowed_before_something_is_loaded() {
    for (engine, policy) in engines() {
        assert_eq!(policy.generation(), 0, "{engine}");
        let decision = policy.authorize("db", &web(), None, at(1));
        assert_eq!(decision.code, Reason::NotReady, "{engine}");
        let chain: [&[u8]; 1] = [b"x"];
        let error = policy
            .verify_peer(&chain, Usage::Client, None, at(1))
            .expect_err("it is refused");
        assert_eq!(error.kind(), VerifyErrorKind::NotReady, "{engine}");
    }
}

#[test]
fn generations_rise_and_are_published() {
    for (engine, policy) in engines() {
        let mut published = policy.subscribe();
        for (generation, action) in (1..).zip(["allow", "deny", "allow"]) {
            policy
                .load(vec![mesh(0, 1), service("db", action, 1)])
                .expect("it loads");
            assert_eq!(policy.generation(), generation, "{engine}");
            assert!(published.has_changed().expect("it lives"), "{engine}");
            assert_eq!(*published.borrow_and_update(), generation, "{engine}");
            let decision = policy.authorize("db", &web(), None, at(1));
            assert_eq!(
                (decision.is_allowed(), decision.generation),
                (action == "allow", generation),
                "{engine}"
            );
        }
    }
}

#[test]
fn a_refused_document_leaves_its_predecessor_in_every_instance() {
    for (engine, policy) in engines() {
        policy
            .load(vec![mesh(0, 1), service("db", "allow", 1)])
            .expect("it loads");
        let before = policy.digest();
        for _ in 0..3 {
            let broken = document(
                "service/default/default/db",
                &json!({ "intentions": "none" }),
                1,
            );
            let report = policy
                .load(vec![broken, service("api", "allow", 1)])
                .expect("it loads");
            assert_eq!(report.refused.len(), 1, "{engine}");
            assert_eq!(
                report.refused[0].document, "service/default/default/db",
                "{engine}"
            );
            for _ in 0..8 {
                assert!(
                    policy.authorize("db", &web(), None, at(1)).is_allowed(),
                    "{engine}"
                );
                assert!(
                    policy.authorize("api", &web(), None, at(1)).is_allowed(),
                    "{engine}"
                );
            }
        }
        let removed = Document {
            body: None,
            ..service("api", "allow", 1)
        };
        policy.load(vec![removed]).expect("it loads");
        assert_eq!(policy.digest(), before, "{engine}");
        assert_eq!(
            policy.authorize("api", &web(), None, at(1)).code,
            Reason::UnknownTarget,
            "{engine}"
        );
    }
}

#[test]
fn the_digest_is_the_same_for_every_engine_and_order() {
    let mut digests = Vec::new();
    for (index, (_, policy)) in engines().into_iter().enumerate() {
        let mut changes = vec![
            mesh(0, 1),
            service("a", "allow", 1),
            service("b", "deny", 1),
        ];
        changes.rotate_left(index % 3);
        changes
            .into_iter()
            .for_each(|change| drop(policy.load(vec![change]).expect("it loads")));
        digests.push(policy.digest());
    }
    assert_eq!(digests[0].len(), 64);
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
}

#[test]
fn while_generations_are_loaded_no_answer_goes_back() {
    let policy = pool(3);
    policy
        .load(vec![mesh(0, 1), service("db", "deny", 1)])
        .expect("it loads");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let (mut last, mut seen) = (0, 0_u64);
                    while !done.load(Ordering::Relaxed) {
                        let decision = policy.authorize("db", &web(), None, at(1));
                        assert_ne!(decision.code, Reason::PolicyFailed);
                        assert!(
                            decision.generation >= last,
                            "{} after {last}",
                            decision.generation
                        );
                        // Odd generations deny, even ones allow.
                        assert_eq!(decision.is_allowed(), decision.generation.is_multiple_of(2));
                        last = decision.generation;
                        seen += 1;
                    }
                    seen
                })
            })
            .collect();
        for generation in 2..200_u64 {
            let action = if generation % 2 == 0 { "allow" } else { "deny" };
            policy
                .load(vec![service("db", action, 1)])
                .expect("it loads");
            let decision = policy.authorize("db", &web(), None, at(1));
            assert_eq!(
                decision.generation, generation,
                "a published generation answers at once"
            );
        }
        done.store(true, Ordering::Relaxed);
        let asked: u64 = askers
            .into_iter()
            .map(|asker| asker.join().expect("no answer went back"))
            .sum();
        assert!(asked > 0, "nobody asked");
    });
}

#[test]
fn stale_documents_do_not_decide_in_any_instance() {
    for (engine, policy) in engines() {
        policy
            .load(vec![mesh(1_000, 10_000), service("db", "allow", 10_000)])
            .expect("it loads");
        let code = |now: u64| policy.authorize("db", &web(), None, at(now)).code;
        assert_eq!(code(11_000), Reason::Intention, "{engine}");
        assert_eq!(code(0), Reason::Intention, "{engine}");
        assert_eq!(code(u64::MAX), Reason::Stale, "{engine}");
        // Set back: fresh for none of them, although only one has seen the far future. Elsewhere
        // the pool tells the instances what the latest moment was.
        for now in [10_000, 0, 11_001] {
            for _ in 0..4 {
                let codes: Vec<_> = std::thread::scope(|scope| {
                    let askers: Vec<_> = (0..3).map(|_| scope.spawn(|| code(now))).collect();
                    askers
                        .into_iter()
                        .map(|asker| asker.join().expect("an answer"))
                        .collect()
                });
                assert_eq!(codes, [Reason::Stale; 3], "{engine} at {now}");
            }
        }
        assert!(
            policy.mesh_version(at(10_000)).is_none(),
            "{engine}: nothing is remembered for stale roots"
        );
        policy.touch::<&str>(&[], at(20_000));
        assert_eq!(code(21_000), Reason::Intention, "{engine}");
        assert!(policy.mesh_version(at(21_000)).is_some(), "{engine}");
        policy.touch(&["mesh"], at(30_000));
        assert_eq!(
            code(30_500),
            Reason::Stale,
            "{engine}: the service was not confirmed"
        );
        policy.touch(&["service/default/default/db"], at(30_000));
        assert_eq!(code(30_500), Reason::Intention, "{engine}");
    }
}

#[test]
fn a_chain_is_verified_by_every_engine_alike() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let other = TestCa::new(TRUST_DOMAIN);
    let now = portcullis::clock::Clock::system().now();
    for (engine, policy) in engines() {
        let body = json!({ "trust_domain": TRUST_DOMAIN, "roots": [ca.pem()], "default_policy": "deny", "max_stale_ms": 0 });
        policy
            .load(vec![document("mesh", &body, 1)])
            .expect("it loads");
        let good = ca.service("web").issue().chain_der();
        let peer = policy
            .verify_peer(&good, Usage::Client, None, now)
            .expect("the chain is good");
        let uri = peer.id.to_string();
        assert!(
            uri.ends_with("/svc/web") && peer.peer.is_none() && peer.not_after > now,
            "{engine}: {peer:?}"
        );
        assert!(
            policy
                .verify_peer(&good, Usage::Client, Some(&uri), now)
                .is_ok(),
            "{engine}"
        );
        let elsewhere = uri.replace("/svc/web", "/svc/api");
        let error = policy
            .verify_peer(&good, Usage::Client, Some(&elsewhere), now)
            .expect_err("another one");
        assert_eq!(error.kind(), VerifyErrorKind::Identity, "{engine}");
        let error = policy.verify_peer(
            &other.service("web").issue().chain_der(),
            Usage::Client,
            None,
            now,
        );
        assert_eq!(
            error.expect_err("another root").kind(),
            VerifyErrorKind::Untrusted,
            "{engine}"
        );
        let error = policy
            .verify_peer(&good, Usage::Client, None, at(1))
            .expect_err("too early");
        assert_eq!(error.kind(), VerifyErrorKind::Expired, "{engine}");
        let none: [&[u8]; 0] = [];
        let error = policy
            .verify_peer(&none, Usage::Client, None, now)
            .expect_err("no certificate");
        assert_eq!(error.kind(), VerifyErrorKind::Malformed, "{engine}");
    }
}

#[test]
fn explanations_agree_with_decisions() {
    for (engine, policy) in engines() {
        policy
            .load(vec![mesh(0, 1), service("db", "allow", 1)])
            .expect("it loads");
        for target in ["db", "unknown", "a b"] {
            let decision = policy.authorize(target, &web(), None, at(1));
            let trace = policy
                .explain(target, &web(), None, at(1))
                .expect("an explanation");
            assert_eq!(trace.decision, decision, "{engine}");
            assert_eq!(policy.describe(target, &decision), trace.text, "{engine}");
        }
    }
}

#[test]
fn many_threads_share_few_instances() {
    let policy = pool(2);
    policy
        .load(vec![
            mesh(0, 1),
            service("db", "allow", 1),
            service("api", "deny", 1),
        ])
        .expect("it loads");
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..500 {
                    assert!(policy.authorize("db", &web(), None, at(1)).is_allowed());
                    assert!(!policy.authorize("api", &web(), None, at(1)).is_allowed());
                }
            });
        }
    });
}

#[test]
fn identities_are_taken_apart_alike() {
    for uri in [
        "spiffe://td.consul/ns/default/dc/dc1/svc/web",
        "spiffe://td.consul",
        "http://x",
        "",
    ] {
        let answers: Vec<_> = engines()
            .into_iter()
            .map(|(_, policy)| {
                policy
                    .parse_id(uri)
                    .map_err(|error| (error.code().to_owned(), error.to_string()))
            })
            .collect();
        assert!(
            answers.iter().all(|answer| *answer == answers[0]),
            "{uri}: {answers:?}"
        );
    }
}
