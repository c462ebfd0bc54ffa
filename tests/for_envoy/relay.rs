//! The relay of `portcullis sds`: the filter's questions with a token that it does not know.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use portcullis_dev_agent::{DefaultPolicy, DevAgentConfig, Token};
use portcullis_testkit::TestCa;
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::process::eventually;
use serde_json::{Value, json};

use crate::scene::{Agent, Dev, SOON, Server, WithAcls};

/// Status, head and body of the answer on a unix socket.
fn ask(socket: &Path, method: &str, target: &str, body: &str) -> (u16, String, String) {
    let mut stream = UnixStream::connect(socket).expect("the relay listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a timeout");
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("it takes it");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
    (
        status.expect("a status"),
        head.to_ascii_lowercase(),
        body.to_owned(),
    )
}

#[test]
fn the_token_of_a_relay_is_good_for_its_questions_alone() {
    let Some(consul) = Consul::start("the_token_of_a_relay", Options::new().with_acls()) else {
        return;
    };
    let agent = WithAcls(consul);
    let server = Server::start("sds", &agent, "db", &["-relay"]);
    let socket = server.socket();
    let matches = "/v1/connect/intentions/match?by=destination&name=db";

    // Without a token the agent itself refuses, or hides what there is.
    let bare = agent.api().with_token(None);
    assert_ne!(bare.get("/v1/config/mesh/mesh").status, 200);
    let (status, head, body) = ask(socket, "GET", "/v1/agent/connect/ca/roots", "");
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("x-consul-index: "), "{head}");
    assert!(body.contains("BEGIN CERTIFICATE"));
    let (status, head, body) = ask(socket, "GET", matches, "");
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("\"db\""), "{body}");
    let index = head
        .lines()
        .find_map(|line| line.strip_prefix("x-consul-index: "))
        .expect("an index")
        .trim()
        .to_owned();

    // A question that waits is answered by the change.
    let waiting = std::thread::spawn({
        let (socket, target) = (
            socket.to_owned(),
            format!("{matches}&index={index}&wait=50s"),
        );
        move || ask(&socket, "GET", &target, "")
    });
    portcullis_tests::pair::intention(&agent.api(), "web", "db", "allow", "for the relay");
    let (status, _, body) = waiting.join().expect("an answer");
    assert_eq!(status, 200, "{body}");
    let list: Value = serde_json::from_str(&body).expect("JSON");
    if list["db"].is_array() {
        assert_eq!(list["db"][0]["SourceName"], "web", "{body}");
    } else {
        // The agent may answer for another write first.
        let (_, _, body) = ask(socket, "GET", matches, "");
        assert!(body.contains("\"web\""), "{body}");
    }

    let body = format!(
        r#"{{"Target":"db","ClientCertURI":"{}","ClientCertSerial":""}}"#,
        agent.id("web")
    );
    let (status, _, answer) = ask(socket, "POST", "/v1/agent/connect/authorize", &body);
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains("\"Authorized\""), "{answer}");

    for (method, target) in [
        ("GET", "/v1/agent/connect/ca/leaf/db"),
        ("GET", "/v1/agent/self"),
        ("GET", "/v1/config/jwt-provider/okta"),
        ("GET", "/v1/config/service-defaults"),
        ("GET", "/v1/acl/tokens"),
        ("PUT", "/v1/kv/x"),
        (
            "GET",
            "/v1/connect/intentions/match?by=destination&name=api",
        ),
        ("POST", "/v1/connect/intentions"),
    ] {
        let (status, _, answer) = ask(socket, method, target, "");
        assert_eq!(status, 403, "{target}: {answer}");
    }
    drop(server.stop());

    let without = Server::start("sds", &agent, "db", &[]);
    let (_, head, answer) = ask(without.socket(), "GET", "/v1/agent/connect/ca/roots", "");
    assert!(!answer.contains("BEGIN CERTIFICATE"), "{head}\n{answer}");
}

