//! Tokens by another implementation (`tests/data/jwt`), valid and hostile.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{
    Jwks, JwksError, MAX_TOKEN, Presented, Provider, Providers, Standing, TokenError, Unverifiable,
    Verifier,
};
use crate::intention::json::At;
use crate::intention::{Action, Claim, Jwt, JwtProvider, Matching, Tokens as _};
use crate::time::Timestamp;

#[derive(Deserialize)]
struct Data {
    now: u64,
    keys: BTreeMap<String, Value>,
    tokens: BTreeMap<String, String>,
}

impl Data {
    fn read() -> Self {
        serde_json::from_str(include_str!("../../tests/data/jwt/tokens.json")).unwrap()
    }

    fn jwks(&self, name: &str) -> Jwks {
        Jwks::parse(self.keys[name].to_string().as_bytes()).unwrap()
    }

    fn token(&self, name: &str) -> &str {
        &self.tokens[name]
    }
}

fn provider(entry: &Value) -> Provider {
    let raw = RawValue::from_string(entry.to_string()).unwrap();
    let mut warnings = Vec::new();
    let provider = Provider::decode(&raw, &At::ROOT, &mut warnings).unwrap();
    assert_eq!(warnings, [], "{entry}");
    provider
}

fn entry(more: &Value) -> Value {
    let mut entry = json!({ "Kind": "jwt-provider", "Name": "okta", "Issuer": "okta",
        "JSONWebKeySet": { "Remote": { "URI": "https://okta.example/keys" } } });
    for (key, value) in more.as_object().unwrap() {
        entry[key] = value.clone();
    }
    entry
}

fn requirement(claims: &[(&[&str], &str)]) -> Jwt {
    let claim = |(path, value): &(&[&str], &str)| Claim {
        path: path.iter().map(|name| (*name).to_owned()).collect(),
        value: (*value).to_owned(),
    };
    Jwt {
        providers: vec![JwtProvider {
            name: "okta".to_owned(),
            claims: claims.iter().map(claim).collect(),
        }],
    }
}

/// One provider, its keys, and when it is.
struct Case {
    providers: Providers,
    keys: Option<Jwks>,
    now: u64,
    matching: Matching,
}

impl Case {
    fn new(data: &Data, keys: &str, more: &Value) -> Self {
        let mut providers = Providers::default();
        providers.insert("okta".to_owned(), Some(provider(&entry(more))));
        Self {
            providers,
            keys: Some(data.jwks(keys)),
            now: data.now,
            matching: Matching::Strict,
        }
    }

    fn ask<T>(
        &self,
        headers: &[(&str, &str)],
        path: &str,
        answer: impl FnOnce(&Verifier<'_, '_>) -> T,
    ) -> T {
        let headers: Vec<(&[u8], &[u8])> = headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        let presented = Presented {
            headers: &headers,
            path: path.as_bytes(),
        };
        let now = Timestamp::from_unix_secs(self.now);
        let fetched = |_: &str| self.keys.as_ref();
        answer(&Verifier::new(
            &self.providers,
            fetched,
            presented,
            now,
            self.matching,
        ))
    }

    fn standing(&self, token: &str) -> Standing {
        let value = format!("Bearer {token}");
        self.ask(&[("Authorization", &value)], "/", |v| v.standing("okta"))
    }

    fn is_met(&self, token: &str, requirement: &Jwt, action: Action) -> bool {
        let value = format!("Bearer {token}");
        self.ask(&[("Authorization", &value)], "/", |v| {
            v.is_met(requirement, action)
        })
    }
}

const STRICT: Standing = Standing::Valid { strictly: true };
const LENIENT: Standing = Standing::Valid { strictly: false };

