//! The differences that we mean, case by case; each must happen in every run.

use portcullis_core::http::HttpVersion::{self, Http1, Http2};
use serde_json::{Value, json};

use crate::client::Client;
use crate::differences::{
    BAD_HOST, IDENTITY, NO_HOST, NO_PATH, OWN_HEADERS, PATTERN, QUERY, SCHEME, TOKEN, WIDER_FIRST,
};
use crate::question::Question;
use crate::scene::{PROVIDERS, Scene};

/// Rules under which something is asked.
pub(crate) struct Rules {
    pub(crate) default: &'static str,
    pub(crate) sources: Vec<Value>,
    pub(crate) wildcard: Vec<Value>,
    pub(crate) asked: Vec<Asked>,
}

/// What is asked, and by whom.
pub(crate) struct Asked {
    pub(crate) heading: &'static str,
    /// The case in words, for the page.
    pub(crate) what: String,
    pub(crate) client: Client,
    pub(crate) question: Question,
}

/// All of them.
pub(crate) fn rules(scene: &Scene) -> Vec<Rules> {
    let mut all = sources(scene);
    all.extend(headers(scene));
    all.extend(identities(scene));
    all.extend(forms(scene));
    all.retain(|rules| rules.default == scene.default);
    all
}

/// The action that is not the default one.
const fn other(default: &str) -> &'static str {
    // "allow" is longer than "deny".
    if default.len() == 5 { "deny" } else { "allow" }
}

fn rule(source: &str, action: &str) -> Value {
    json!({ "Name": source, "Action": action })
}

fn permissions(source: &str, list: Value) -> Value {
    json!({ "Name": source, "Permissions": list })
}

fn get(target: &str) -> Question {
    Question::get(Http1, target)
}

fn sources(scene: &Scene) -> Vec<Rules> {
    let mut all = Vec::new();
    for default in ["allow", "deny"] {
        let action = other(default);
        all.push(Rules {
            default,
            sources: vec![rule("*", default)],
            wildcard: vec![rule("web", action)],
            asked: vec![Asked {
                heading: WIDER_FIRST,
                what: format!("`*` → `api` {default}, `web` → `*` {action}: `web` asks"),
                client: scene.client("web"),
                question: get("/"),
            }],
        });
        let caller = |name: &str, what: &str| Asked {
            heading: PATTERN,
            what: format!("`web.v1` → `api` {action}{what}: `{name}` asks"),
            client: scene.client(name),
            question: get("/a"),
        };
        all.push(Rules {
            default,
            sources: vec![rule("web.v1", action)],
            wildcard: vec![],
            asked: vec![caller("webxv1", ""), caller("web-v1", "")],
        });
        let list = json!([{ "Action": action, "HTTP": { "PathPrefix": "/a" } }]);
        all.push(Rules {
            default,
            sources: vec![permissions("web.v1", list)],
            wildcard: vec![],
            asked: vec![caller("webxv1", " below `/a`")],
        });
    }
    all
}

fn headers(scene: &Scene) -> Vec<Rules> {
    let mut all = Vec::new();
    let versions: [(HttpVersion, &str); 2] = [(Http1, "HTTP/1.1"), (Http2, "HTTP/2")];
    for default in ["allow", "deny"] {
        let action = other(default);
        let header = |matcher: Value| {
            permissions(
                "web",
                json!([{ "Action": action, "HTTP": { "Header": [matcher] } }]),
            )
        };
        all.push(Rules {
            default,
            sources: vec![header(json!({ "Name": ":scheme", "Exact": "http" }))],
            wildcard: vec![],
            asked: vec![Asked {
                heading: SCHEME,
                what: format!(
                    "{action} `:scheme` exact `http`: TLS with `x-forwarded-proto: http`"
                ),
                client: scene.client("web"),
                question: get("/").header("x-forwarded-proto", "http"),
            }],
        });
        for name in [
            "x-request-id",
            "x-forwarded-proto",
            "x-forwarded-client-cert",
        ] {
            all.push(Rules {
                default,
                sources: vec![header(json!({ "Name": name, "Present": true }))],
                wildcard: vec![],
                asked: versions
                    .iter()
                    .map(|(version, text)| Asked {
                        heading: OWN_HEADERS,
                        what: format!("{action} `{name}` present: {text} without it"),
                        client: scene.client("web"),
                        question: Question::get(*version, "/"),
                    })
                    .collect(),
            });
        }
        for name in ["x-envoy-internal", "x-envoy-expected-rq-timeout-ms"] {
            all.push(Rules {
                default,
                sources: vec![header(json!({ "Name": name, "Present": true }))],
                wildcard: vec![],
                asked: versions
                    .iter()
                    .map(|(version, text)| Asked {
                        heading: OWN_HEADERS,
                        what: format!("{action} `{name}` present: {text} with it"),
                        client: scene.client("web"),
                        question: Question::get(*version, "/").header(name, "1"),
                    })
                    .collect(),
            });
        }
        // The rule that decides asks for no token, another one does.
        let providers = json!({ "Providers": [{ "Name": PROVIDERS[0] }] });
        let token = scene.issuers[0].token(3_600, &json!({}));
        all.push(Rules {
            default,
            sources: vec![permissions(
                "web",
                json!([
                    { "Action": action, "HTTP": { "PathExact": "/a" }, "JWT": providers },
                    { "Action": "allow", "HTTP": { "PathPrefix": "/" } },
                ]),
            )],
            wildcard: vec![],
            asked: vec![Asked {
                heading: TOKEN,
                what: format!("{action} `/a` with JWT, then allow: `/` with a valid token"),
                client: scene.client("web"),
                question: get("/").header("authorization", &format!("Bearer {token}")),
            }],
        });
    }
    all
}

