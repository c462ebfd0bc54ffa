//! What must hold for every policy and every request.

use base64ct::Encoding as _;
use portcullis_core::chain;
use portcullis_core::http::{
    EscapedSlashes, HttpVersion, Preparation, Prepared, Request, RequestNormalization, Underscores,
    encode_headers,
};
use portcullis_core::intention::{Decision, Effect, Matching, Reason};
use portcullis_core::policy::{Client, Document, Policy};
use portcullis_core::time::Timestamp;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

const T: &str = "t.consul";

fn parts() -> impl Strategy<Value = &'static str> {
    select(vec![
        "/", "/", "/", "//", "a", "b", "admin", "v1", ".", "..", "%2e", "%2E", "..;", ".;x", ";",
        "a;b", "%2f", "%2F", "%5c", "\\", "%61", "%7e", "%25", "%", "%2", "?x", "?//", "\"", "|",
        "%41dmin", "%00", "#", " ", "é", "*", "http://h",
    ])
}

fn target() -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(parts(), 0..8), 0..20).prop_map(|(parts, odd)| {
        let rest = parts.concat();
        let text = if odd == 0 { rest } else { format!("/{rest}") };
        text.into_bytes()
    })
}

fn value() -> impl Strategy<Value = &'static str> {
    select(vec![
        "", "a", "b", "ab", "A", "a,b", " a", "b ", "a,a", "ba", "a; b",
    ])
}

const NAMES: [&str; 7] = ["x", "X-Y", "user-agent", "cookie", "host", "x_z", "te"];

fn request() -> impl Strategy<Value = Request> {
    let header = (select(NAMES.to_vec()), value());
    (
        target(),
        select(vec!["GET", "POST", "get", "CONNECT", "OPTIONS", "PURGE"]),
        prop::collection::vec(header, 0..6),
        any::<bool>(),
        prop::option::of(value()),
    )
        .prop_map(|(path, method, headers, is_http2, authority)| {
            let headers: Vec<(String, &str)> = headers
                .into_iter()
                .map(|(name, value)| match is_http2 {
                    true => (name.to_lowercase(), value),
                    false => (name.to_owned(), value),
                })
                .collect();
            let pairs = headers
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            Request {
                version: if is_http2 {
                    HttpVersion::Http2
                } else {
                    HttpVersion::Http1
                },
                method: method.as_bytes().to_vec(),
                path,
                authority: authority
                    .filter(|_| is_http2)
                    .map(|text| text.as_bytes().to_vec()),
                scheme: None,
                headers: encode_headers(pairs).unwrap(),
            }
        })
}

fn header_rule() -> impl Strategy<Value = Value> {
    let names = [
        &NAMES[..],
        &[":path", ":method", ":authority", ":scheme", ":other"],
    ]
    .concat();
    (
        select(names),
        select(vec!["Present", "Exact", "Prefix", "Suffix", "Contains"]),
        select(vec!["a", "b", "ab", "A", "a,b", "/admin", "GET", " a"]),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(name, kind, value, invert, ignore_case)| {
            let mut rule = json!({ "Name": name, "Invert": invert });
            if kind == "Present" {
                rule[kind] = json!(true);
            } else {
                rule[kind] = json!(value);
                rule["IgnoreCase"] = json!(ignore_case);
            }
            rule
        })
}

fn permission() -> impl Strategy<Value = Value> {
    (
        any::<bool>(),
        prop::option::of((
            select(vec!["PathExact", "PathPrefix"]),
            select(vec![
                "/",
                "/a",
                "/admin",
                "/v1/",
                "//",
                "/a;b",
                "/x%2fadmin",
                "/a/b",
            ]),
        )),
        prop::collection::vec(header_rule(), 0..3),
        prop::option::of(select(vec!["GET", "POST", "CONNECT"])),
    )
        .prop_map(|(allow, path, headers, method)| {
            let mut http = json!({});
            if let Some((kind, path)) = path {
                http[kind] = json!(path);
            }
            if !headers.is_empty() {
                http["Header"] = json!(headers);
            }
            if let Some(method) = method {
                http["Methods"] = json!([method]);
            }
            if http == json!({}) {
                http["PathPrefix"] = json!("/");
            }
            json!({ "Action": if allow { "allow" } else { "deny" }, "HTTP": http })
        })
}

