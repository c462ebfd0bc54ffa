//! The vectors through `filter.wasm`: what is asked comes as Envoy would bring it.
//!
//! Left out, for its reason, is what the filter does not follow at the agent: peers that no
//! intention names. What a request's path would become is not forwarded by the filter, but
//! answered 400, because the connection manager normalises; parameters with tokens are taken out
//! all the same, and headers changed.

use std::collections::BTreeMap;

use portcullis_core::agent::peerings::named_by;
use portcullis_core::time::Timestamp;
use portcullis_testkit::TestCa;
use portcullis_tests::components;
use portcullis_tests::proxy_wasm::{Answer, Call, Filter, Headers, Machine, Shelf};
use portcullis_xtask::filter::EXPORTS;
use serde_json::{Value, json};

use crate::plan::read;

/// Where the filter answers otherwise, and why that is meant.
const MEANT: [(&str, &str); 10] = [
    // A list that the reader of the agent's replies refuses as a whole never gets to the policy.
    ("unreadable: depth (allow)", "deny not-ready"),
    ("unreadable: depth (deny)", "deny not-ready"),
    // The filter does not look at `:scheme`, which clients can change in Envoy: whoever has a
    // certificate came by TLS.
    (
        "request: :scheme is not a header's, strict",
        "allow permission",
    ),
    (
        "request: :scheme is not a header's, envoy",
        "allow permission",
    ),
    ("request: no scheme, strict", "allow permission"),
    ("request: no scheme, envoy", "allow permission"),
    // An empty list of providers is none, as for our host: what nobody has said opens nothing,
    // not even by a denial.
    (
        "request: token: an unknown provider, denied, strict (allow)",
        "deny intention",
    ),
    (
        "request: token: an unknown provider, denied, envoy (allow)",
        "deny intention",
    ),
    // Envoy's codec refuses this header; where a filter sees it, it stands for an extended
    // CONNECT.
    (
        "request: no header of HTTP/2: upgrade, strict",
        "allow permission",
    ),
    (
        "request: no header of HTTP/2: upgrade, envoy",
        "allow permission",
    ),
];

/// Where the filter leaves a header in place that the core takes out: it asks for providers only
/// while an intention names one.
const NOT_STRIPPED: [&str; 2] = [
    "request: token: a forged payload where no rule asks, strict (deny)",
    "request: token: a forged payload where no rule asks, envoy (deny)",
];

/// Why a vector is not asked.
fn left_out(line: &Value) -> Option<&'static str> {
    let question = &line["question"];
    let intentions = intentions(line);
    let named = named_by(&intentions);
    let caller = format!("{}{}", question["client_uris"], question["via_gateway"]);
    let is_unnamed = |(name, peer): (&String, &Value)| {
        !named.contains(name) && caller.contains(text(&peer["trust_domain"]))
    };
    if peers(question).any(is_unnamed) {
        return Some("peers that no intention names are not followed");
    }
    None
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn bytes(value: &Value) -> Vec<u8> {
    let letters = text(value).chars();
    letters
        .map(|letter| u8::try_from(letter).expect("one byte"))
        .collect()
}

/// The plugin configuration of a question.
fn configuration(question: &Value) -> Value {
    let field = |name: &str, default: &'static str| question.get(name).map_or(default, text);
    let mut configuration = json!({
        "service": format!(
            "{}/{}/{}",
            field("target_partition", "default"),
            field("target_namespace", "default"),
            text(&question["target"])
        ),
        "agent": { "cluster": "agent" },
        "protocol": field("protocol", "tcp"),
        "default_policy": question["default_policy"],
        "matching": field("matching", "strict"),
        "max_stale_ms": 0,
        "start_wait_ms": 0,
        "filter_state": "all",
    });
    if let Some(normalization) = question
        .get("request_normalization")
        .filter(|n| !n.is_null())
    {
        configuration["request_normalization"] = normalization.clone();
    }
    configuration
}

/// What the roots of the mesh say of themselves: nobody asks them.
const OWN: &str = "t.consul";

/// Roots by trust domain.
type Roots = BTreeMap<String, String>;

/// The trust domains of the peers of a question.
fn peers(question: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let peers = question.get("peers").and_then(Value::as_object);
    peers.into_iter().flatten()
}

/// The list of intentions, as the agent has it.
fn intentions(line: &Value) -> String {
    line.get("intentions_json").map_or_else(
        || line["question"]["intentions"].to_string(),
        |list| text(list).to_owned(),
    )
}

