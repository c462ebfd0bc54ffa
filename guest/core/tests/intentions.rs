//! Intentions against a model of Consul's rules that is written differently: a plain
//! scan over what the questioner knows, without index, decoder or sorting.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]

use portcullis_core::identity::{Kind, SpiffeId};
use portcullis_core::intention::{
    Caller, DefaultPolicy, Destination, Effect, IntentionSet, Matching, Protocol, Reason,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// What a made-up intention does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Says {
    Allow,
    Deny,
    AllowWithJwt,
    DenyWithJwt,
    Permissions,
    Nonsense,
}

/// A made-up intention for the destination `default/default/db`.
#[derive(Clone, Debug)]
struct Made {
    peer: Option<&'static str>,
    partition: &'static str,
    namespace: &'static str,
    name: &'static str,
    to_namespace: &'static str,
    to_name: &'static str,
    says: Says,
}

impl Made {
    fn json(&self) -> Value {
        let mut fields = Map::new();
        let mut set = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        set("SourceNS", json!(self.namespace));
        set("SourceName", json!(self.name));
        set("DestinationNS", json!(self.to_namespace));
        set("DestinationName", json!(self.to_name));
        match self.peer {
            Some(peer) => set("SourcePeer", json!(peer)),
            None => set("SourcePartition", json!(self.partition)),
        };
        let jwt = json!({"Providers": [{"Name": "okta"}]});
        match self.says {
            Says::Allow => drop(set("Action", json!("allow"))),
            Says::Deny => drop(set("Action", json!("deny"))),
            Says::AllowWithJwt => {
                set("Action", json!("allow"));
                set("JWT", jwt);
            }
            Says::DenyWithJwt => {
                set("Action", json!("deny"));
                set("JWT", jwt);
            }
            Says::Permissions => {
                let path = json!([{"Action": "allow", "HTTP": {"PathPrefix": "/"}}]);
                set("Permissions", path);
            }
            Says::Nonsense => drop(set("Action", json!("maybe"))),
        }
        Value::Object(fields)
    }

    fn level(&self) -> u32 {
        let destination = match (self.to_namespace, self.to_name) {
            ("*", _) => 3,
            (_, "*") => 6,
            _ => 9,
        };
        destination
            - match (self.namespace, self.name) {
                ("*", _) => 2,
                (_, "*") => 1,
                _ => 0,
            }
    }

    fn is_about_db(&self) -> bool {
        matches!(self.to_namespace, "*" | "default") && matches!(self.to_name, "*" | "db" | "DB")
    }

    fn names(&self) -> (&str, &str, &str, &str, &str, String) {
        let (peer, partition) = match self.peer {
            Some(peer) => (peer, ""),
            None => ("", self.partition),
        };
        let destination = self.to_name.to_ascii_lowercase();
        (
            peer,
            partition,
            self.namespace,
            self.name,
            self.to_namespace,
            destination,
        )
    }
}

struct Asker {
    peer: Option<&'static str>,
    partition: &'static str,
    namespace: &'static str,
    name: &'static str,
}

