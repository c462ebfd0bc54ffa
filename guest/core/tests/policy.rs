//! Documents, freshness and identities: what comes before any intention, and what
//! `explain` says about it all.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

use portcullis_core::chain::{self, Usage};
use portcullis_core::intention::{Decision, Effect, Reason};
use portcullis_core::policy::{Client, Document, HeaderNeeds, LoadReport, Policy, Request};
use portcullis_core::time::Timestamp;
use serde_json::{Value, json};

const T: &str = "11111111-2222-3333-4444-555555555555.consul";

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn document(name: &str, body: &Value, confirmed: u64) -> Document {
    let body = Some(body.to_string().into_bytes());
    Document {
        name: name.to_owned(),
        body,
        confirmed_at: at(confirmed),
    }
}

fn mesh() -> Value {
    json!({
        "trust_domain": T,
        "default_policy": "deny",
        "max_stale_ms": 1000,
        "peers": {
            "beta": {"trust_domain": "beta.consul"},
            "gamma": {"trust_domain": "gamma.consul", "exported_partition": "ap1"},
        },
    })
}

fn rule(source: &str, action: &str) -> Value {
    json!({"SourceName": source, "DestinationName": "db", "Action": action})
}

fn peer_rule(peer: &str, source: &str, action: &str) -> Value {
    json!({"SourcePeer": peer, "SourceName": source, "DestinationName": "db", "Action": action})
}

const DB: &str = "service/default/default/db";

fn loaded(mesh: &Value, service: &Value) -> Policy {
    let mut policy = Policy::new(chain::rustcrypto());
    let documents = vec![document("mesh", mesh, 0), document(DB, service, 0)];
    let report = policy.load(1, documents);
    assert_eq!(report.refused, []);
    policy
}

fn of_rules(rules: &[Value]) -> Policy {
    loaded(&mesh(), &json!({"intentions": rules}))
}

/// Asks, and checks that `explain` agrees.
fn ask(policy: &mut Policy, target: &str, uris: &[&str], now: u64) -> Decision {
    let uris = uris.iter().map(ToString::to_string).collect();
    question(
        policy,
        target,
        &Client {
            uris,
            via_gateway: None,
        },
        None,
        now,
    )
}

fn question(
    policy: &mut Policy,
    target: &str,
    client: &Client,
    request: Option<&Request>,
    now: u64,
) -> Decision {
    let before = policy.explain(target, client, request, at(now));
    let decision = policy.authorize(target, client, request, at(now));
    let trace = policy.explain(target, client, request, at(now));
    assert_eq!(before.decision, decision);
    assert_eq!(trace.decision, decision);
    assert_eq!(trace.text, policy.describe(target, &decision));
    for text in trace.notes.iter().chain([&trace.text]) {
        assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)), "{text:?}");
    }
    decision
}

fn code(policy: &mut Policy, uri: &str) -> (Effect, Reason) {
    let decision = ask(policy, "db", &[uri], 0);
    (decision.effect, decision.code)
}

fn svc(domain: &str, name: &str) -> String {
    format!("spiffe://{domain}/ns/default/dc/dc1/svc/{name}")
}

#[test]
fn without_documents_everything_is_denied() {
    let mut policy = Policy::new(chain::rustcrypto());
    let web = svc(T, "web");
    let code = |policy: &mut Policy, target: &str| ask(policy, target, &[&web], 0).code;
    assert_eq!(code(&mut policy, "db"), Reason::NotReady);
    assert_eq!(code(&mut policy, "d b"), Reason::MalformedTarget);
    policy.load(1, vec![document("mesh", &mesh(), 0)]);
    assert_eq!(code(&mut policy, "db"), Reason::UnknownTarget);
    policy.load(2, vec![document(DB, &json!({"intentions": null}), 0)]);
    assert_eq!(code(&mut policy, "db"), Reason::DefaultPolicy);
    assert_eq!(
        code(&mut policy, "DEFAULT/Default/DB"),
        Reason::DefaultPolicy
    );
    assert_eq!(code(&mut policy, "other/db"), Reason::UnknownTarget);
    policy.load(
        3,
        vec![Document {
            name: DB.into(),
            body: None,
            confirmed_at: at(0),
        }],
    );
    assert_eq!(code(&mut policy, "db"), Reason::UnknownTarget);
    policy.load(
        4,
        vec![Document {
            name: "mesh".into(),
            body: None,
            confirmed_at: at(0),
        }],
    );
    assert_eq!(code(&mut policy, "db"), Reason::NotReady);
    assert_eq!(ask(&mut policy, "db", &[&web], 0).generation, 4);
}

