//! Seeded intentions, and requests that lie close to what they look at.

use std::collections::BTreeSet;

use portcullis_core::http::HttpVersion;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde_json::{Map, Value, json};

use crate::question::Question;
use crate::scene::{PROVIDERS, Scene};

/// Services that call. Some differ in one character or in case only.
pub(crate) const SOURCES: [&str; 6] = ["web", "web1", "we", "WEB", "web-1", "b"];

/// The kinds of matchers, each of which a run must ask about often enough.
pub(crate) const KINDS: [&str; 12] = [
    "path exact",
    "path prefix",
    "path regex",
    "header exact",
    "header prefix",
    "header suffix",
    "header contains",
    "header regex",
    "header present",
    "invert",
    "ignore case",
    "methods",
];

const PATHS: [&str; 14] = [
    "/",
    "/admin",
    "/admin/",
    "/admin/users",
    "/v1",
    "/v1/",
    "/v1/items",
    "/v1/items/7",
    "/v1/Items",
    "/healthz",
    "/a/b/c",
    "/e%41",
    "/x%2Fy",
    "/v1;p=1/items",
];
/// Patterns with texts that match.
const PATH_PATTERNS: [(&str, &[&str]); 8] = [
    ("/v[0-9]+/items/.*", &["/v1/items/7", "/v22/items/"]),
    ("/admin(/.*)?", &["/admin", "/admin/", "/admin/users"]),
    ("(?i)/ADMIN.*", &["/admin", "/Admin/x"]),
    ("/[^/]+/[^/]+", &["/v1/items", "/a/b"]),
    ("/a|/v1", &["/a", "/v1"]),
    (".*\\.html", &["/index.html", "/v1/x.html"]),
    ("/\\w+", &["/healthz", "/v1"]),
    (
        "/(users|items)/[[:digit:]]{1,3}",
        &["/users/7", "/items/123"],
    ),
];
const NAMES: [&str; 12] = [
    "x-role",
    "x-role",
    "X-Team",
    "x-team",
    "x-env",
    "x-env",
    "user-agent",
    "accept",
    "cookie",
    ":authority",
    ":path",
    "host",
];
const VALUES: [&str; 12] = [
    "admin",
    "Admin",
    "prod",
    "production",
    "alpha",
    "alpha,beta",
    "a",
    "beta",
    "user",
    "api",
    "/v1",
    "x=1",
];
const VALUE_PATTERNS: [(&str, &[&str]); 9] = [
    ("(?i)[a\\xe9-\\xef].?", &["A", "\u{e9}", "\u{c9}", "\u{c3}"]),
    (
        "(?i)é.",
        &["\u{c3}\u{a9}a", "\u{c3}\u{89}a", "\u{e3}\u{a9}a"],
    ),
    ("[^a]\\W?", &["b", "é"]),
    ("[a-z]+", &["admin", "prod"]),
    ("(?i)admin|root", &["ADMIN", "root"]),
    ("prod.*", &["prod", "production"]),
    ("alpha,.*", &["alpha,beta"]),
    (".*", &["", "x"]),
    ("[0-9]{1,3}", &["1", "42"]),
];
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT",
];

fn one<'a, T>(random: &mut StdRng, from: &'a [T]) -> &'a T {
    from.choose(random).expect("it is not empty")
}

/// What a round is about: the intentions of the target, of everybody, and the JWT of all.
pub(crate) struct Intentions {
    pub(crate) sources: Vec<Value>,
    pub(crate) wildcard: Vec<Value>,
    pub(crate) jwt: Option<Value>,
}