/// The documented rules, by brute force.
fn model(
    made: &[Made],
    asker: &Asker,
    protocol: Protocol,
    default: DefaultPolicy,
    strict: bool,
) -> (Effect, Reason) {
    let same = |fold: bool, a: &str, b: &str| {
        if fold {
            a.to_lowercase() == b.to_lowercase()
        } else {
            a == b
        }
    };
    let covers = |rule: &Made| {
        let fold = strict && !matches!(rule.says, Says::Allow | Says::AllowWithJwt);
        let from = match (rule.peer, asker.peer) {
            (None, None) => same(fold, rule.partition, asker.partition),
            (Some(a), Some(b)) => a == b,
            _ => false,
        };
        from && rule.is_about_db()
            && (rule.namespace == "*" || same(fold, rule.namespace, asker.namespace))
            && (rule.name == "*" || same(fold, rule.name, asker.name))
    };
    let strictness = |rule: &Made| match rule.says {
        Says::Nonsense => 0,
        Says::Permissions => 1,
        Says::Deny => 2,
        Says::DenyWithJwt => 3,
        Says::AllowWithJwt => 4,
        Says::Allow => 5,
    };
    let mut best: Option<&Made> = None;
    for rule in made.iter().filter(|rule| covers(rule)) {
        let wins = best.is_none_or(|other| {
            let ours = (9 - rule.level(), rule.names(), strictness(rule));
            ours < (9 - other.level(), other.names(), strictness(other))
        });
        if wins {
            best = Some(rule);
        }
    }
    let Some(rule) = best else {
        return match default {
            DefaultPolicy::Allow => (Effect::Allow, Reason::DefaultPolicy),
            DefaultPolicy::Deny => (Effect::Deny, Reason::DefaultPolicy),
            DefaultPolicy::Unknown => (Effect::Deny, Reason::DefaultPolicyUnknown),
        };
    };
    let tcp = protocol == Protocol::Tcp;
    match rule.says {
        Says::Allow => (Effect::Allow, Reason::Intention),
        Says::Deny => (Effect::Deny, Reason::Intention),
        Says::DenyWithJwt if tcp => (Effect::Deny, Reason::Intention),
        Says::AllowWithJwt if tcp => (Effect::Deny, Reason::JwtOnTcp),
        Says::Permissions if tcp => (Effect::Deny, Reason::L7IntentionOnTcp),
        Says::AllowWithJwt | Says::DenyWithJwt | Says::Permissions => {
            (Effect::Deny, Reason::RequestRequired)
        }
        Says::Nonsense => (Effect::Deny, Reason::UnreadableRule),
    }
}

const NAMES: [&str; 4] = ["web", "WEB", "web2", "api"];

fn made() -> impl Strategy<Value = Made> {
    let says = prop_oneof![
        4 => Just(Says::Allow),
        4 => Just(Says::Deny),
        1 => Just(Says::AllowWithJwt),
        1 => Just(Says::DenyWithJwt),
        1 => Just(Says::Permissions),
        1 => Just(Says::Nonsense),
    ];
    let source = prop_oneof![
        6 => prop::sample::select(&NAMES[..]).prop_map(|name| ("default", name)),
        2 => Just(("default", "*")),
        1 => Just(("other", "web")),
        1 => Just(("other", "*")),
        1 => Just(("*", "*")),
    ];
    let destination = prop_oneof![
        6 => Just(("default", "db")),
        1 => Just(("default", "DB")),
        3 => Just(("default", "*")),
        2 => Just(("*", "*")),
        1 => Just(("default", "api")),
        1 => Just(("other", "db")),
    ];
    let origin = prop_oneof![
        5 => Just((None, "default")),
        1 => Just((None, "ap1")),
        1 => Just((Some("beta"), "default")),
        1 => Just((Some("gamma"), "default")),
    ];
    (origin, source, destination, says).prop_map(|(from, source, to, says)| Made {
        peer: from.0,
        partition: from.1,
        namespace: source.0,
        name: source.1,
        to_namespace: to.0,
        to_name: to.1,
        says,
    })
}

fn asker() -> impl Strategy<Value = Asker> {
    let name = prop::sample::select(&NAMES[..]);
    let namespace = prop::sample::select(&["default", "default", "other", "Default"][..]);
    let origin = prop::sample::select(
        &[
            (None, "default"),
            (None, "default"),
            (None, "ap1"),
            (Some("beta"), "default"),
        ][..],
    );
    (origin, namespace, name).prop_map(|(from, namespace, name)| Asker {
        peer: from.0,
        partition: from.1,
        namespace,
        name,
    })
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} {}/{}/{}",
            self.peer, self.partition, self.namespace, self.name
        )
    }
}

fn set_of(made: &[Made]) -> IntentionSet {
    let list: Vec<Value> = made.iter().map(Made::json).collect();
    let json = serde_json::to_vec(&list).unwrap();
    IntentionSet::decode(&json, &Destination::parse("db").unwrap())
        .unwrap()
        .0
}