#[test]
fn every_algorithm_verifies_with_its_own_key() {
    let data = Data::read();
    let case = Case::new(&data, "all", &json!({}));
    for name in ["RS256", "ES256", "ES384", "ES512", "EdDSA"] {
        assert_eq!(case.standing(data.token(name)), STRICT, "{name}");
    }
    // The key names no algorithm, so Envoy takes any of its kind and strict only RS256.
    for name in ["RS384", "RS512", "PS256", "PS384", "PS512"] {
        assert_eq!(case.standing(data.token(name)), LENIENT, "{name}");
        assert!(!case.is_met(data.token(name), &requirement(&[]), Action::Allow));
        assert!(case.is_met(data.token(name), &requirement(&[]), Action::Deny));
    }
    let named = Case::new(&data, "PS256", &json!({}));
    assert_eq!(named.standing(data.token("PS256")), STRICT);
    assert_eq!(
        named.standing(data.token("RS256")),
        Standing::Invalid(TokenError::Signature)
    );
}

#[test]
fn what_is_not_valid_says_why() {
    use TokenError::*;
    let data = Data::read();
    let case = Case::new(&data, "all", &json!({}));
    for (name, error) in [
        ("other key", Signature),
        ("weak key", Signature),
        ("none", Algorithm),
        ("none in capitals", Algorithm),
        ("no signature", Signature),
        ("HS256 with the public key", Algorithm),
        ("HS256 with the modulus", Algorithm),
        ("ES256 said of RS256", Signature),
        ("kid a number", Malformed),
        ("repeated member", Malformed),
        ("repeated member within", Malformed),
        ("repeated alg", Malformed),
        ("exp null", Claim("exp")),
        ("exp text", Claim("exp")),
        ("exp 1e400", Malformed),
        ("exp 1e300", Claim("exp")),
        ("exp negative", Claim("exp")),
        ("exp 61 ago", Expired),
        ("nbf in 61", NotYetValid),
        ("nbf null", Claim("nbf")),
        ("nbf text", Claim("nbf")),
        ("nbf negative", Claim("nbf")),
        ("iss absent", Issuer),
        ("iss other", Issuer),
        ("iss empty", Issuer),
        ("iss list", Claim("iss")),
        ("aud number", Claim("aud")),
        ("not JSON", Malformed),
        ("two parts", Malformed),
        ("four parts", Malformed),
        ("empty", Malformed),
    ] {
        let standing = case.standing(data.token(name));
        assert_eq!(standing, Standing::Invalid(error), "{name}");
    }
    let long = "a".repeat(MAX_TOKEN + 1);
    assert_eq!(case.standing(&long), Standing::Invalid(Malformed));
    // Each byte counts.
    let good = data.token("ES256");
    for place in (0..good.len()).step_by(7) {
        let mut bad = good.to_owned().into_bytes();
        bad[place] = if bad[place] == b'A' { b'B' } else { b'A' };
        let bad = String::from_utf8(bad).unwrap();
        assert!(
            matches!(case.standing(&bad), Standing::Invalid(_)),
            "byte {place}"
        );
    }
}

/// What Envoy accepts and strict matching does not.
#[test]
fn strict_is_narrower_than_envoy() {
    let data = Data::read();
    let mut case = Case::new(&data, "all", &json!({ "ClockSkewSeconds": 10 }));
    for (name, standing) in [
        ("RS256", STRICT),
        ("exp absent", LENIENT),
        ("exp 0", LENIENT),
        ("exp fraction", LENIENT),
        ("exp 20 ago", LENIENT),
        ("exp 60 ago", LENIENT),
        ("nbf in 60", LENIENT),
        ("crit", LENIENT),
        ("padded", LENIENT),
    ] {
        let token = data.token(name);
        assert_eq!(case.standing(token), standing, "{name}");
        let asked = requirement(&[]);
        assert_eq!(
            case.is_met(token, &asked, Action::Allow),
            standing == STRICT,
            "{name}"
        );
        assert!(case.is_met(token, &asked, Action::Deny), "{name}");
    }
    case.matching = Matching::Envoy;
    assert!(case.is_met(data.token("exp absent"), &requirement(&[]), Action::Allow));
    // Without a skew of its own Envoy's holds, to the second.
    let case = Case::new(&data, "all", &json!({}));
    assert_eq!(case.standing(data.token("exp 60 ago")), STRICT);
    assert_eq!(case.standing(data.token("nbf in 60")), STRICT);
}