/// A rule or permission, which in some cases asks for a token too.
fn with_jwt(rule: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let wanted = select(vec!["okta", "okta", "nobody"]);
    (rule, prop::option::weighted(0.3, wanted)).prop_map(|(mut rule, wanted)| {
        if let Some(name) = wanted {
            rule["JWT"] = json!({ "Providers": [{ "Name": name }] });
        }
        rule
    })
}

fn tokens() -> Value {
    serde_json::from_str(include_str!("../data/jwt/tokens.json")).unwrap()
}

fn intention() -> impl Strategy<Value = Value> {
    (
        select(vec!["web", "WEB", "*", "api"]),
        prop::option::weighted(0.7, prop::collection::vec(with_jwt(permission()), 1..5)),
        any::<bool>(),
    )
        .prop_map(|(source, permissions, allow)| {
            let mut rule = json!({ "SourceName": source, "DestinationName": "db" });
            match permissions {
                Some(permissions) => rule["Permissions"] = json!(permissions),
                None => rule["Action"] = json!(if allow { "allow" } else { "deny" }),
            }
            rule
        })
}

fn normalization() -> impl Strategy<Value = RequestNormalization> {
    (
        any::<bool>(),
        any::<bool>(),
        select(vec![
            EscapedSlashes::Keep,
            EscapedSlashes::Reject,
            EscapedSlashes::Redirect,
            EscapedSlashes::Forward,
        ]),
        select(vec![
            Underscores::Allow,
            Underscores::Reject,
            Underscores::Drop,
        ]),
    )
        .prop_map(
            |(raw, merge, escaped_slashes, underscores)| RequestNormalization {
                insecure_disable_path_normalization: raw,
                merge_slashes: merge,
                escaped_slashes,
                underscores,
            },
        )
}

fn policy(
    matching: &str,
    intentions: &[Value],
    default: &str,
    settings: &RequestNormalization,
    more: &Value,
) -> Policy {
    let mut mesh = json!({
        "trust_domain": T, "roots": [], "default_policy": default, "matching": matching, "max_stale_ms": 0,
        "request_normalization": {
            "InsecureDisablePathNormalization": settings.insecure_disable_path_normalization,
            "MergeSlashes": settings.merge_slashes,
            "PathWithEscapedSlashesAction": match settings.escaped_slashes {
                EscapedSlashes::Keep => "KEEP_UNCHANGED",
                EscapedSlashes::Reject => "REJECT_REQUEST",
                EscapedSlashes::Redirect => "UNESCAPE_AND_REDIRECT",
                EscapedSlashes::Forward => "UNESCAPE_AND_FORWARD",
            },
            "HeadersWithUnderscoresAction": match settings.underscores {
                Underscores::Allow => "ALLOW",
                Underscores::Reject => "REJECT_REQUEST",
                Underscores::Drop => "DROP_HEADER",
            },
        },
    });
    for (field, value) in more.as_object().unwrap() {
        mesh[field] = value.clone();
    }
    let service = json!({ "protocol": "http", "intentions": intentions });
    let mut policy = Policy::new(chain::rustcrypto());
    let documents = [("mesh", mesh), ("service/default/default/db", service)];
    let documents = documents.map(|(name, body)| Document {
        name: name.to_owned(),
        body: Some(body.to_string().into_bytes()),
        confirmed_at: Timestamp::default(),
    });
    let report = policy.load(1, documents.into());
    assert!(report.refused.is_empty(), "{report:?}");
    policy
}

