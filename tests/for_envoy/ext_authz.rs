//! `portcullis ext-authz`: the policy for an Envoy without the filter.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use portcullis_dev_agent::DevAgentConfig;
use portcullis_testkit::TestCa;
use portcullis_tests::envoy_process::{self as envoy, request};
use portcullis_tests::pair;
use portcullis_tests::process::eventually;
use serde_json::json;
use tonic::transport::{Channel, Endpoint};

use crate::bootstrap::Mesh;
use crate::scene::{Agent as _, Dev, SOON, Server};
use crate::tokens::Issuer;

/// PEM as Envoy sends it.
fn encoded(pem: &str) -> String {
    pem.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

pub(crate) fn question(certificate: &str, http: Option<HttpRequest>) -> CheckRequest {
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer {
                certificate: encoded(certificate),
                // Nobody believes this.
                principal: "spiffe://wrong.consul/ns/default/dc/dc1/svc/admin".to_owned(),
                ..Peer::default()
            }),
            request: http.map(|http| Request {
                http: Some(http),
                ..Request::default()
            }),
            ..AttributeContext::default()
        }),
    }
}

fn http(path: &str, headers: &[(&str, &str)]) -> HttpRequest {
    let headers = headers.iter().map(|(name, value)| HeaderValue {
        key: (*name).to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    });
    HttpRequest {
        method: "GET".to_owned(),
        path: path.to_owned(),
        host: "api".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        header_map: Some(HeaderMap {
            headers: headers.collect(),
        }),
        ..HttpRequest::default()
    }
}

/// gRPC code, status for the client, reason.
fn told(answer: CheckResponse) -> (i32, Option<i32>, String) {
    let status = match answer.http_response {
        Some(HttpResponse::DeniedResponse(denied)) => denied.status.map(|status| status.code),
        _ => None,
    };
    let metadata = answer.dynamic_metadata.expect("metadata");
    let reason = format!("{:?}", metadata.fields["reason"]);
    let reason = reason.split('"').nth(1).unwrap_or_default().to_owned();
    (answer.status.expect("a status").code, status, reason)
}

pub(crate) async fn client(server: &Server) -> AuthorizationClient<Channel> {
    let uri = format!("unix:{}", server.socket().display());
    let endpoint = Endpoint::from_shared(uri).expect("an address");
    AuthorizationClient::new(endpoint.connect().await.expect("a connection"))
}

fn l7(agent: &Dev) {
    let entries = [
        json!({ "Kind": "service-defaults", "Name": "db", "Protocol": "http" }),
        json!({ "Kind": "service-intentions", "Name": "db", "Sources": [{ "Name": "web", "Permissions": [
            { "Action": "deny", "HTTP": { "PathPrefix": "/admin" } },
            { "Action": "deny", "HTTP": { "PathPrefix": "/", "Header": [{ "Name": "x-role", "Exact": "guest" }] } },
            { "Action": "allow", "HTTP": { "PathPrefix": "/" } },
        ]}]}),
    ];
    for entry in entries {
        let _ = agent.api().put("/v1/config", &entry).good();
    }
}

#[test]
fn certificates_are_verified_here_and_nothing_else_is_believed() {
    let agent = Dev::start(DevAgentConfig::for_tests());
    pair::intention(&agent.api(), "web", "db", "allow", "");
    let server = Server::start("ext-authz", &agent, "db", &[]);
    let issue = |service: &str| agent.agent.issue(service).expect("a certificate").chain_pem;
    let domain = agent.id("web");
    let domain = domain.split('/').nth(2).expect("a trust domain");
    let forged = TestCa::new(domain).service("web").issue().pem();
    let (web, other) = (issue("web"), issue("other"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ask = async |certificate: &str| {
        let answer = client(&server)
            .await
            .check(question(certificate, None))
            .await;
        told(answer.expect("an answer").into_inner())
    };
    runtime.block_on(async {
        let (code, _, reason) = ask(&web).await;
        assert_eq!((code, reason.as_str()), (0, "intention"), "web");
        for (certificate, expected) in [
            (other.as_str(), "default-policy"),
            (forged.as_str(), "certificate-refused"),
            ("", "certificate-unreadable"),
            ("x", "certificate-unreadable"),
        ] {
            let (code, _, reason) = ask(certificate).await;
            assert_eq!((code, reason.as_str()), (7, expected), "{certificate}");
        }
        let empty = client(&server).await.check(CheckRequest::default()).await;
        assert_eq!(told(empty.expect("an answer").into_inner()).0, 7);
    });
    server.process.logs("src.claims=");
    drop(server.stop());
}

#[test]
fn requests_are_read_whole_or_refused() {
    let agent = Dev::start(DevAgentConfig::for_tests());
    l7(&agent);
    let server = Server::start("ext-authz", &agent, "db", &[]);
    let web = agent.agent.issue("web").expect("a certificate").chain_pem;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut client = client(&server).await;
        let mut ask = async |http: HttpRequest| {
            let answer = client.check(question(&web, Some(http))).await;
            told(answer.expect("an answer").into_inner())
        };
        assert_eq!(ask(http("/items", &[])).await.0, 0);
        assert_eq!(ask(http("/admin", &[])).await.1, Some(403));
        // The second value denies, too.
        let twice = http("/items", &[("x-role", "user"), ("x-role", "guest")]);
        assert_eq!(ask(twice).await.1, Some(403));
        let mut joined = http("/items", &[]);
        joined.header_map = None;
        joined.headers = HashMap::from([("x-role".to_owned(), "user,guest".to_owned())]);
        let (_, status, reason) = ask(joined).await;
        assert_eq!((status, reason.as_str()), (Some(403), "headers-joined"));
        // Envoy would forward what it has.
        let (_, status, reason) = ask(http("/a/../items", &[])).await;
        assert_eq!(
            (status, reason.as_str()),
            (Some(400), "path-not-normalized")
        );
        let two_ways = http("/items", &[(":path", "/admin")]);
        assert_eq!(ask(two_ways).await.1, Some(400));
        // A connection says nothing of its requests.
        let mut client = self::client(&server).await;
        let answer = client.check(question(&web, None)).await.expect("an answer");
        assert_eq!(told(answer.into_inner()).0, 7);
    });
    drop(server.stop());
}