/// An attacker chooses `kid`: it selects among the loaded keys and does nothing else.
#[test]
fn kid_selects_among_loaded_keys() {
    let data = Data::read();
    let case = Case::new(&data, "with kid", &json!({}));
    assert_eq!(case.standing(data.token("kid")), STRICT);
    assert_eq!(case.standing(data.token("RS256")), STRICT);
    assert_eq!(
        case.standing(data.token("kid of no key")),
        Standing::Invalid(TokenError::Signature)
    );
    assert_eq!(
        Case::new(&data, "all", &json!({})).standing(data.token("kid")),
        STRICT
    );
    let encrypting = Case::new(&data, "for encryption", &json!({}));
    assert_eq!(encrypting.standing(data.token("RS256")), LENIENT);
}

#[test]
fn signatures_are_counted() {
    let data = Data::read();
    let case = Case::new(&data, "many", &json!({}));
    let many = Standing::Unverifiable(Unverifiable::TooMany);
    assert_eq!(case.standing(data.token("RS256")), many);
    let asked = requirement(&[]);
    assert!(!case.is_met(data.token("RS256"), &asked, Action::Allow));
    assert!(case.is_met(data.token("RS256"), &asked, Action::Deny));
}

#[test]
fn without_keys_an_allow_never_holds() {
    let data = Data::read();
    let mut case = Case::new(&data, "all", &json!({}));
    case.keys = None;
    let token = data.token("RS256");
    assert_eq!(
        case.standing(token),
        Standing::Unverifiable(Unverifiable::NoKeys)
    );
    assert!(!case.is_met(token, &requirement(&[]), Action::Allow));
    assert!(case.is_met(token, &requirement(&[]), Action::Deny));
    // An entry that cannot be read is not one that is missing.
    case.providers.insert("broken".to_owned(), None);
    case.ask(&[], "/", |verifier| {
        let unreadable = Standing::Unverifiable(Unverifiable::Unreadable);
        assert_eq!(verifier.standing("broken"), unreadable);
        assert_eq!(verifier.standing("missing"), Standing::Unknown);
        assert_eq!(verifier.standing("okta"), Standing::Absent);
    });
}

#[test]
fn audiences_are_compared_as_envoy_does() {
    let data = Data::read();
    let case = |audience| Case::new(&data, "all", &json!({ "Audiences": [audience] }));
    for audience in ["api", "https://api", "http://api/", "api/"] {
        for name in ["RS256", "aud list"] {
            assert_eq!(
                case(audience).standing(data.token(name)),
                STRICT,
                "{audience}"
            );
        }
        for name in ["aud other", "aud absent"] {
            let wrong = Standing::Invalid(TokenError::Audience);
            assert_eq!(
                case(audience).standing(data.token(name)),
                wrong,
                "{audience}"
            );
        }
    }
    let empty = Case::new(&data, "all", &json!({ "Issuer": "" }));
    assert_eq!(empty.standing(data.token("iss empty")), STRICT);
    let wrong = Standing::Invalid(TokenError::Issuer);
    assert_eq!(empty.standing(data.token("iss absent")), wrong);
    assert_eq!(empty.standing(data.token("RS256")), wrong);
}

#[test]
fn claims_are_strings_at_a_path() {
    let data = Data::read();
    let case = Case::new(&data, "all", &json!({}));
    let token = data.token("RS256");
    for (path, value, expected) in [
        (&["perms", "role"][..], "admin", true),
        (&["perms", "role"], "Admin", false),
        (&["perms", "a.b"], "dotted", true),
        (&["perms.role"], "admin", false),
        (&["perms", "list"], "admin", false),
        (&["perms", "level"], "7", false),
        (&["perms", "role", "x"], "admin", false),
        (&["sub"], "alice", true),
        (&["nothing"], "", false),
        (&[], "", false),
    ] {
        let asked = requirement(&[(path, value)]);
        assert_eq!(
            case.is_met(token, &asked, Action::Allow),
            expected,
            "{path:?}"
        );
        // All claims of a provider must hold.
        let asked = requirement(&[(&["sub"], "alice"), (path, value)]);
        assert_eq!(
            case.is_met(token, &asked, Action::Allow),
            expected,
            "{path:?}"
        );
    }
    let none = Jwt { providers: vec![] };
    assert!(!case.is_met(token, &none, Action::Allow));
}