/// Random ones.
pub(crate) fn intentions(random: &mut StdRng) -> Intentions {
    let mut names = SOURCES.to_vec();
    names.shuffle(random);
    // The last two are covered by wider rules only, if at all.
    let mut sources: Vec<Value> = names[..4]
        .iter()
        .map(|name| rule(random, name, 0.9))
        .collect();
    if random.random_bool(0.4) {
        sources.push(rule(random, "*", 0.6));
    }
    let mut wildcard = Vec::new();
    for name in &names[2..] {
        if random.random_bool(0.3) {
            wildcard.push(rule(random, name, 0.0));
        }
    }
    if random.random_bool(0.4) {
        wildcard.push(rule(random, "*", 0.0));
    }
    let jwt = random.random_bool(0.15).then(|| {
        let mut provider = json!({ "Name": PROVIDERS[0] });
        if random.random_bool(0.5) {
            provider["VerifyClaims"] = json!([{ "Path": ["role"], "Value": "admin" }]);
        }
        json!({ "Providers": [provider] })
    });
    Intentions {
        sources,
        wildcard,
        jwt,
    }
}

fn rule(random: &mut StdRng, source: &str, l7: f64) -> Value {
    if !random.random_bool(l7) {
        return json!({ "Name": source, "Action": action(random) });
    }
    let count = random.random_range(1..=4);
    let permissions: Vec<Value> = (0..count).map(|_| permission(random)).collect();
    json!({ "Name": source, "Permissions": permissions })
}

fn action(random: &mut StdRng) -> &'static str {
    if random.random_bool(0.5) {
        "allow"
    } else {
        "deny"
    }
}

fn permission(random: &mut StdRng) -> Value {
    let mut http = Map::new();
    match random.random_range(0..10) {
        0..2 => http.insert("PathExact".to_owned(), json!(one(random, &PATHS))),
        2..4 => http.insert("PathPrefix".to_owned(), json!(one(random, &PATHS))),
        4..6 => http.insert("PathRegex".to_owned(), json!(one(random, &PATH_PATTERNS).0)),
        _ => None,
    };
    let headers = *one(random, &[0, 1, 1, 1, 2, 2]);
    if headers > 0 {
        let list: Vec<Value> = (0..headers).map(|_| header(random)).collect();
        http.insert("Header".to_owned(), json!(list));
    }
    if http.is_empty() || random.random_bool(0.15) {
        let count = random.random_range(1..=3);
        let methods: BTreeSet<&str> = (0..count).map(|_| *one(random, &METHODS)).collect();
        http.insert("Methods".to_owned(), json!(methods));
    }
    let mut permission = json!({ "Action": action(random), "HTTP": http });
    if random.random_bool(0.08) {
        let mut provider = json!({ "Name": one(random, &PROVIDERS) });
        if random.random_bool(0.5) {
            provider["VerifyClaims"] = json!([{ "Path": ["role"], "Value": "admin" }]);
        }
        permission["JWT"] = json!({ "Providers": [provider] });
    }
    permission
}

fn header(random: &mut StdRng) -> Value {
    let mut header = json!({ "Name": one(random, &NAMES) });
    let kind = *one(
        random,
        &["Exact", "Prefix", "Suffix", "Contains", "Regex", "Present"],
    );
    header[kind] = match kind {
        "Regex" => json!(one(random, &VALUE_PATTERNS).0),
        "Present" => json!(true),
        _ => json!(one(random, &VALUES)),
    };
    if random.random_bool(0.3) {
        header["Invert"] = json!(true);
    }
    if !matches!(kind, "Regex" | "Present") && random.random_bool(0.4) {
        header["IgnoreCase"] = json!(true);
    }
    header
}

/// The kinds of matchers in a permission.
pub(crate) fn kinds(permission: &Value) -> BTreeSet<&'static str> {
    let http = &permission["HTTP"];
    let mut kinds = BTreeSet::new();
    let mut note = |is_there: bool, kind: &'static str| {
        if is_there {
            kinds.insert(kind);
        }
    };
    let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    note(text(&http["PathExact"]), KINDS[0]);
    note(text(&http["PathPrefix"]), KINDS[1]);
    note(text(&http["PathRegex"]), KINDS[2]);
    for header in http["Header"].as_array().into_iter().flatten() {
        note(text(&header["Exact"]), KINDS[3]);
        note(text(&header["Prefix"]), KINDS[4]);
        note(text(&header["Suffix"]), KINDS[5]);
        note(text(&header["Contains"]), KINDS[6]);
        note(text(&header["Regex"]), KINDS[7]);
        note(header["Present"] == json!(true), KINDS[8]);
        note(header["Invert"] == json!(true), KINDS[9]);
        note(header["IgnoreCase"] == json!(true), KINDS[10]);
    }
    note(
        http["Methods"]
            .as_array()
            .is_some_and(|list| !list.is_empty()),
        KINDS[11],
    );
    kinds
}