#[test]
fn a_refused_document_leaves_the_last_good_one_which_ages() {
    let mut policy = of_rules(&[rule("web", "allow")]);
    let web = svc(T, "web");
    let broken = [
        "",
        "[]",
        "{\"intentions\":{}}",
        "{}",
        "{\"intentions\":[],\"protocol\":\"udp\"}",
        "{\"intentions\":[],\"intentions\":null}",
        "{\"intentions\":[],\"Intentions\":[]}",
        "{\"intentions\":[],\"protocol\":7}",
        "{\"intentions\":[}",
    ];
    for (i, body) in (2..).zip(broken) {
        let body = Some(body.as_bytes().to_vec());
        let report = policy.load(
            i,
            vec![Document {
                name: DB.into(),
                body,
                confirmed_at: at(900),
            }],
        );
        assert_eq!(report.refused.len(), 1, "{report:?}");
        let decision = ask(&mut policy, "db", &[&web], 1_000);
        assert_eq!((decision.effect, decision.generation), (Effect::Allow, i));
    }
    assert_eq!(ask(&mut policy, "db", &[&web], 1_001).code, Reason::Stale);
}

#[test]
fn mesh_documents_are_read_strictly() {
    let load = |mesh: &str| {
        let mut policy = Policy::new(chain::rustcrypto());
        let body = Some(mesh.as_bytes().to_vec());
        policy.load(
            1,
            vec![Document {
                name: "mesh".into(),
                body,
                confirmed_at: at(0),
            }],
        )
    };
    let refused = [
        "{}",
        "[]",
        "null",
        r#"{"trust_domain":"a","trust_domain":"b","default_policy":"deny"}"#,
        r#"{"Trust_domain":"a","default_policy":"deny"}"#,
        r#"{"trust_domain":"UPPER","default_policy":"deny"}"#,
        r#"{"trust_domain":"a b","default_policy":"deny"}"#,
        r#"{"trust_domain":7,"default_policy":"deny"}"#,
        r#"{"trust_domain":"a","default_policy":"ALLOW"}"#,
        r#"{"trust_domain":"a","default_policy":true}"#,
        r#"{"trust_domain":"a","default_policy":"deny","default_policy":"allow"}"#,
        r#"{"trust_domain":"a","default_policy":"deny","matching":"loose"}"#,
        r#"{"trust_domain":"a","default_policy":"deny","max_stale_ms":-1}"#,
        r#"{"trust_domain":"a","default_policy":"deny","max_stale_ms":1.5}"#,
        r#"{"trust_domain":"a","default_policy":"deny","max_stale_ms":"0"}"#,
        r#"{"trust_domain":"a","default_policy":"deny","roots":"x"}"#,
        r#"{"trust_domain":"a","default_policy":"deny","roots":[7]}"#,
        r#"{"trust_domain":"a","default_policy":"deny","roots":["no PEM"]}"#,
        r#"{"trust_domain":"a","default_policy":"deny","peers":[]}"#,
        r#"{"trust_domain":"a","default_policy":"deny","peers":{"b":{}}}"#,
        r#"{"trust_domain":"a","default_policy":"deny","peers":{"b":{"trust_domain":"b"},"b":{"trust_domain":"c"}}}"#,
        r#"{"trust_domain":"a","default_policy":"deny","peers":{"b c":{"trust_domain":"b"}}}"#,
        r#"{"trust_domain":"a","default_policy":"deny","request_normalization":7}"#,
        r#"{"trust_domain":"a","default_policy":"deny","jwt_providers":{}}"#,
    ];
    for mesh in refused {
        assert_eq!(load(mesh).refused.len(), 1, "{mesh}");
    }
    let report = load(r#"{"trust_domain":"a","more":1}"#);
    assert_eq!(
        (report.refused.len(), report.warnings.len()),
        (0, 2),
        "{report:?}"
    );
}

#[test]
fn one_bad_document_refuses_no_other() {
    let mut policy = of_rules(&[rule("web", "allow")]);
    let report = policy.load(
        2,
        vec![
            document("service/default/default/db", &json!({"intentions": 7}), 0),
            document("services/x", &json!({}), 0),
            document("service/default/api", &json!({"intentions": []}), 0),
            document(
                "service/default/default/a\u{1b}b",
                &json!({"intentions": []}),
                0,
            ),
            document(
                "service/default/default/api",
                &json!({"intentions": [rule("web", "allow")]}),
                0,
            ),
        ],
    );
    assert_eq!(report.refused.len(), 4);
    assert!(
        report
            .refused
            .iter()
            .all(|p| p.document.is_ascii() && !p.document.contains('\u{1b}'))
    );
    let web = svc(T, "web");
    assert_eq!(
        ask(&mut policy, "api", &[&web], 0).code,
        Reason::DefaultPolicy,
        "db's rule is not api's"
    );
    assert_eq!(ask(&mut policy, "db", &[&web], 0).code, Reason::Intention);
}

#[test]
fn an_older_generation_never_answers_after_a_newer() {
    let mut policy = of_rules(&[rule("web", "deny")]);
    let good = json!({"intentions": [rule("web", "allow")]});
    policy.load(5, vec![]);
    let LoadReport { refused, .. } = policy.load(4, vec![document(DB, &good, 0)]);
    assert_eq!(refused.len(), 1);
    assert_eq!(
        code(&mut policy, &svc(T, "web")),
        (Effect::Deny, Reason::Intention)
    );
}

#[test]
fn stale_policies_deny_and_never_turn_fresh_by_themselves() {
    let web = svc(T, "web");
    let mut policy = of_rules(&[rule("web", "allow")]);
    let code = |policy: &mut Policy, now| ask(policy, "db", &[&web], now).code;
    assert_eq!(code(&mut policy, 1_000), Reason::Intention);
    assert_eq!(code(&mut policy, 1_001), Reason::Stale);
    for now in [0, 500, 1_001, u64::MAX] {
        assert_eq!(code(&mut policy, now), Reason::Stale, "{now}");
    }
    policy.touch(&[DB.to_owned()], at(2_000));
    assert_eq!(
        code(&mut policy, 2_000),
        Reason::Stale,
        "the mesh is still old"
    );
    policy.touch(
        &[
            "mesh".to_owned(),
            "service/default/default/DB".to_owned(),
            "nonsense".to_owned(),
        ],
        at(2_000),
    );
    assert_eq!(code(&mut policy, 3_000), Reason::Intention);
    assert_eq!(code(&mut policy, 3_001), Reason::Stale);
    policy.touch(&[], at(10));
    assert_eq!(
        code(&mut policy, 1_010),
        Reason::Intention,
        "a clock set back, confirmed anew"
    );

    // A question about the future leaves its mark, an explanation does not.
    let client = Client::from_uri(web.clone());
    assert_eq!(
        policy
            .explain("db", &client, None, at(u64::MAX))
            .decision
            .code,
        Reason::Stale
    );
    assert_eq!(code(&mut policy, 1_000), Reason::Intention);
    assert_eq!(code(&mut policy, u64::MAX), Reason::Stale);
    assert_eq!(code(&mut policy, 1_000), Reason::Stale);

    let mut endless = mesh();
    endless["max_stale_ms"] = json!(0);
    let mut policy = loaded(&endless, &json!({"intentions": [rule("web", "allow")]}));
    assert_eq!(code(&mut policy, u64::MAX), Reason::Intention);
}

#[test]
fn identities_come_before_intentions() {
    let mut open = mesh();
    open["default_policy"] = json!("allow");
    let mut policy = loaded(&open, &json!({"intentions": null}));
    let deny = |reason| (Effect::Deny, reason);
    assert_eq!(
        code(&mut policy, &svc(T, "web")),
        (Effect::Allow, Reason::DefaultPolicy)
    );
    for malformed in [
        "",
        "web",
        "https://a/b",
        &svc("T.consul", "web"),
        &format!("{}/", svc(T, "web")),
        &svc(T, "w%65b"),
        &svc(T, "w\u{2028}b"),
        &format!("{}?x=1", svc(T, "web")),
        &format!("spiffe://{T}:80/ns/default/dc/dc1/svc/web"),
        &svc(T, "*"),
    ] {
        assert_eq!(
            code(&mut policy, malformed),
            deny(Reason::MalformedIdentity),
            "{malformed:?}"
        );
    }
    for foreign in [
        &svc("delta.consul", "web"),
        &svc(&T.replace('.', "x"), "web"),
        &svc("gamma.consul", "web"),
        "spiffe://beta.consul/ap/ap1/ns/default/dc/d/svc/web",
    ] {
        assert_eq!(
            code(&mut policy, foreign),
            deny(Reason::ForeignTrustDomain),
            "{foreign}"
        );
    }
    for kind in [
        "/agent/client/dc/dc1/id/x",
        "/agent/server/dc/dc1",
        "/gateway/mesh/dc/dc1",
        "",
        "/x",
        "/ns/default/dc/dc1/svc/web/more",
        "/NS/default/dc/dc1/svc/web",
    ] {
        assert_eq!(
            code(&mut policy, &format!("spiffe://{T}{kind}")),
            deny(Reason::NotAService),
            "{kind}"
        );
        assert_eq!(
            code(&mut policy, &format!("spiffe://beta.consul{kind}")),
            deny(Reason::NotAService),
            "{kind}"
        );
    }
    let web = svc(T, "web");
    assert_eq!(ask(&mut policy, "db", &[], 0).code, Reason::NoIdentity);
    assert_eq!(
        ask(&mut policy, "db", &[&web, &web], 0).code,
        Reason::SeveralIdentities
    );
    assert_eq!(
        ask(&mut policy, "db", &[&web, "mailto:a"], 0).code,
        Reason::SeveralIdentities
    );
    assert_eq!(
        ask(&mut policy, "db", &[], 1_001).code,
        Reason::Stale,
        "freshness comes first"
    );
}

#[test]
fn requests_to_http_services_are_judged() {
    let rules = [rule("web", "allow")];
    let request = Request {
        method: b"GET".to_vec(),
        path: b"/".to_vec(),
        ..Request::default()
    };
    let gateway = format!("spiffe://{T}/gateway/mesh/dc/dc1");
    let code = |protocol: &str, uri: &str, via: bool| {
        let mut policy = loaded(&mesh(), &json!({"protocol": protocol, "intentions": rules}));
        let via_gateway =
            via.then(|| b"By=x;URI=spiffe://beta.consul/ns/default/dc/d/svc/web".to_vec());
        let client = Client {
            via_gateway,
            ..Client::from_uri(uri)
        };
        question(&mut policy, "db", &client, Some(&request), 0).code
    };
    for protocol in ["http", "http2", "grpc"] {
        assert_eq!(code(protocol, &svc(T, "web"), false), Reason::Intention);
        assert_eq!(
            code(protocol, &svc("delta.consul", "web"), false),
            Reason::ForeignTrustDomain
        );
        assert_eq!(code(protocol, &gateway, false), Reason::NotAService);
        assert_eq!(
            code(protocol, &gateway, true),
            Reason::DefaultPolicy,
            "the rule is about the mesh's own"
        );
    }
    assert_eq!(
        code("tcp", &svc(T, "web"), false),
        Reason::Intention,
        "TCP has no requests"
    );
    assert_eq!(code("tcp", &gateway, true), Reason::NotAService);
}

#[test]
fn a_connection_to_an_http_service_is_judged_where_requests_cannot_differ() {
    let code = |rule: Value, default: &str| {
        let mut mesh = mesh();
        mesh["default_policy"] = json!(default);
        let mut policy = loaded(&mesh, &json!({"protocol": "http", "intentions": [rule]}));
        code(&mut policy, &svc(T, "web"))
    };
    let jwt = json!({"Providers": [{"Name": "okta"}]});
    assert_eq!(
        code(rule("web", "allow"), "deny"),
        (Effect::Allow, Reason::Intention)
    );
    assert_eq!(
        code(rule("web", "deny"), "allow"),
        (Effect::Deny, Reason::Intention)
    );
    assert_eq!(
        code(rule("api", "deny"), "allow"),
        (Effect::Allow, Reason::DefaultPolicy)
    );
    let required = (Effect::Deny, Reason::RequestRequired);
    for default in ["allow", "deny"] {
        for action in ["allow", "deny"] {
            let mut with_jwt = rule("web", action);
            with_jwt["JWT"] = jwt.clone();
            assert_eq!(code(with_jwt, default), required);
            let permission = json!({"Action": action, "HTTP": {"PathPrefix": "/"}});
            let requests =
                json!({"SourceName": "web", "DestinationName": "db", "Permissions": [permission]});
            assert_eq!(code(requests, default), required);
        }
    }
}

/// The key of the last target is remembered: whatever was asked before, each target has
/// its own answer.
#[test]
fn targets_in_any_order_have_the_same_answers() {
    let mut policy = of_rules(&[rule("web", "allow")]);
    let web = svc(T, "web");
    let targets = [
        ("db", Reason::Intention),
        ("", Reason::MalformedTarget),
        ("DB", Reason::Intention),
        ("d b", Reason::MalformedTarget),
        ("default/default/db", Reason::Intention),
        ("other", Reason::UnknownTarget),
        ("default/db", Reason::Intention),
        ("db/", Reason::MalformedTarget),
    ];
    for (first, _) in targets {
        for (second, reason) in targets {
            for target in [first, second, second] {
                let _ = ask(&mut policy, target, &[&web], 0);
            }
            assert_eq!(
                ask(&mut policy, second, &[&web], 0).code,
                reason,
                "`{second}` after `{first}`"
            );
        }
    }
    let mut fresh = of_rules(&[rule("web", "allow")]);
    assert_eq!(
        ask(&mut fresh, "", &[&web], 0).code,
        Reason::MalformedTarget
    );
}

#[test]
fn peers_are_origins_of_their_own() {
    let mut policy = of_rules(&[
        peer_rule("beta", "web", "allow"),
        peer_rule("gamma", "*", "allow"),
        rule("api", "allow"),
    ]);
    let allow = (Effect::Allow, Reason::Intention);
    let by_default = (Effect::Deny, Reason::DefaultPolicy);
    assert_eq!(code(&mut policy, &svc("beta.consul", "web")), allow);
    assert_eq!(
        code(&mut policy, &svc(T, "web")),
        by_default,
        "a peer's rule is not ours"
    );
    assert_eq!(
        code(&mut policy, &svc("beta.consul", "api")),
        by_default,
        "ours is not a peer's"
    );
    assert_eq!(
        code(
            &mut policy,
            "spiffe://gamma.consul/ap/ap1/ns/default/dc/d/svc/x"
        ),
        allow
    );
}

#[test]
fn a_denial_of_an_unloaded_peer_denies_every_peer_and_an_allow_nobody() {
    let orphan = (Effect::Deny, Reason::PeerWithoutBundle);
    let beta = svc("beta.consul", "web");
    let mut policy = of_rules(&[
        peer_rule("beta", "web", "allow"),
        peer_rule("gone", "other", "deny"),
        rule("web", "allow"),
    ]);
    assert_eq!(code(&mut policy, &beta), orphan);
    assert_eq!(ask(&mut policy, "db", &[&beta], 0).intention, Some(2));
    assert_eq!(
        code(&mut policy, &svc(T, "web")).0,
        Effect::Allow,
        "not our own"
    );
    // The bundle comes: nothing is orphaned any more.
    let mut more = mesh();
    more["peers"]["gone"] = json!({"trust_domain": "gone.consul"});
    policy.load(2, vec![document("mesh", &more, 0)]);
    assert_eq!(code(&mut policy, &beta), (Effect::Allow, Reason::Intention));
    policy.load(3, vec![document("mesh", &mesh(), 0)]);
    assert_eq!(code(&mut policy, &beta), orphan);

    let mut policy = of_rules(&[
        peer_rule("beta", "web", "allow"),
        peer_rule("gone", "*", "allow"),
    ]);
    assert_eq!(code(&mut policy, &beta), (Effect::Allow, Reason::Intention));
    let permissions = json!({"SourcePeer": "gone", "SourceName": "x", "DestinationName": "db",
        "Permissions": [{"Action": "allow", "HTTP": {"PathPrefix": "/"}}]});
    let mut policy = of_rules(&[peer_rule("beta", "web", "allow"), permissions]);
    assert_eq!(code(&mut policy, &beta), orphan, "permissions deny on TCP");
}

#[test]
fn peers_that_cannot_be_told_apart_are_left_out() {
    let mut twins = mesh();
    twins["peers"]["beta2"] = json!({"trust_domain": "beta.consul"});
    twins["peers"]["own"] = json!({"trust_domain": T});
    twins["peers"]["torn"] = json!({"trust_domain": "torn.consul", "roots": ["no PEM"]});
    let mut policy = Policy::new(chain::rustcrypto());
    let rules = [
        peer_rule("beta", "*", "allow"),
        peer_rule("own", "*", "allow"),
        peer_rule("torn", "*", "allow"),
    ];
    let report = policy.load(
        1,
        vec![
            document("mesh", &twins, 0),
            document(DB, &json!({"intentions": rules}), 0),
        ],
    );
    assert_eq!(
        (report.refused.len(), report.warnings.len()),
        (0, 5),
        "{report:?}"
    );
    assert_eq!(
        code(&mut policy, &svc("beta.consul", "web")).1,
        Reason::ForeignTrustDomain
    );
    assert_eq!(
        code(&mut policy, &svc("torn.consul", "web")).1,
        Reason::ForeignTrustDomain
    );
    assert_eq!(code(&mut policy, &svc(T, "web")).1, Reason::DefaultPolicy);

    // The same trust domain by another partition is a peer of its own.
    let mut two = mesh();
    two["peers"]["beta2"] = json!({"trust_domain": "beta.consul", "exported_partition": "ap2"});
    let rules = [
        peer_rule("beta", "*", "allow"),
        peer_rule("beta2", "*", "deny"),
    ];
    let mut policy = loaded(&two, &json!({"intentions": rules}));
    assert_eq!(
        code(&mut policy, &svc("beta.consul", "web")).0,
        Effect::Allow
    );
    let second = "spiffe://beta.consul/ap/ap2/ns/default/dc/d/svc/web";
    assert_eq!(code(&mut policy, second), (Effect::Deny, Reason::Intention));
}

#[test]
fn explanations_list_the_way_to_the_deciding_rule() {
    let rules = [
        rule("*", "allow"),
        rule("web", "deny"),
        peer_rule("beta", "web", "allow"),
        rule("api", "allow"),
    ];
    let policy = of_rules(&rules);
    let trace = policy.explain("db", &Client::from_uri(svc(T, "WEB")), None, at(0));
    let steps: Vec<_> = trace
        .steps
        .iter()
        .map(|s| {
            (
                s.intention,
                s.precedence,
                s.rule.as_str(),
                s.matched,
                s.failed.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        steps,
        [
            (
                0,
                9,
                "api -> db: allow",
                false,
                Some("name: `WEB` is not `api`")
            ),
            (1, 9, "web -> db: deny", true, None),
        ]
    );
    assert!(trace.notes.iter().any(|note| note.contains("only in case")));
    assert_eq!(
        trace.text,
        "denied: the intention `web -> db: deny` matched"
    );
    assert_eq!(trace.default_policy, "deny");

    let trace = policy.explain("db", &Client::from_uri(svc(T, "other")), None, at(0));
    assert_eq!(trace.steps.len(), 4);
    assert_eq!(
        trace.steps[2].failed.as_deref(),
        Some("origin: the client is of this mesh")
    );
    assert!(trace.decision.is_allowed());

    // The rule that Consul's Envoy would let act instead.
    let wide = [
        rule("*", "deny"),
        json!({"SourceName": "web", "DestinationName": "*", "Action": "allow"}),
    ];
    let trace = of_rules(&wide).explain("db", &Client::from_uri(svc(T, "web")), None, at(0));
    assert_eq!(trace.decision.effect, Effect::Deny);
    assert!(
        trace.notes.iter().any(|note| note.contains("Envoy")),
        "{trace:?}"
    );
}

#[test]
fn descriptions_survive_decisions_of_another_policy() {
    let policy = of_rules(&[rule("web", "allow")]);
    for code in Reason::all() {
        for generation in [0, 1, u64::MAX] {
            for intention in [None, Some(0), Some(u32::MAX)] {
                let decision = Decision {
                    intention,
                    permission: intention,
                    ..Decision::denied(*code, generation)
                };
                for target in ["db", "d\u{1b}[2Jb", ""] {
                    let text = policy.describe(target, &decision);
                    assert!(text.starts_with("denied: "), "{text}");
                    assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)), "{text:?}");
                }
            }
        }
    }
}

