//! Requests that two servers in a row would read in different ways, as raw bytes over TLS.

use portcullis_tests::stage::within;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::client::read_until;
use crate::scene::Scene;

/// What a smuggler wants the application to see.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";

async fn scene() -> Scene {
    let permissions = json!([
        { "Action": "allow", "HTTP": { "PathPrefix": "/" } },
        { "Action": "allow", "HTTP": { "Methods": ["OPTIONS"] } },
    ]);
    Scene::start("http", permissions, &[]).await
}

/// Heads that are refused, with what follows them. All of them are allowed by the policy.
fn refused() -> Vec<(&'static str, String)> {
    let smuggling = |headers: &str, body: &str| {
        format!("POST /a HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n{body}{SMUGGLED}")
    };
    vec![
        (
            "CL and TE",
            smuggling(
                "content-length: 5\r\ntransfer-encoding: chunked",
                "0\r\n\r\n",
            ),
        ),
        (
            "TE and CL",
            smuggling(
                "transfer-encoding: chunked\r\ncontent-length: 5",
                "0\r\n\r\n",
            ),
        ),
        (
            "two lengths",
            smuggling("content-length: 0\r\ncontent-length: 5", ""),
        ),
        (
            "the same length twice",
            smuggling("content-length: 5\r\ncontent-length: 5", "hello"),
        ),
        (
            "a list of lengths",
            smuggling("content-length: 5, 5", "hello"),
        ),
        (
            "a length with a sign",
            smuggling("content-length: +5", "hello"),
        ),
        (
            "a length in hexadecimal",
            smuggling("content-length: 0x5", "hello"),
        ),
        (
            "a length with a space",
            smuggling("content-length: 5 5", "hello"),
        ),
        ("an empty length", smuggling("content-length: ", "")),
        (
            "a length that overflows",
            smuggling("content-length: 18446744073709551621", "hello"),
        ),
        (
            "TE twice",
            smuggling(
                "transfer-encoding: chunked\r\ntransfer-encoding: identity",
                "0\r\n\r\n",
            ),
        ),
        (
            "TE with another coding after",
            smuggling("transfer-encoding: chunked, identity", "0\r\n\r\n"),
        ),
        (
            "TE with another coding before",
            smuggling("transfer-encoding: gzip, chunked", "0\r\n\r\n"),
        ),
        (
            "TE identity",
            smuggling("transfer-encoding: identity", "0\r\n\r\n"),
        ),
        (
            "TE misspelt",
            smuggling("transfer-encoding: xchunked", "0\r\n\r\n"),
        ),
        (
            "TE with a vertical tab",
            smuggling("transfer-encoding:\x0bchunked", "0\r\n\r\n"),
        ),
        (
            "TE behind a space",
            smuggling("transfer-encoding : chunked", "0\r\n\r\n"),
        ),
        (
            "TE folded",
            smuggling("x: y\r\n transfer-encoding: chunked", "0\r\n\r\n"),
        ),
        (
            "TE folded into its value",
            smuggling("transfer-encoding:\r\n chunked", "0\r\n\r\n"),
        ),
        (
            "TE behind a bare line feed",
            smuggling("x: y\ntransfer-encoding: chunked", "0\r\n\r\n"),
        ),
        (
            "TE behind a bare carriage return",
            smuggling("x: y\rtransfer-encoding: chunked", "0\r\n\r\n"),
        ),
        (
            "a length behind NUL",
            smuggling("x: y\0\r\ncontent-length: 5", "hello"),
        ),
        (
            "TE in HTTP/1.0",
            format!(
                "POST /a HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
        ),
        (
            "bare line feeds only",
            format!("GET /a HTTP/1.1\nhost: a\n\n{SMUGGLED}"),
        ),
        (
            "a bare line feed at the end",
            format!("GET /a HTTP/1.1\r\nhost: a\r\n\n{SMUGGLED}"),
        ),
        (
            "two hosts",
            format!("GET /a HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n{SMUGGLED}"),
        ),
        (
            "no host",
            format!("GET /a HTTP/1.1\r\nx: y\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a folded host",
            format!("GET /a HTTP/1.1\r\n host: a\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a space in the target",
            format!("GET /a b HTTP/1.1\r\nhost: a\r\n\r\n{SMUGGLED}"),
        ),
        (
            "two spaces before the target",
            format!("GET  /a HTTP/1.1\r\nhost: a\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a tab before the target",
            format!("GET\t/a HTTP/1.1\r\nhost: a\r\n\r\n{SMUGGLED}"),
        ),
        (
            "another version",
            format!("GET /a HTTP/1.2\r\nhost: a\r\n\r\n{SMUGGLED}"),
        ),
        ("no version", format!("GET /a\r\nhost: a\r\n\r\n{SMUGGLED}")),
        (
            "two empty lines before",
            format!("\r\n\r\nGET /a HTTP/1.1\r\nhost: a\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a name that is no token",
            format!("GET /a HTTP/1.1\r\nhost: a\r\nx(y): z\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a line without a colon",
            format!("GET /a HTTP/1.1\r\nhost: a\r\nx\r\n\r\n{SMUGGLED}"),
        ),
        (
            "a method in lower case",
            "get /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(),
        ),
        (
            "an unknown method",
            "FOO /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(),
        ),
        (
            "a fragment",
            "GET /a#b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(),
        ),
        (
            "an authority as the target",
            "GET a:80 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(),
        ),
        (
            "another scheme",
            "GET ftp://a/b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(),
        ),
        (
            "a star that is no OPTIONS",
            "GET * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(),
        ),
        (
            "NUL, escaped",
            "GET /a%00b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_two_readings_is_answered_400_and_goes_nowhere() {
    let scene = scene().await;
    let client = scene.client("web");
    for (what, bytes) in refused() {
        let answer = client.raw(bytes.as_bytes(), |_| false).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{what}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer:?}");
        assert_eq!(scene.application.paths(), [""; 0], "{what}");
    }
    let count = refused().len();
    let lines = scene.lines(count);
    assert!(
        lines
            .iter()
            .all(|line| line.to_string().contains("bad-request"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_end_where_both_sides_say() {
    let scene = scene().await;
    let client = scene.client("web");
    let chunked = "POST /count HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    for (what, body) in [
        ("a bare line feed after a size", "3\nabc\r\n0\r\n\r\n"),
        (
            "a chunk that is longer than its size",
            "3\r\nabcd\r\n0\r\n\r\n",
        ),
        ("a bare line feed after a chunk", "3\r\nabc\n0\r\n\r\n"),
        ("a size with a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a size with a prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
        (
            "a size that overflows",
            "10000000000000003\r\nabc\r\n0\r\n\r\n",
        ),
        ("a folded trailer", "0\r\nx: y\r\n z\r\n\r\n"),
        ("a trailer behind a bare line feed", "0\r\nx: y\n\r\n"),
        ("a line feed in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
    ] {
        let bytes = format!("{chunked}{body}{SMUGGLED}");
        let answer = client.raw(bytes.as_bytes(), |_| false).await;
        assert!(!answer.contains("HTTP/1.1 200"), "{what}: {answer:?}");
        assert!(
            !scene.application.paths().contains(&"/smuggled".to_owned()),
            "{what}"
        );
    }
    // Well-formed ones in one go: each is answered, none is lost.
    let bytes = format!(
        "{chunked}3;x=\"y\"\r\nabc\r\n0\r\nt: 1\r\n\r\nPOST /count HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n\r\n\r\nGET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    );
    let answers = client.raw(bytes.as_bytes(), |_| false).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3, "{answers:?}");
    assert_eq!(scene.application.paths().last().unwrap(), "/last");
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_reach_the_policy_as_they_were_written() {
    let scene = scene().await;
    let client = scene.client("web");
    let ask = |target: &str| {
        format!("OPTIONS {target} HTTP/1.1\r\nhost: other.example\r\nconnection: close\r\n\r\n")
    };
    for (target, arrives) in [
        ("//evil.example/admin", "//evil.example/admin"),
        ("/a\\b", "/a/b"),
        ("/a%2fb", "/a%2fb"),
        ("/a;x/..;/b", "/"),
        ("/caf%C3%A9", "/caf%C3%A9"),
        ("http://API.example/x/./y?q", "/x/y?q"),
        ("HTTP://api.example", "/"),
        ("http://user@api.example/u", "/u"),
        ("*", "*"),
    ] {
        let before = scene.application.asked().len();
        let answer = client.raw(ask(target).as_bytes(), |_| false).await;
        let asked = scene.application.asked();
        if target == "/a;x/..;/b" {
            // Strict matching may refuse it; it must not become anything else.
            assert!(answer.starts_with("HTTP/1.1 "), "{target}: {answer:?}");
            continue;
        }
        assert!(answer.starts_with("HTTP/1.1 200"), "{target}: {answer:?}");
        assert_eq!(asked.len(), before + 1, "{target}");
        assert_eq!(asked[before].uri, arrives, "{target}");
        let host = asked[before].headers["host"].to_str().unwrap().to_owned();
        let expected = match target {
            t if t.starts_with("http://API") => "API.example",
            t if t.to_ascii_lowercase().starts_with("http://") => "api.example",
            _ => "other.example",
        };
        assert_eq!(host, expected, "{target}");
    }
    for target in ["/\u{e9}", "/a\u{7f}b"] {
        let answer = client.raw(ask(target).as_bytes(), |_| false).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{target}: {answer:?}");
    }
    let mut bytes = b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_vec();
    let mut stream = client.connect(&[]).await;
    stream.write_all(&bytes).await.unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer:?}");
    bytes.clear();
}

#[tokio::test(flavor = "multi_thread")]
async fn how_the_connection_came_about_makes_no_difference() {
    let permissions = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/public" } }]);
    let scene = Scene::start("http", permissions, &[]).await;
    let client = scene.client("web");
    let statuses = |answers: &str| -> Vec<String> {
        answers
            .split("HTTP/1.1 ")
            .skip(1)
            .map(|answer| answer[..3].to_owned())
            .collect()
    };
    let one = |path: &str, close: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n{close}\r\n");
    let expected = ["200", "403", "403"];
    // In one go, kept alive.
    let all = [
        one("/public/a", ""),
        one("/private", ""),
        one("/public/../private", "connection: close\r\n"),
    ]
    .concat();
    assert_eq!(
        statuses(&client.raw(all.as_bytes(), |_| false).await),
        expected
    );
    // Fresh ones, whatever ALPN says.
    for alpn in [
        &[][..],
        &["http/1.1"],
        &["h2"],
        &["h2", "http/1.1"],
        &["other"],
    ] {
        for (path, status) in ["/public/a", "/private", "/public/../private"]
            .into_iter()
            .zip(expected)
        {
            let mut stream = client.connect(alpn).await;
            stream
                .write_all(one(path, "connection: close\r\n").as_bytes())
                .await
                .unwrap();
            let answer = read_until(&mut stream, |_| false).await;
            assert_eq!(statuses(&answer), [status], "{alpn:?} {path}");
        }
    }
    // HTTP/2 without ALPN.
    let stream = client.connect(&[]).await;
    let (mut two, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    for (path, status) in ["/public/a", "/private", "/public/../private"]
        .into_iter()
        .zip(expected)
    {
        let request = http::Request::get(format!("https://a{path}"))
            .body(crate::client::empty())
            .unwrap();
        let answer = within(two.send_request(request)).await.unwrap();
        assert_eq!(answer.status().as_str(), status, "{path}");
    }
}