/// An agent for those who have this token.
struct With<'a>(&'a Dev, &'static str);

impl Agent for With<'_> {
    fn address(&self) -> SocketAddr {
        self.0.address()
    }

    fn token(&self) -> Option<&str> {
        Some(self.1)
    }
}

const PEERINGS: &str = "/v1/peerings";

/// The index of an answer, and its body.
fn peerings(socket: &Path, after: Option<u64>) -> (u64, Value) {
    let target = match after {
        Some(index) => format!("{PEERINGS}?index={index}&wait=50s"),
        None => PEERINGS.to_owned(),
    };
    let (status, head, body) = ask(socket, "GET", &target, "");
    assert_eq!(status, 200, "{body}");
    let index = head
        .lines()
        .find_map(|line| line.strip_prefix("x-consul-index: "))
        .and_then(|text| text.trim().parse().ok());
    (
        index.expect("an index"),
        serde_json::from_str(&body).expect("JSON"),
    )
}

/// Asks in turn, each time after the last answer, until there is `wanted`.
fn until(socket: &Path, after: u64, wanted: &Value) -> u64 {
    let mut index = after;
    eventually("the relay tells of it", SOON, || {
        let (next, list) = peerings(socket, Some(index));
        index = next;
        (list == *wanted).then_some(index)
    })
}

#[test]
fn a_relay_tells_of_the_peers_that_intentions_name() {
    let rules = r#"service "db" { policy = "write" intentions = "read" }"#;
    let may = format!("{rules} peering = \"read\" ");
    let config = DevAgentConfig {
        tokens: vec![
            Token::with_rules("may-not", rules),
            Token::with_rules("may", may),
        ],
        default_policy: DefaultPolicy::Deny,
        ..DevAgentConfig::for_tests()
    };
    let dev = Dev::start(config);
    let (beta, gamma) = (TestCa::new("beta.consul"), TestCa::new("gamma.consul"));
    for (name, ca) in [("beta", &beta), ("gamma", &gamma)] {
        dev.agent
            .set_peering(name, vec![ca.pem()])
            .expect("a peering");
    }
    let names = |peers: &[&str]| {
        let sources: Vec<Value> = peers
            .iter()
            .map(|peer| json!({ "Name": "web", "Peer": peer, "Action": "allow" }))
            .collect();
        let entry = json!({ "Kind": "service-intentions", "Name": "db", "Sources": sources });
        dev.agent.put_config_entry(&entry).expect("intentions");
    };
    let other = json!({ "Kind": "service-intentions", "Name": "api",
        "Sources": [{ "Name": "web", "Peer": "gamma", "Action": "allow" }] });
    dev.agent.put_config_entry(&other).expect("intentions");
    // Nothing of it is anybody's business but those fields.
    let told = |name: &str, roots: &[&TestCa]| {
        let roots: Vec<String> = roots.iter().map(|ca| ca.pem()).collect();
        json!({ "Name": name, "State": "ACTIVE", "PeerCAPems": roots, "Remote": { "Partition": "" } })
    };
    let server = Server::start("sds", &With(&dev, "may"), "db", &["-relay"]);
    let socket = server.socket();
    let (index, list) = peerings(socket, None);
    assert_eq!(list, json!([]), "no intention of `db` names one");

    // Whoever waits hears of an intention that names one ...
    let waiting = std::thread::spawn({
        let (socket, wanted) = (socket.to_owned(), json!([told("beta", &[&beta])]));
        move || until(&socket, index, &wanted)
    });
    names(&["beta"]);
    let index = waiting.join().expect("an answer");
    // ... of new roots, and of the end.
    let next = TestCa::new("beta.consul");
    let both = vec![beta.pem(), next.pem()];
    dev.agent.set_peering("beta", both).expect("new roots");
    let index = until(socket, index, &json!([told("beta", &[&beta, &next])]));
    names(&["beta", "gamma"]);
    let all = json!([told("beta", &[&beta, &next]), told("gamma", &[&gamma])]);
    let index = until(socket, index, &all);
    dev.agent.remove_peering("beta").expect("it is there");
    until(socket, index, &json!([told("gamma", &[&gamma])]));
    let (status, _, _) = ask(socket, "GET", "/v1/peering/gamma", "");
    assert_eq!(status, 403);
    drop(server.stop());

    // Who may not read peerings is told so, and gets everything else.
    let server = Server::start("sds", &With(&dev, "may-not"), "db", &["-relay"]);
    let socket = server.socket();
    let (status, _, body) = ask(socket, "GET", PEERINGS, "");
    assert_eq!(status, 403, "{body}");
    assert!(body.contains("peering:read"), "{body}");
    let target = format!("{PEERINGS}?index={}&wait=50s", u64::from(u32::MAX));
    let (status, _, body) = ask(socket, "GET", &target, "");
    assert_eq!(status, 403, "at once: {body}");
    let roots = ask(socket, "GET", "/v1/agent/connect/ca/roots", "");
    assert_eq!(roots.0, 200);
}