#[test]
fn needed_headers_are_those_of_all_rules() {
    let needs = |protocol: &str, rules: Value| {
        loaded(&mesh(), &json!({"protocol": protocol, "intentions": rules})).needed_headers("db")
    };
    let header = |name: &str| {
        json!({"SourceName": "web", "DestinationName": "db",
        "Permissions": [{"Action": "deny", "HTTP": {"Header": [{"Name": name, "Present": true}]}}]})
    };
    let mut jwt = rule("api", "allow");
    jwt["JWT"] = json!({"Providers": [{"Name": "okta"}]});
    assert_eq!(
        needs("http", json!([rule("web", "allow")])),
        HeaderNeeds::None
    );
    assert_eq!(
        needs(
            "http",
            json!([header("X-B"), header(":Authority"), header(":path")])
        ),
        HeaderNeeds::Named(vec!["host".into(), "x-b".into()])
    );
    assert_eq!(needs("http", json!([header("x-b"), jwt])), HeaderNeeds::All);
    assert_eq!(needs("tcp", json!([header("x-b")])), HeaderNeeds::None);
    assert_eq!(of_rules(&[]).needed_headers("unknown"), HeaderNeeds::All);
}

#[test]
fn chains_need_fresh_roots() {
    let mut policy = Policy::new(chain::rustcrypto());
    let verify = |policy: &mut Policy, now| {
        policy
            .verify_peer(&[b"x".to_vec()], Usage::Client, None, at(now))
            .unwrap_err()
            .code()
    };
    let not_loaded = verify(&mut policy, 0);
    policy.load(1, vec![document("mesh", &mesh(), 0)]);
    let malformed = verify(&mut policy, 1_000);
    let stale = verify(&mut policy, 1_001);
    assert_eq!(verify(&mut policy, 0), stale, "the clock was set back");
    assert_eq!(
        [not_loaded, malformed, stale],
        ["roots-not-loaded", "malformed-certificate", "roots-stale"]
    );
    policy.touch(&[], at(0));
    let expected = policy
        .verify_peer(&[b"x"], Usage::Client, Some("web"), at(0))
        .unwrap_err();
    assert_eq!(expected.code(), "malformed-expected-identity");
}
