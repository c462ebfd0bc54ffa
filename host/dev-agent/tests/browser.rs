//! A browser is turned against the agent, and clients misbehave: raw bytes on
//! a socket, on 127.0.0.1 and on [::1].

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use portcullis_dev_agent::{DevAgent, DevAgentConfig, Fault, StartError};

/// Sends bytes and reads to the end. Every request here asks for `Connection: close`.
fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a timeout");
    stream
        .write_all(request.as_bytes())
        .expect("the request is sent");
    let mut reply = Vec::new();
    // A connection that is cut answers with what came before.
    let _cut = stream.read_to_end(&mut reply);
    String::from_utf8_lossy(&reply).into_owned()
}

async fn ask(address: SocketAddr, request: String) -> String {
    let reply = tokio::task::spawn_blocking(move || exchange(address, &request));
    reply.await.expect("the exchange ends")
}

fn status(reply: &str) -> u16 {
    let code = reply.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("no status in {reply:?}"))
}

fn request(method: &str, target: &str, headers: &[&str], body: &str) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text + "\r\n" + body
}

async fn start(listen: &str) -> DevAgent {
    let listen = listen.parse().expect("an address");
    DevAgent::start(DevAgentConfig {
        listen,
        ..DevAgentConfig::for_tests()
    })
    .await
    .expect("an agent")
}

const LEAF: &str = "/v1/agent/connect/ca/leaf/web";
const EXACT: &str = "/v1/connect/intentions/exact?source=web&destination=db";

#[tokio::test]
async fn a_browser_is_refused_before_any_effect() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let agent = start(listen).await;
        let address = agent.address();
        let ours = format!("Host: {address}");
        let allow = r#"{"Action":"allow"}"#;

        let rebound = [
            "evil.example",
            &format!("evil.example:{}", address.port()),
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "",
        ];
        for host in rebound {
            for (method, target, body) in [
                ("GET", LEAF, ""),
                ("PUT", EXACT, allow),
                ("DELETE", EXACT, ""),
                ("OPTIONS", LEAF, ""),
            ] {
                let reply = ask(
                    address,
                    request(method, target, &[&format!("Host: {host}")], body),
                )
                .await;
                assert_eq!(
                    status(&reply),
                    403,
                    "{listen} {method} Host: {host:?}\n{reply}"
                );
                assert!(!reply.contains("PRIVATE KEY"));
            }
        }
        for origin in [
            "http://evil.example",
            "null",
            "https://localhost",
            "http://localhost:1",
            "file://",
        ] {
            for (method, target, body) in [
                ("GET", LEAF, ""),
                ("PUT", EXACT, allow),
                ("POST", "/v1/agent/connect/authorize", "{}"),
                ("OPTIONS", EXACT, ""),
            ] {
                let reply = ask(
                    address,
                    request(method, target, &[&ours, &format!("Origin: {origin}")], body),
                )
                .await;
                assert_eq!(
                    status(&reply),
                    403,
                    "{listen} {method} Origin: {origin}\n{reply}"
                );
                assert!(!reply.to_lowercase().contains("access-control-"), "{reply}");
            }
        }
        for site in ["cross-site", "same-site"] {
            let header = format!("Sec-Fetch-Site: {site}");
            let reply = ask(address, request("GET", LEAF, &[&ours, &header], "")).await;
            assert_eq!(status(&reply), 403, "{site}");
        }
        for kind in [
            "text/plain",
            "Text/Plain; charset=utf-8",
            "multipart/form-data; boundary=b",
        ] {
            for (method, target) in [("PUT", EXACT), ("POST", "/v1/agent/connect/authorize")] {
                let reply = ask(
                    address,
                    request(
                        method,
                        target,
                        &[&ours, &format!("Content-Type: {kind}")],
                        allow,
                    ),
                )
                .await;
                assert_eq!(status(&reply), 403, "{listen} {method} {kind}\n{reply}");
            }
        }
        let form = "Content-Type: application/x-www-form-urlencoded";
        let reply = ask(
            address,
            request(
                "PUT",
                EXACT,
                &[&ours, form, "User-Agent: Mozilla/5.0"],
                allow,
            ),
        )
        .await;
        assert_eq!(status(&reply), 403, "a form from a browser");

        // Nothing of all that had an effect.
        let reply = ask(
            address,
            request("GET", "/v1/connect/intentions", &[&ours], ""),
        )
        .await;
        assert!(reply.ends_with("[]"), "{reply}");

        // What people and programs send goes through.
        let curl = [ours.as_str(), form, "User-Agent: curl/8.5.0", "Accept: */*"];
        let reply = ask(address, request("PUT", EXACT, &curl, allow)).await;
        assert_eq!(status(&reply), 200, "{reply}");
        let local = format!("Host: localhost:{}", address.port());
        for host in [
            ours.as_str(),
            local.as_str(),
            "Host: [::1]:1",
            "Host: 127.0.0.1",
        ] {
            let reply = ask(address, request("GET", LEAF, &[host], "")).await;
            assert_eq!(status(&reply), 200, "{host}\n{reply}");
        }
        let own = format!("Origin: http://{address}");
        let reply = ask(
            address,
            request(
                "GET",
                LEAF,
                &[&ours, &own, "Sec-Fetch-Site: same-origin"],
                "",
            ),
        )
        .await;
        assert_eq!(
            status(&reply),
            200,
            "a page that the agent itself would serve"
        );
        agent.shutdown().await;
    }
}