/// What one provider's token says never counts for another (CVE-2023-3518).
#[test]
fn a_claim_counts_for_its_own_provider_only() {
    let data = Data::read();
    let mut case = Case::new(&data, "all", &json!({}));
    let other = entry(&json!({ "Name": "auth0", "Issuer": "auth0",
        "Locations": [{ "Header": { "Name": "x-other" } }] }));
    case.providers
        .insert("auth0".to_owned(), Some(provider(&other)));
    let named = |name: &str| JwtProvider {
        name: name.to_owned(),
        claims: requirement(&[(&["perms", "role"], "admin")]).providers[0]
            .claims
            .clone(),
    };
    let [okta, auth0] = ["okta", "auth0"].map(named);
    let asked = |providers: &[&JwtProvider]| Jwt {
        providers: providers.iter().map(|one| (*one).clone()).collect(),
    };
    let token = data.token("RS256");
    let bearer = format!("Bearer {token}");
    case.ask(
        &[("authorization", &bearer), ("x-other", token)],
        "/",
        |v| {
            assert!(v.is_met(&asked(&[&okta]), Action::Allow));
            assert!(!v.is_met(&asked(&[&auth0]), Action::Allow));
            assert!(v.is_met(&asked(&[&auth0, &okta]), Action::Allow));
            assert_eq!(v.standing("auth0"), Standing::Invalid(TokenError::Issuer));
        },
    );
}

#[test]
fn tokens_are_found_where_the_provider_says() {
    let data = Data::read();
    let token = data.token("ES256");
    let bearer = format!("Bearer {token}");
    let default = Case::new(&data, "all", &json!({}));
    let ask = |case: &Case, headers: &[(&str, &str)], path: &str| {
        case.ask(headers, path, |verifier| verifier.standing("okta"))
    };
    let query = format!("/x?a=b&access_token={token}");
    assert_eq!(ask(&default, &[], &query), STRICT);
    assert_eq!(
        ask(&default, &[], &query.replace("ess_tok", "ess%5ftok")),
        STRICT
    );
    assert_eq!(
        ask(&default, &[], &format!("/x#?access_token={token}")),
        STRICT
    );
    let twice = format!("{query}&access_token=x");
    assert_eq!(ask(&default, &[], &twice), LENIENT);
    assert_eq!(
        ask(&default, &[("authorization", &bearer)], &query),
        LENIENT
    );
    for value in [
        format!("bearer {token}"),
        token.to_owned(),
        format!("Bearer{token}"),
    ] {
        assert_eq!(
            ask(&default, &[("authorization", &value)], "/"),
            Standing::Absent
        );
    }
    // Envoy looks for the prefix anywhere, and joins repeated headers.
    let late = format!("Basic x, Bearer {token}, y");
    assert_eq!(ask(&default, &[("authorization", &late)], "/"), LENIENT);
    let repeated = [
        ("authorization", "Basic x"),
        ("authorization", bearer.as_str()),
    ];
    assert_eq!(ask(&default, &repeated, "/"), LENIENT);

    let own = Case::new(
        &data,
        "all",
        &json!({ "Locations": [
            { "Header": { "Name": "X-Token", "ValuePrefix": "t=", "Forward": true } },
            { "QueryParam": { "Name": "jwt" } },
            { "Cookie": { "Name": "session" } },
        ] }),
    );
    assert_eq!(
        ask(&own, &[("x-token", &format!("t={token}"))], "/"),
        STRICT
    );
    assert_eq!(ask(&own, &[], &format!("/?jwt={token}")), STRICT);
    for cookie in [
        format!("a=b; session={token}"),
        format!("session=\"{token}\""),
    ] {
        assert_eq!(ask(&own, &[("Cookie", &cookie)], "/"), STRICT);
    }
    assert_eq!(
        ask(&own, &[("authorization", &bearer)], &query),
        Standing::Absent
    );
}