/// The rule of a list that decides about a source, as documented: the first that names it.
pub(crate) fn deciding<'l>(list: &'l Value, source: &str) -> Option<&'l Value> {
    let mut rules = list.as_array().into_iter().flatten();
    rules.find(|rule| rule["SourceName"] == source || rule["SourceName"] == "*")
}

/// A request of `source`, most of the time close to a permission of its rule.
pub(crate) fn question(
    random: &mut StdRng,
    scene: &Scene,
    list: &Value,
    source: &str,
    http2: f64,
) -> Question {
    let version = if random.random_bool(http2) {
        HttpVersion::Http2
    } else {
        HttpVersion::Http1
    };
    let mut question = Question::get(version, "/");
    let mut path = (*one(random, &PATHS)).to_owned();
    let permissions = deciding(list, source).and_then(|rule| rule["Permissions"].as_array());
    let mut is_for_token = random.random_bool(0.05);
    if let Some(permissions) = permissions.filter(|_| random.random_bool(0.85)) {
        let permission = one(random, permissions);
        path = meet(random, &permission["HTTP"], &mut question, path);
        is_for_token |= permission["JWT"].is_object();
    } else if random.random_bool(0.3) {
        question.method = one(random, &METHODS[..8]).as_bytes().to_vec();
    }
    is_for_token |= deciding(list, source).is_some_and(|rule| rule["JWT"].is_object());
    if is_for_token && random.random_bool(0.8) {
        question = question.header("authorization", &token(random, scene));
    }
    for name in NAMES
        .iter()
        .filter(|name| !name.starts_with(':') && **name != "host")
    {
        if random.random_bool(0.08) {
            let value = *one(random, &VALUES);
            question = question.header(&name.to_ascii_lowercase(), value);
        }
    }
    if random.random_bool(0.35) {
        path = bend_path(random, &path);
    }
    question.target = bytes(&path);
    if random.random_bool(0.02) {
        odd_form(random, &mut question);
    }
    let is_path = question.target.first() == Some(&b'/');
    if version == HttpVersion::Http1 && is_path && random.random_bool(0.03) {
        question.target = [b"http://elsewhere:80".as_slice(), &question.target].concat();
    }
    if random.random_bool(0.35) {
        bend_headers(random, &mut question);
    }
    if random.random_bool(0.04) {
        let odd = [
            "get", "Get", "FOO", "QUERY", "PROPFIND", "MSEARCH", "M-SEARCH",
        ];
        question.method = one(random, &odd).as_bytes().to_vec();
    }
    question
}

/// Another form of target or authority.
fn odd_form(random: &mut StdRng, question: &mut Question) {
    match (random.random_range(0..5), question.version) {
        (0, _) => {
            *question = Question {
                method: b"OPTIONS".to_vec(),
                target: b"*".to_vec(),
                ..question.clone()
            }
        }
        (1, HttpVersion::Http1) => *question = question.clone().header("Host", "api"),
        (1, HttpVersion::Http2) => *question = question.clone().header("host", "other"),
        (2, HttpVersion::Http1) => question.target = b"HTTP://user@API:1?x".to_vec(),
        (2, HttpVersion::Http2) => question.target = b"admin".to_vec(),
        (3, HttpVersion::Http1) => {
            *question = question.clone().without("host").header("host", "a b")
        }
        (3, HttpVersion::Http2) => {
            question.authority = None;
            *question = question.clone().header("host", "api");
        }
        (_, HttpVersion::Http1) => *question = question.clone().without("host").header("host", ""),
        (_, HttpVersion::Http2) => question.authority = Some(b"a b".to_vec()),
    }
}