/// The agent that has the question's intentions and peers.
fn agent(line: &Value, roots: &Roots, call: &Call) -> Answer {
    let question = &line["question"];
    let body = if call.path().starts_with("/v1/agent/connect/ca/roots") {
        json!({ "ActiveRootID": "1", "TrustDomain": question["trust_domain"], "Roots": [
            { "ID": "1", "Name": "", "RootCert": roots[OWN], "Active": true }] })
        .to_string()
    } else if let Some(query) = call.path().strip_prefix("/v1/connect/intentions/match?") {
        let name = query.split('&').find_map(|part| part.strip_prefix("name="));
        let name = name.expect("a name").replace("%2F", "/");
        format!("{{{}:{}}}", json!(name), intentions(line))
    } else if call.path() == "/v1/peerings" || call.path().starts_with("/v1/peerings?") {
        let list = peers(question).map(|(name, peer)| {
            let partition = peer.get("exported_partition").map_or("", text);
            json!({ "Name": name, "State": "ACTIVE", "Remote": { "Partition": partition },
                "PeerCAPems": [roots[text(&peer["trust_domain"])]] })
        });
        Value::Array(list.collect()).to_string()
    } else if call.path().starts_with("/v1/config/jwt-provider") {
        question["jwt_providers"].to_string()
    } else if call.path().starts_with("/v1/config/mesh") {
        return (404, Vec::new(), Vec::new());
    } else {
        panic!("the filter asks for {}", call.path());
    };
    let index = ("x-consul-index".to_owned(), "7".to_owned());
    (200, vec![index], body.into_bytes())
}

/// What the filter does with a question, as `effect reason`.
fn ask(filter: &Filter, line: &Value, roots: &Roots, leaf: &[u8]) -> String {
    let question = &line["question"];
    let configuration = configuration(question).to_string();
    let mut machine = match Machine::start(filter, &Shelf::default(), &configuration) {
        Ok(machine) => machine,
        Err(log) => {
            assert!(log[0].contains("`service`"), "{log:?}");
            return "deny malformed-target".to_owned();
        }
    };
    if let Some(at) = question.get("at") {
        let at = Timestamp::parse(text(at)).expect("a time").as_millis();
        machine.world().wall = at * 1_000_000;
    }
    // Intentions wait two seconds for peers that the agent does not list.
    for _ in 0..8 {
        machine.tick();
        while machine.answer(|call| Some(agent(line, roots, call))) {}
    }
    let http2 = question.get("http_version").is_some_and(|v| v == "2");
    let protocol = if http2 { "HTTP/2" } else { "HTTP/1.1" };
    let request = question.get("request");
    let mut properties = vec![
        ("connection\0id", 7_u64.to_le_bytes().to_vec()),
        ("connection\0peer_certificate", leaf.to_vec()),
        ("connection\0peer_certificate_valid", vec![1]),
    ];
    if request.is_some() {
        properties.push(("request\0protocol", protocol.as_bytes().to_vec()));
    }
    let properties = properties.into_iter();
    machine.world().properties = properties
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let context = machine.context();
    let Some(request) = request else {
        let passes = machine.bytes(context, true);
        let did = machine.did();
        assert_eq!(passes, did.closed.is_empty(), "{did:?}");
        return did.state["portcullis.decision"].clone();
    };
    let mut headers = vec![
        (b":method".to_vec(), bytes(&request["method"])),
        (b":path".to_vec(), bytes(&request["path"])),
    ];
    if let Some(authority) = request.get("authority") {
        headers.push((b":authority".to_vec(), bytes(authority)));
    }
    for pair in request["headers"].as_array().expect("a list") {
        headers.push((bytes(&pair[0]), bytes(&pair[1])));
    }
    if let Some(said) = question.get("via_gateway").filter(|said| !said.is_null()) {
        headers.push((b"x-forwarded-client-cert".to_vec(), bytes(said)));
    }
    machine.world().headers = headers;
    let before = machine.world().headers.clone();
    let passes = machine.request(context);
    let did = machine.did();
    let after = std::mem::take(&mut machine.world().headers);
    let wanted = match passes {
        true => forwarded(line, before),
        false => before,
    };
    let sorted = |mut headers: Headers| {
        headers.sort();
        headers
    };
    assert_eq!(sorted(after), sorted(wanted), "{}", question["id"]);
    let decision = did.state["portcullis.decision"].clone();
    let (effect, reason) = decision.split_once(' ').expect("effect and reason");
    let expected = match effect {
        "allow" => None,
        "deny" => Some((403, format!("portcullis[{reason}]"))),
        _ => Some((400, format!("portcullis[{reason}]"))),
    };
    assert_eq!(
        (did.replied, passes),
        (expected.clone(), expected.is_none())
    );
    decision
}