#[test]
fn key_sets_are_refused_or_lose_keys() {
    let data = Data::read();
    let parse = |name: &str| Jwks::parse(data.keys[name].to_string().as_bytes());
    for name in ["weak", "symmetric"] {
        assert!(matches!(parse(name), Err(JwksError::NoKey(_))), "{name}");
    }
    assert_eq!(Jwks::parse(b"[]").err(), Some(JwksError::Malformed));
    assert_eq!(Jwks::parse(b"{}").err(), Some(JwksError::NoList));
    assert_eq!(
        Jwks::parse(br#"{"keys":[],"keys":[]}"#).err(),
        Some(JwksError::Malformed)
    );
    let repeated = data.keys["all"]
        .to_string()
        .replacen("\"kty\"", "\"kty\":\"RSA\",\"kty\"", 1);
    assert_eq!(
        Jwks::parse(repeated.as_bytes()).err(),
        Some(JwksError::Malformed)
    );
    let many = json!({ "keys": vec![json!({}); 101] });
    assert_eq!(
        Jwks::parse(many.to_string().as_bytes()).err(),
        Some(JwksError::TooMany)
    );
    let large = vec![b' '; 1024 * 1024 + 1];
    assert_eq!(Jwks::parse(&large).err(), Some(JwksError::TooLarge));

    let mut mixed = data.keys["all"].clone();
    let keys = mixed["keys"].as_array_mut().unwrap();
    let mut wrong = keys[1].clone();
    wrong["alg"] = json!("ES384");
    keys.push(wrong);
    keys.push(data.keys["symmetric"]["keys"][0].clone());
    let set = Jwks::parse(mixed.to_string().as_bytes()).unwrap();
    assert_eq!(
        set.problems(),
        [
            "key 5 is not used: its `alg` is not for this kind of key",
            "key 6 is not used: symmetric keys are never used"
        ]
    );
}

#[test]
fn entries_are_read_whole_or_refused() {
    let refused = |more: Value| {
        let raw = RawValue::from_string(entry(&more).to_string()).unwrap();
        let error = Provider::decode(&raw, &At::ROOT, &mut Vec::new()).unwrap_err();
        format!("{}: {}", error.pointer, error.text)
    };
    for (more, expected) in [
        (json!({ "Name": "" }), ": this provider has no `Name`"),
        (
            json!({ "JSONWebKeySet": {} }),
            "/JSONWebKeySet: this has not exactly one of `Local` and `Remote`",
        ),
        (
            json!({ "JSONWebKeySet": { "Remote": { "URI": "file:///etc/passwd" } } }),
            "/JSONWebKeySet/Remote/URI: this is not an `http` or `https` URI",
        ),
        (
            json!({ "JSONWebKeySet": { "Local": { "JWKS": "e30=" } } }),
            "/JSONWebKeySet/Local/JWKS: the key set has no list `keys`",
        ),
        (
            json!({ "JSONWebKeySet": { "Local": {} } }),
            "/JSONWebKeySet/Local: this has not exactly one of `JWKS` and `Filename`",
        ),
        (
            json!({ "Locations": [{}] }),
            "/Locations/0: this has not exactly one of `Header`, `QueryParam` and `Cookie`",
        ),
    ] {
        assert_eq!(refused(more), expected);
    }
    let whole = provider(&entry(&json!({
        "Audiences": ["a"], "ClockSkewSeconds": 5, "CacheConfig": { "Size": 10 },
        "Forwarding": { "HeaderName": "x-payload", "PadForwardPayloadHeader": true },
        "JSONWebKeySet": { "Local": { "Filename": "/keys.json" } },
    })));
    assert_eq!(whole.clock_skew, Some(5));
    assert!(
        whole
            .forwarding
            .is_some_and(|it| it.pad && it.header == "x-payload")
    );
    // Two entries of one name are none that can be read.
    let mut providers = Providers::default();
    providers.insert("a".to_owned(), Some(provider(&entry(&json!({})))));
    providers.insert("a".to_owned(), Some(provider(&entry(&json!({})))));
    assert!(providers.has("a"));
    assert_eq!(providers.iter().count(), 0);
}