/// Each character is one byte.
fn bytes(text: &str) -> Vec<u8> {
    text.chars()
        .map(|character| u8::try_from(u32::from(character)).unwrap_or(b'?'))
        .collect()
}

/// Makes a question that a permission covers, if nothing in it contradicts.
fn meet(random: &mut StdRng, http: &Value, question: &mut Question, mut path: String) -> String {
    let text = |name: &str| http[name].as_str().filter(|text| !text.is_empty());
    if let Some(exact) = text("PathExact") {
        exact.clone_into(&mut path);
    } else if let Some(prefix) = text("PathPrefix") {
        path = format!("{prefix}{}", one(random, &["", "", "/x", "x", "/../x"]));
    } else if let Some(regex) = text("PathRegex") {
        let (_, samples) = PATH_PATTERNS
            .iter()
            .find(|(pattern, _)| *pattern == regex)
            .expect("one of ours");
        path = (*one(random, samples)).to_owned();
    }
    if let Some(methods) = http["Methods"].as_array().filter(|list| !list.is_empty()) {
        let method = one(random, methods).as_str().expect("text");
        // A tunnel is another matter.
        let method = if method == "CONNECT" { "GET" } else { method };
        question.method = method.as_bytes().to_vec();
    }
    for header in http["Header"].as_array().into_iter().flatten() {
        let name = header["Name"]
            .as_str()
            .expect("a name")
            .to_ascii_lowercase();
        let value = |kind: &str| header[kind].as_str().filter(|text| !text.is_empty());
        let is_inverted = header["Invert"] == json!(true);
        let mut wanted = if let Some(text) = value("Exact") {
            text.to_owned()
        } else if let Some(text) = value("Prefix") {
            format!("{text}{}", one(random, &["", "x", ",x"]))
        } else if let Some(text) = value("Suffix") {
            format!("{}{text}", one(random, &["", "x", "x,"]))
        } else if let Some(text) = value("Contains") {
            format!(
                "{}{text}{}",
                one(random, &["", "x"]),
                one(random, &["", "x"])
            )
        } else if let Some(text) = value("Regex") {
            let (_, samples) = VALUE_PATTERNS
                .iter()
                .find(|(pattern, _)| *pattern == text)
                .expect("one of ours");
            (*one(random, samples)).to_owned()
        } else {
            if is_inverted {
                continue;
            }
            one(random, &["", "x", "admin"]).to_string()
        };
        if is_inverted && random.random_bool(0.7) {
            "other".clone_into(&mut wanted);
        }
        if header["IgnoreCase"] == json!(true) && random.random_bool(0.5) {
            wanted = wanted.to_ascii_uppercase();
        }
        match name.as_str() {
            ":path" => {
                if wanted.starts_with('/') {
                    path = wanted;
                }
            }
            ":authority" | "host" => match question.version {
                HttpVersion::Http2 => question.authority = Some(bytes(&wanted)),
                HttpVersion::Http1 => {
                    *question = question
                        .clone()
                        .without("host")
                        .bytes("host", &bytes(&wanted))
                }
            },
            name => *question = question.clone().bytes(name, &bytes(&wanted)),
        }
    }
    path
}

fn token(random: &mut StdRng, scene: &Scene) -> String {
    let issuer = one(random, &scene.issuers);
    let claims = match random.random_range(0..8) {
        0..3 => json!({ "role": "admin" }),
        3 => json!({ "role": "user" }),
        4 => json!({ "role": ["admin"] }),
        5 => json!({ "iss": "somebody" }),
        6 => json!({ "aud": "api" }),
        _ => json!({}),
    };
    let lifetime = if random.random_bool(0.15) {
        -3600
    } else {
        3600
    };
    let mut token = issuer.token(lifetime, &claims);
    if random.random_bool(0.1) {
        // The signature of another text.
        let (signed, _) = token.rsplit_once('.').expect("three parts");
        let other = issuer.token(lifetime, &json!({ "sub": "mallory" }));
        token = format!(
            "{signed}.{}",
            other.rsplit_once('.').expect("three parts").1
        );
    }
    let scheme = if random.random_bool(0.1) {
        "bearer"
    } else {
        "Bearer"
    };
    format!("{scheme} {token}")
}