/// Answers every request with 200 and its head, and closes.
fn application() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 16 * 1024];
                let length = stream.read(&mut buffer).unwrap_or_default();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&buffer[..length]);
            });
        }
    });
    address
}

#[test]
fn requests_through_a_real_envoy_are_judged() {
    let Some(program) = envoy::program("requests_through_a_real_envoy") else {
        return;
    };
    let agent = Dev::start(DevAgentConfig::for_tests());
    l7(&agent);
    let authz = Server::start("ext-authz", &agent, "db", &[]);
    let policy = format!("-ext-authz=unix:{}", authz.socket().display());
    let mesh = Mesh::start(&agent, &program, application(), &policy, &[]);
    let get = |target: &str, headers: &str| {
        let answer = request(mesh.door, "GET", target, headers);
        answer.map_or(0, |(status, _)| status)
    };
    eventually("the way through the mesh", SOON, || {
        (get("/items", "") == 200).then_some(())
    });
    for (target, headers, status) in [
        ("/items?x=1", "", 200),
        ("/admin", "", 403),
        ("/a/../admin", "", 403),
        ("/%61dmin", "", 403),
        ("/items", "x-role: guest\r\n", 403),
        ("/items", "x-role: user\r\nx-role: guest\r\n", 403),
        ("/items", "x-role: user\r\n", 200),
    ] {
        assert_eq!(get(target, headers), status, "{target} {headers}");
    }
    mesh.db.logs("\"decision\":\"permission\"");
    agent.agent.delete_intention("web", "db").expect("a change");
    eventually("the change is in force", SOON, || {
        (get("/items", "") == 403).then_some(())
    });
    drop(authz.stop());
    assert_eq!(get("/items", ""), 503, "nobody passes without an answer");
}

#[test]
fn the_application_behind_a_real_envoy_gets_the_payload_of_a_token() {
    let Some(program) = envoy::program("the_application_behind_a_real_envoy") else {
        return;
    };
    let agent = Dev::start(DevAgentConfig::for_tests());
    let issuer = Issuer::new("k1");
    let wanted = json!({ "Providers": [{ "Name": "okta" }] });
    for entry in [
        json!({ "Kind": "service-defaults", "Name": "db", "Protocol": "http" }),
        json!({ "Kind": "jwt-provider", "Name": "okta", "Issuer": "okta",
                "JSONWebKeySet": { "Local": { "JWKS": issuer.inline() } },
                "Forwarding": { "HeaderName": "x-payload" } }),
        json!({ "Kind": "service-intentions", "Name": "db", "JWT": wanted, "Sources": [
            { "Name": "web", "Permissions": [
                { "Action": "allow", "HTTP": { "PathPrefix": "/" } }]}]}),
    ] {
        let _ = agent.api().put("/v1/config", &entry).good();
    }
    let authz = Server::start("ext-authz", &agent, "db", &[]);
    let policy = format!("-ext-authz=unix:{}", authz.socket().display());
    let mesh = Mesh::start(&agent, &program, application(), &policy, &[]);
    let token = issuer.token(600, "reader");
    let headers = format!("authorization: Bearer {token}\r\nx-payload: forged\r\n");
    let mut got = String::new();
    eventually("the token is taken", SOON, || {
        let (status, body) = request(mesh.door, "GET", "/items", &headers).ok()?;
        got = body;
        (status == 200).then_some(())
    });
    let payload = token.split('.').nth(1).expect("a payload");
    let lines: Vec<&str> = got
        .lines()
        .filter(|line| line.starts_with("x-payload:"))
        .collect();
    assert_eq!(lines, [format!("x-payload: {payload}")], "{got}");
    assert!(!got.contains("authorization"), "{got}");
    let without = request(mesh.door, "GET", "/items", "x-payload: forged\r\n");
    assert_eq!(without.map_or(0, |(status, _)| status), 403);
}

#[test]
fn whoever_says_nothing_keeps_no_place() {
    let agent = Dev::start(DevAgentConfig::for_tests());
    let authz = Server::start("ext-authz", &agent, "db", &[]);
    let mut silent = UnixStream::connect(authz.socket()).expect("a connection");
    silent.set_read_timeout(Some(SOON)).expect("a timeout");
    // It is ended by the server, and not by our patience.
    assert_eq!(silent.read(&mut [0; 1]).expect("an end"), 0);
}