/// A server that answers every question with this body.
fn server(body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    address
}

#[test]
fn the_relay_passes_on_providers_and_their_keys() {
    let name = "the_relay_passes_on_providers_and_their_keys";
    let Some(consul) = Consul::start(name, Options::new().with_acls()) else {
        return;
    };
    let token = consul.token(
        "db",
        r#"service "db" { policy = "write" intentions = "read" }"#,
    );
    let agent = WithAcls(consul);
    let allowed = server(r#"{"keys":[]}"#);
    let forbidden = server("never asked");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "from a file").expect("it is written");
    let remote =
        |address: SocketAddr| json!({ "Remote": { "URI": format!("http://{address}/keys") } });
    for (name, keys) in [
        ("okta", remote(allowed)),
        ("evil", remote(forbidden)),
        ("dead", remote(SocketAddr::from(([127, 0, 0, 1], 9)))),
        (
            "file",
            json!({ "Local": { "Filename": file.path().display().to_string() } }),
        ),
        ("own", json!({ "Local": { "JWKS": "eyJrZXlzIjpbXX0=" } })),
    ] {
        let entry =
            json!({ "Kind": "jwt-provider", "Name": name, "Issuer": "x", "JSONWebKeySet": keys });
        let _ = agent.api().put("/v1/config", &entry).good();
    }
    let token_file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token_file.path(), token).expect("it is written");
    let flags = [
        "-relay".to_owned(),
        format!("-jwks-allow=http://{allowed}"),
        "-jwks-allow=http://127.0.0.1:9".to_owned(),
        format!("-token-file={}", token_file.path().display()),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::start("sds", &agent, "db", &flags);
    let socket = server.socket();
    let (status, head, body) = ask(socket, "GET", "/v1/config/jwt-provider", "");
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("x-consul-index: "), "{head}");
    let list: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(list.as_array().map(Vec::len), Some(5), "{body}");
    let keys = |name: &str| {
        let (status, _, body) = ask(socket, "GET", &format!("/v1/portcullis/jwks/{name}"), "");
        (status, body)
    };
    assert_eq!(keys("okta"), (200, r#"{"keys":[]}"#.to_owned()));
    assert_eq!(keys("file"), (200, "from a file".to_owned()));
    let (status, told) = keys("evil");
    assert_eq!(status, 403, "{told}");
    let advice = format!("allow it with `-jwks-allow http://{forbidden}`");
    assert!(told.contains(&advice), "{told}");
    let (status, told) = keys("dead");
    assert_eq!(status, 502, "{told}");
    assert!(told.contains("no connection"), "{told}");
    for name in ["own", "nobody", "..", "a%20b"] {
        let (status, told) = keys(name);
        assert_eq!(status, 404, "{name}: {told}");
    }
    drop(server.stop());
}