fn ask(policy: &mut Policy, source: &str, request: &Request) -> Decision {
    let client = Client::from_uri(format!("spiffe://{T}/ns/default/dc/dc1/svc/{source}"));
    // The moment at which the tokens are valid.
    let now = Timestamp::from_unix_secs(1_800_000_000);
    let decision = policy.authorize("db", &client, Some(request), now);
    let trace = policy.explain("db", &client, Some(request), now);
    assert_eq!(trace.decision, decision, "explain and authorize agree");
    decision
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// The rule of strict matching: whatever it allows, Envoy's allows too.
    #[test]
    fn strict_never_allows_what_envoy_denies(
        intentions in prop::collection::vec(with_jwt(intention()), 0..4),
        mut requests in prop::collection::vec(request(), 1..6),
        token in prop::option::weighted(0.3, select(vec!["RS256", "exp absent", "other key"])),
        default in select(vec!["allow", "deny"]),
        source in select(vec!["web", "Web", "api"]),
        settings in normalization(),
        refuse_ambiguous in any::<bool>(),
    ) {
        let data = tokens();
        let keys = base64ct::Base64::encode_string(data["keys"]["all"].to_string().as_bytes());
        let mut more = json!({ "jwt_providers": [{
            "Name": "okta", "Issuer": "okta", "JSONWebKeySet": { "Local": { "JWKS": keys } },
        }] });
        if refuse_ambiguous {
            more["ambiguous_path"] = json!("reject");
        }
        if let (Some(token), Some(first)) = (token, requests.first_mut()) {
            let value = format!("Bearer {}", data["tokens"][token].as_str().unwrap());
            let header = [(&b"authorization"[..], value.as_bytes())];
            first.headers.extend(encode_headers(header).unwrap());
        }
        let mut strict = policy("strict", &intentions, default, &settings, &more);
        let mut envoy = policy("envoy", &intentions, default, &settings, &more);
        for request in &requests {
            let (strict, envoy) = (ask(&mut strict, source, request), ask(&mut envoy, source, request));
            if strict.is_allowed() {
                prop_assert!(envoy.is_allowed(), "{request:?}: {strict:?} and {envoy:?}");
                prop_assert_eq!(&strict.path, &envoy.path);
                // Another rule may ask for other tokens, so only the same one changes the same.
                let deciding = |by: &Decision| (by.code, by.intention, by.permission);
                if deciding(&strict) == deciding(&envoy) {
                    prop_assert_eq!(strict.headers, envoy.headers);
                }
            }
        }
    }

    /// Under default deny, only an allow can allow (CVE-2021-36213).
    #[test]
    fn only_an_allow_allows_under_default_deny(
        intentions in prop::collection::vec(intention(), 0..4),
        request in request(),
        matching in select(vec!["strict", "envoy"]),
        settings in normalization(),
    ) {
        let mut policy = policy(matching, &intentions, "deny", &settings, &json!({}));
        let decision = ask(&mut policy, "web", &request);
        if decision.is_allowed() {
            prop_assert!(matches!(decision.code, Reason::Intention | Reason::Permission), "{decision:?}");
        }
    }

    /// What is forwarded is a fixed point: judged once more, it is the same and stays.
    #[test]
    fn what_is_forwarded_is_a_fixed_point(
        target in target(),
        settings in normalization(),
        matching in select(vec![Matching::Strict, Matching::Envoy]),
    ) {
        let request = Request { method: b"GET".to_vec(), path: target, ..Request::default() };
        let Ok(prepared) = Prepared::read(&request, &settings, matching) else { return Ok(()) };
        let path = match prepared {
            Preparation::Judged(prepared) => prepared.path_and_query().unwrap().to_vec(),
            Preparation::Redirect(location) => location,
        };
        let again = Request { path: path.clone(), ..request };
        match Prepared::read(&again, &settings, matching) {
            Ok(Preparation::Judged(again)) => {
                prop_assert_eq!(again.path_and_query().unwrap(), path.as_slice());
                prop_assert_eq!(again.changed_target(), None);
            }
            other => prop_assert!(false, "{other:?} of {path:?}"),
        }
    }

    /// Any bytes are answered, and what is not HTTP is a bad request.
    #[test]
    fn any_bytes_are_answered(
        method in prop::collection::vec(any::<u8>(), 0..6),
        path in prop::collection::vec(any::<u8>(), 0..24),
        headers in prop::collection::vec(any::<u8>(), 0..40),
        is_http2 in any::<bool>(),
        settings in normalization(),
    ) {
        let version = if is_http2 { HttpVersion::Http2 } else { HttpVersion::Http1 };
        let request = Request { version, method, path, headers, ..Request::default() };
        let mut policy = policy("strict", &[], "allow", &settings, &json!({}));
        let decision = ask(&mut policy, "web", &request);
        prop_assert!(matches!(decision.effect, Effect::Allow | Effect::BadRequest | Effect::Redirect));
    }
}