/// The headers of a request that goes on.
fn forwarded(line: &Value, mut headers: Headers) -> Headers {
    let (id, answer) = (&line["question"]["id"], &line["answer"]);
    if let Some(path) = answer.get("forwarded_path") {
        let own = headers.iter_mut().find(|(name, _)| name == b":path");
        own.expect("a path").1 = bytes(path);
    }
    if NOT_STRIPPED.iter().any(|other| id == other) {
        return headers;
    }
    for change in answer["forwarded_headers"].as_array().into_iter().flatten() {
        let name = bytes(&change[0]);
        headers.retain(|(other, _)| !other.eq_ignore_ascii_case(&name));
        if !change[1].is_null() {
            headers.push((name, bytes(&change[1])));
        }
    }
    headers
}

/// A target without its query.
fn bare(target: &Value) -> &str {
    text(target).split('?').next().unwrap_or_default()
}

/// What the filter has to do, as `effect reason`.
fn expected(line: &Value) -> String {
    let (question, answer) = (&line["question"], &line["answer"]);
    let effect = text(&answer["effect"]);
    let changed = answer.get("forwarded_path").is_some_and(|path| {
        let own = &question["request"]["path"];
        let is_shorter = text(path).len() < text(own).len();
        *path != *own && !(bare(path) == bare(own) && is_shorter)
    });
    let is_judged = question.get("request").is_some();
    match effect {
        "allow" if is_judged && changed => "bad-request path-not-normalized".to_owned(),
        "redirect" => "bad-request path-not-normalized".to_owned(),
        _ => format!("{effect} {}", text(&answer["because"]["code"])),
    }
}

#[test]
fn the_filter_answers_like_the_native_core() {
    let filter = Filter::compile(&components::envoy_filter());
    let ca = TestCa::new(OWN);
    let lines = read("authorize");
    let mut roots = Roots::from([(OWN.to_owned(), ca.pem())]);
    for (_, peer) in lines.iter().flat_map(|line| peers(&line["question"])) {
        let domain = text(&peer["trust_domain"]).to_owned();
        let pem = || TestCa::new(text(&peer["trust_domain"])).pem();
        roots.entry(domain).or_insert_with(pem);
    }
    let mut leaves: BTreeMap<Vec<String>, Vec<u8>> = BTreeMap::new();
    let (mut asked, mut out) = (0, BTreeMap::<&str, u32>::new());
    let mut different = Vec::new();
    for line in lines {
        let question = &line["question"];
        if let Some(reason) = left_out(&line) {
            *out.entry(reason).or_default() += 1;
            continue;
        }
        let uris: Vec<String> = question["client_uris"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|uri| text(uri).to_owned())
            .collect();
        let leaf = leaves.entry(uris.clone()).or_insert_with(|| {
            let names: Vec<&str> = uris.iter().map(String::as_str).collect();
            let leaf = ca.leaf("spiffe://t.consul/x").with(|draft| {
                // From before 1970 on, because most questions are asked then.
                let long = 2_000_000_000;
                draft.uris(&names).valid(-long, long)
            });
            leaf.issue().pem().into_bytes()
        });
        asked += 1;
        let answer = ask(&filter, &line, &roots, leaf);
        let meant = MEANT.iter().find(|(id, _)| question["id"] == *id);
        let expected = meant.map_or_else(|| expected(&line), |(_, answer)| (*answer).to_owned());
        if answer != expected {
            different.push(format!("{}: {answer}, not {expected}", question["id"]));
        }
    }
    println!("{asked} asked, left out: {out:?}");
    assert!(asked > 1_500, "{asked}");
    assert!(
        different.is_empty(),
        "{} differences:\n{}",
        different.len(),
        different[..different.len().min(40)].join("\n")
    );
}

#[test]
fn envoy_calls_only_what_the_filter_uses() {
    let filter = Filter::compile(&components::envoy_filter());
    assert_eq!(filter.exports(), EXPORTS);
    let plain = Filter::compile(&components::plain_envoy_filter());
    assert!(
        EXPORTS
            .iter()
            .all(|name| plain.exports().iter().any(|e| e == name))
    );
}