#[tokio::test]
async fn odd_requests_are_refused() {
    let agent = start("127.0.0.1:0").await;
    let address = agent.address();
    let ours = format!("Host: {address}");
    // Absolute form: the authority counts as well as the header.
    let reply = ask(
        address,
        request("GET", &format!("http://evil.example{LEAF}"), &[&ours], ""),
    )
    .await;
    assert_eq!(status(&reply), 403, "{reply}");
    let reply = ask(address, request("GET", LEAF, &[], "")).await;
    assert_eq!(status(&reply), 400, "no host\n{reply}");
    let reply = ask(
        address,
        request("GET", LEAF, &[&ours, "Host: evil.example"], ""),
    )
    .await;
    assert_eq!(status(&reply), 400, "two hosts\n{reply}");
    for target in [
        "/v1/agent/connect/ca/leaf/%zz",
        "/v1/agent/connect/ca/leaf/%ff",
        "//v1/status/leader",
        "/v1/../v1/status/leader",
    ] {
        let reply = ask(address, request("GET", target, &[&ours], "")).await;
        assert_eq!(status(&reply), 404, "{target}\n{reply}");
    }
    agent.shutdown().await;
}

#[tokio::test]
async fn bodies_and_headers_are_capped() {
    let config = DevAgentConfig {
        max_body: 1000,
        ..DevAgentConfig::for_tests()
    };
    let agent = DevAgent::start(config).await.expect("an agent");
    let address = agent.address();
    let ours = format!("Host: {address}");
    let long = "x".repeat(1001);
    let reply = ask(address, request("PUT", EXACT, &[&ours], &long)).await;
    assert_eq!(status(&reply), 413, "{reply}");
    let chunked = format!(
        "PUT {EXACT} HTTP/1.1\r\n{ours}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n{long}\r\n0\r\n\r\n"
    );
    let reply = ask(address, chunked).await;
    assert_eq!(status(&reply), 413, "{reply}");
    let header = format!("X-Long: {}", "x".repeat(512 * 1024));
    let reply = ask(address, request("GET", LEAF, &[&ours, &header], "")).await;
    assert_eq!(status(&reply), 431, "{reply}");
    let deep = format!("{{\"Action\":{}{}}}", "[".repeat(400), "]".repeat(400));
    let reply = ask(address, request("PUT", EXACT, &[&ours], &deep)).await;
    assert_eq!(status(&reply), 400, "deep nesting\n{reply}");
    agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_above_the_cap_wait_for_their_turn() {
    let config = DevAgentConfig {
        max_connections: 2,
        ..DevAgentConfig::for_tests()
    };
    let agent = DevAgent::start(config).await.expect("an agent");
    let address = agent.address();
    let get = request(
        "GET",
        "/v1/status/leader",
        &[&format!("Host: {address}")],
        "",
    );
    // Two that were answered and stay open.
    let open = || {
        let mut stream = TcpStream::connect(address).expect("a connection");
        let kept = get.replace("Connection: close\r\n", "");
        stream.write_all(kept.as_bytes()).expect("it is sent");
        let mut reply = [0; 16];
        stream.read_exact(&mut reply).expect("a reply");
        stream
    };
    let (one, two) = tokio::task::block_in_place(|| (open(), open()));
    let third = tokio::spawn(ask(address, get.clone()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!third.is_finished(), "there are two slots only");
    drop(one);
    assert_eq!(status(&third.await.expect("a reply")), 200);
    drop(two);
    agent.shutdown().await;
}

#[tokio::test]
async fn a_taken_port_and_other_addresses_are_clear_errors() {
    let agent = start("127.0.0.1:0").await;
    let again = DevAgentConfig {
        listen: agent.address(),
        ..DevAgentConfig::for_tests()
    };
    let error = DevAgent::start(again).await.expect_err("the port is taken");
    assert!(
        matches!(error, StartError::AddressInUse(address) if address == agent.address()),
        "{error}"
    );
    assert!(error.to_string().contains("in use"), "{error}");
    agent.shutdown().await;
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let listen = listen.parse().expect("an address");
        let config = DevAgentConfig {
            listen,
            ..DevAgentConfig::for_tests()
        };
        let error = DevAgent::start(config).await.expect_err("not loopback");
        assert!(matches!(error, StartError::NotLoopback(_)), "{error}");
    }
}

#[tokio::test]
async fn faults_happen_once_and_in_order() {
    let agent = start("127.0.0.1:0").await;
    let address = agent.address();
    let get = |path: &str| request("GET", path, &[&format!("Host: {address}")], "");
    let roots = "/v1/connect/ca/roots";
    agent.inject(roots, Fault::Status(503, "later".to_owned()));
    agent.inject(roots, Fault::Garbage(b"<html>".to_vec()));
    agent.inject(roots, Fault::Truncated);
    agent.inject(roots, Fault::Hangup);
    agent.inject(roots, Fault::Index(3));
    // Another path is none of their business.
    assert_eq!(status(&ask(address, get("/v1/status/leader")).await), 200);
    let reply = ask(address, get(roots)).await;
    assert!(status(&reply) == 503 && reply.ends_with("later"), "{reply}");
    assert!(ask(address, get(roots)).await.ends_with("<html>"));
    let cut = ask(address, get(roots)).await;
    let length = cut.lines().find_map(|line| {
        line.to_lowercase()
            .strip_prefix("content-length: ")?
            .parse::<usize>()
            .ok()
    });
    let body = cut.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
    assert!(body < length.expect("a length"), "{cut}");
    assert_eq!(ask(address, get(roots)).await, "");
    assert!(
        ask(address, get(roots))
            .await
            .to_lowercase()
            .contains("x-consul-index: 3\r\n")
    );
    assert!(
        !ask(address, get(roots))
            .await
            .to_lowercase()
            .contains("x-consul-index: 3\r\n")
    );
    agent.shutdown().await;
}

#[tokio::test]
async fn a_fault_may_stay_until_it_is_cleared_and_look_like_another_program() {
    let agent = start("127.0.0.1:0").await;
    let address = agent.address();
    let get = |path: &str| request("GET", path, &[&format!("Host: {address}")], "");
    let roots = "/v1/connect/ca/roots";
    let page = Fault::Foreign {
        status: 200,
        headers: vec![("Content-Type".to_owned(), "text/html".to_owned())],
        body: b"<html>".to_vec(),
    };
    agent.inject_until_cleared(roots, page);
    for _ in 0..3 {
        let reply = ask(address, get(roots)).await.to_lowercase();
        assert!(
            status(&reply) == 200 && reply.ends_with("<html>") && !reply.contains("x-consul"),
            "{reply}"
        );
    }
    agent.clear_faults();
    assert!(ask(address, get(roots)).await.contains("TrustDomain"));
    agent.shutdown().await;
}