fn bend_path(random: &mut StdRng, path: &str) -> String {
    let slashes: Vec<usize> = path.match_indices('/').map(|(place, _)| place).collect();
    let slash = *one(random, &slashes);
    let (before, after) = path.split_at(slash);
    let after = &after[1..];
    let letters: Vec<(usize, char)> = path
        .char_indices()
        .filter(|(_, letter)| letter.is_ascii_alphanumeric())
        .collect();
    match random.random_range(0..25) {
        0 | 1 => format!("{before}//{after}"),
        2 => format!("{before}/./{after}"),
        3 => format!("{before}/x/../{after}"),
        4 => format!("{before}/%2e/{after}"),
        5 => format!("{before}/x/%2E%2e/{after}"),
        6 => format!("{before}/x//../{after}"),
        7 => format!("{path}/.."),
        8 => format!("{path}/../../admin"),
        9 => format!("{before}%2f{after}").replacen("%2f", "/%2f", usize::from(before.is_empty())),
        10 => format!("{before}/x%2F{after}"),
        11 => format!("{before}/x%5c..%5C{after}"),
        12 => format!("{before}/x\\..\\{after}"),
        13 => format!("{path};p=1"),
        14 => format!("{before}/x/..;/{after}"),
        15 | 16 => match letters.choose(random) {
            Some((place, letter)) => {
                let code = if random.random_bool(0.5) {
                    format!("%{:02x}", u32::from(*letter))
                } else {
                    format!("%{:02X}", u32::from(*letter))
                };
                format!("{}{code}{}", &path[..*place], &path[place + 1..])
            }
            None => format!("{path}%20"),
        },
        17 => path.to_ascii_uppercase(),
        18 | 19 => format!(
            "{path}?{}",
            one(random, &["x=1", "", "a=/../admin", "b=%2f", "?"])
        ),
        20 => format!("{path}%252e"),
        21 => one(
            random,
            &[
                "/%00", "/a#b", "/%", "/%zz", "/a%20b", "//", "/.", "/..", "/*",
            ],
        )
        .to_string(),
        22 => format!(
            "{path}{}",
            one(
                random,
                &["<", "\"", "^", "`", "{", "|", "'", "(", "%7e", "~"]
            )
        ),
        23 => format!("{path}\u{e9}"),
        _ => format!("{path}/"),
    }
}

fn bend_headers(random: &mut StdRng, question: &mut Question) {
    let is_http1 = question.version == HttpVersion::Http1;
    let candidates: Vec<usize> = (0..question.headers.len())
        .filter(|index| {
            !["authorization", "host"]
                .iter()
                .any(|name| question.headers[*index].0 == name.as_bytes())
        })
        .collect();
    let Some(&index) = candidates.choose(random) else {
        question
            .headers
            .push((b"x_role".to_vec(), b"admin".to_vec()));
        return;
    };
    let (name, value) = question.headers[index].clone();
    match random.random_range(0..12) {
        0 | 1 => question
            .headers
            .push((name, one(random, &VALUES).as_bytes().to_vec())),
        2 | 3 => question
            .headers
            .insert(0, (name, one(random, &VALUES).as_bytes().to_vec())),
        4 => question.headers.push((name, Vec::new())),
        5 => {
            question.headers[index].1 = [&value[..], b",", one(random, &VALUES).as_bytes()].concat()
        }
        6 => question.headers[index].1 = [b" ", &value[..], b" \t"].concat(),
        7 if is_http1 => question.headers[index].0 = name.to_ascii_uppercase(),
        7 => question.headers[index].1 = value.to_ascii_uppercase(),
        8 => {
            question.headers[index].0 = String::from_utf8_lossy(&name)
                .replace('-', "_")
                .into_bytes()
        }
        9 => question.headers[index].1 = [&value[..], b"\xe9"].concat(),
        10 => question.headers[index].1.clear(),
        _ => drop(question.headers.remove(index)),
    }
}