fn judge(
    set: &IntentionSet,
    asker: &Asker,
    protocol: Protocol,
    default: DefaultPolicy,
    matching: Matching,
) -> (Effect, Reason, Option<u32>) {
    let partition = match asker.partition {
        "default" => String::new(),
        other => format!("/ap/{other}"),
    };
    let uri = format!(
        "spiffe://t{partition}/ns/{}/dc/d/svc/{}",
        asker.namespace, asker.name
    );
    let id = SpiffeId::parse(&uri).unwrap();
    let Kind::Service(path) = id.kind() else {
        panic!("{uri}")
    };
    let caller = match asker.peer {
        Some(peer) => Caller::of_peer(peer, path),
        None => Caller::local(path),
    };
    let verdict = set.judge(&caller, protocol, default, matching);
    (verdict.effect, verdict.reason, verdict.intention)
}

fn default_policy() -> impl Strategy<Value = DefaultPolicy> {
    prop::sample::select(
        &[
            DefaultPolicy::Allow,
            DefaultPolicy::Deny,
            DefaultPolicy::Unknown,
        ][..],
    )
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(&[Protocol::Tcp, Protocol::Tcp, Protocol::Http, Protocol::Grpc][..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn answers_are_those_of_the_model(
        made in prop::collection::vec(made(), 0..12),
        asker in asker(),
        protocol in protocol(),
        default in default_policy(),
        strict: bool,
    ) {
        let set = set_of(&made);
        let matching = if strict { Matching::Strict } else { Matching::Envoy };
        let (effect, reason, index) = judge(&set, &asker, protocol, default, matching);
        prop_assert_eq!((effect, reason), model(&made, &asker, protocol, default, strict));
        let by_default = matches!(reason, Reason::DefaultPolicy | Reason::DefaultPolicyUnknown);
        prop_assert_eq!(index.is_none(), by_default);
    }

    #[test]
    fn strict_never_allows_what_envoy_matching_denies(
        made in prop::collection::vec(made(), 0..12),
        asker in asker(),
        protocol in protocol(),
        default in default_policy(),
    ) {
        let set = set_of(&made);
        let strict = judge(&set, &asker, protocol, default, Matching::Strict);
        let envoy = judge(&set, &asker, protocol, default, Matching::Envoy);
        prop_assert!(strict.0 != Effect::Allow || envoy.0 == Effect::Allow);
    }

    #[test]
    fn the_order_of_the_reply_does_not_count(
        made in prop::collection::vec(made(), 0..12).prop_flat_map(|made| {
            (Just(made.clone()), Just(made).prop_shuffle())
        }),
        asker in asker(),
    ) {
        let (one, other) = made;
        let ask = |made: &[Made]| {
            let tcp = Protocol::Tcp;
            judge(&set_of(made), &asker, tcp, DefaultPolicy::Allow, Matching::Strict)
        };
        prop_assert_eq!(ask(&one), ask(&other));
    }

    #[test]
    fn a_rule_that_nobody_can_read_closes_everything(
        made in prop::collection::vec(made(), 0..8),
        asker in asker(),
    ) {
        // A rule nobody can read, put first of all, closes everything.
        let mut closed: Vec<Value> = made.iter().map(Made::json).collect();
        closed.push(json!(["no object"]));
        let json = serde_json::to_vec(&closed).unwrap();
        let db = Destination::parse("db").unwrap();
        let (set, problems) = IntentionSet::decode(&json, &db).unwrap();
        let (effect, reason, index) =
            judge(&set, &asker, Protocol::Tcp, DefaultPolicy::Allow, Matching::Strict);
        prop_assert_eq!((effect, reason, index), (Effect::Deny, Reason::UnreadableRule, Some(0)));
        prop_assert!(problems.iter().any(|problem| problem.denies));
    }

    #[test]
    fn no_bytes_make_the_decoder_fail_loudly(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let db = Destination::parse("db").unwrap();
        drop(IntentionSet::decode(&bytes, &db));
    }
}