fn identities(scene: &Scene) -> Vec<Rules> {
    let domain = &scene.trust_domain;
    let uri = |domain: &str, path: &str| format!("spiffe://{domain}{path}");
    let web = uri(domain, "/ns/default/dc/dc1/svc/web");
    let plain = |uri: &str| scene.stranger(&[uri], &scene.ca.leaf(uri).issue());
    let asked = |what: &str, client: Client, rule: &str| Asked {
        heading: IDENTITY,
        what: format!("{rule}: {what}"),
        client,
        question: get("/"),
    };
    let everybody = "`*` → `api` deny";
    let without = scene.ca.leaf(&web).with(|draft| draft.no_uri()).issue();
    let loose = Rules {
        default: "allow",
        sources: vec![rule("*", "deny")],
        wildcard: vec![],
        asked: vec![
            asked(
                "another trust domain",
                plain(&uri("elsewhere.consul", "/ns/default/dc/dc1/svc/web")),
                everybody,
            ),
            asked(
                "the default partition, written out",
                plain(&uri(domain, "/ap/default/ns/default/dc/dc1/svc/web")),
                everybody,
            ),
            asked(
                "an agent",
                plain(&uri(domain, "/agent/client/dc/dc1/id/web")),
                everybody,
            ),
            asked(
                "a mesh gateway",
                plain(&uri(domain, "/gateway/mesh/dc/dc1")),
                everybody,
            ),
            asked("no URI name", scene.stranger(&[], &without), everybody),
            asked(
                "`SPIFFE://` in upper case",
                plain(&format!("SPIFFE{}", &web[6..])),
                everybody,
            ),
            asked(
                "a port in the trust domain",
                plain(&uri(&format!("{domain}:1"), "/ns/default/dc/dc1/svc/web")),
                everybody,
            ),
        ],
    };
    let api = uri(domain, "/ns/default/dc/dc1/svc/other");
    let two = |first: &str, second: &str| {
        let leaf = scene
            .ca
            .leaf(first)
            .with(|draft| draft.two_uris(second))
            .issue();
        scene.stranger(&[first, second], &leaf)
    };
    let allowed = "`web` → `api` allow";
    let strict = Rules {
        default: "deny",
        sources: vec![rule("web", "allow")],
        wildcard: vec![],
        asked: vec![
            asked("two URI names, `web` first", two(&web, &api), allowed),
            asked("two URI names, `web` last", two(&api, &web), allowed),
            asked(
                "a dot of the trust domain is another character",
                plain(&uri(
                    &domain.replacen('.', "-", 1),
                    "/ns/default/dc/dc1/svc/web",
                )),
                allowed,
            ),
        ],
    };
    vec![loose, strict]
}

fn forms(scene: &Scene) -> Vec<Rules> {
    let bare = |version: HttpVersion| {
        let mut question = Question::get(version, "/").without("host");
        question.authority = None;
        question
    };
    let asked = |heading: &'static str, what: &str, question: Question| Asked {
        heading,
        what: format!("`web` → `api` allow: {what}"),
        client: scene.client("web"),
        question,
    };
    ["allow", "deny"]
        .into_iter()
        .map(|default| Rules {
            default,
            sources: vec![rule("web", "allow")],
            wildcard: vec![],
            asked: vec![
                asked(
                    QUERY,
                    "HTTP/2 QUERY without `content-type`",
                    Question::get(Http2, "/").method("QUERY"),
                ),
                asked(
                    QUERY,
                    "HTTP/1.1 QUERY with `content-type`",
                    get("/")
                        .method("QUERY")
                        .header("content-type", "text/plain"),
                ),
                asked(NO_PATH, "HTTP/1.1 OPTIONS `*`", get("*").method("OPTIONS")),
                asked(
                    NO_PATH,
                    "HTTP/2 OPTIONS `*`",
                    Question::get(Http2, "*").method("OPTIONS"),
                ),
                asked(NO_PATH, "HTTP/1.1 `http://api?x=1`", get("http://api?x=1")),
                asked(
                    BAD_HOST,
                    "HTTP/1.1 `http://api/` with `host: a b`",
                    get("http://api/").without("host").header("host", "a b"),
                ),
                asked(NO_HOST, "HTTP/1.1 without `host`", bare(Http1)),
                asked(
                    NO_HOST,
                    "HTTP/2 without `:authority` and `host`",
                    bare(Http2),
                ),
            ],
        })
        .collect()
}

/// What a rule that asks for tokens means to the filter: the same.
pub(crate) fn tokens(scene: &Scene) -> Vec<Rules> {
    let providers = json!({ "Providers": [{ "Name": PROVIDERS[0] }] });
    let token = scene.issuers[0].token(3_600, &json!({}));
    let mut all = Vec::new();
    for action in ["allow", "deny"] {
        let asked = |what: &str, question: Question| Asked {
            heading: TOKEN,
            what: format!("{action} `/a` with JWT, then allow: {what}"),
            client: scene.client("web"),
            question,
        };
        all.push(Rules {
            default: scene.default,
            sources: vec![permissions(
                "web",
                json!([
                    { "Action": action, "HTTP": { "PathPrefix": "/a" }, "JWT": providers },
                    { "Action": "allow", "HTTP": { "PathPrefix": "/b" } },
                ]),
            )],
            wildcard: vec![],
            asked: vec![
                asked("`/a` without a token", get("/a")),
                asked(
                    "`/a` with a valid token",
                    get("/a").header("authorization", &format!("Bearer {token}")),
                ),
                asked("`/b` without a token", get("/b")),
            ],
        });
    }
    all
}
