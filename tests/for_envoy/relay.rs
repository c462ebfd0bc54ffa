//! The relay of `portcullis sds`: the filter's questions with a token that it does not know.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use portcullis_tests::consul::{Consul, Options};
use serde_json::Value;

use crate::scene::{Agent as _, Server, WithAcls};

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
