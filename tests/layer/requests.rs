//! Requests to both examples: allowed, denied, and told to the application.

use http::{Request, StatusCode};
use portcullis_tests::api::Api;
use portcullis_tests::stage::{eventually, within};

use crate::client::{Body, body, empty, full, send};
use crate::scene::Scene;

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(empty()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_axum_application_is_asked_only_what_its_intentions_allow() {
    let scene = Scene::start("http_axum").await;
    let client = scene.client("web");
    let mut one = client.http1().await;
    let host = ("host", "api");
    let answer = send(&mut one, request("GET", "/items/7", &[host])).await;
    assert_eq!(answer.status(), StatusCode::OK, "{}", scene.api.log());
    let text = body(answer).await;
    assert!(
        text.starts_with(&format!("item 7 for {}", client.uri)),
        "{text}"
    );
    assert!(text.contains("permission Some(1)"), "{text}");

    for (method, path, headers, status) in [
        ("GET", "/items/secret", &[host][..], 403),
        // Judged and routed by the same path, whatever was written.
        ("GET", "/items//secret", &[host], 403),
        ("GET", "/items/x/../secret", &[host], 403),
        ("GET", "/items/%73ecret", &[host], 403),
        ("POST", "/items/7", &[host], 403),
        ("GET", "/other", &[host], 403),
        ("POST", "/echo", &[host], 403),
        ("POST", "/echo", &[host, ("x-key", "2")], 403),
        ("POST", "/echo", &[host, ("x-key", "1")], 200),
        // What a header in `Connection` names is gone before it is judged.
        (
            "POST",
            "/echo",
            &[host, ("x-key", "1"), ("connection", "x-key")],
            403,
        ),
        ("GET", "/items/x/../8", &[host], 200),
    ] {
        let answer = send(&mut one, request(method, path, headers)).await;
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
        let text = body(answer).await;
        if status == 403 {
            assert_eq!(text, "Forbidden", "nothing secret");
        }
        if path.ends_with('8') {
            assert!(text.starts_with("item 8 for"), "{text}");
        }
    }

    let mut two = client.http2().await;
    let mut echo = request("POST", "https://api/echo", &[("x-key", "1")]);
    *echo.body_mut() = full("hello");
    let answer = within(two.send_request(echo)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(body(answer).await, "hello");

    // gRPC is told in its own way.
    let grpc = [
        ("content-type", "application/grpc+proto"),
        ("te", "trailers"),
    ];
    let answer = within(two.send_request(request("POST", "https://api/pkg.S/M", &grpc)));
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["grpc-status"], "7");

    tokio::task::block_in_place(|| scene.api.logs("/items/secret"));
    let log = scene.api.log();
    let line = log.lines().find(|line| line.contains("/items/secret"));
    let line = line.unwrap_or_else(|| panic!("no line in\n{log}"));
    assert!(
        line.contains("request refused") && line.contains("/svc/web"),
        "{line}"
    );
    assert!(line.contains("code=\"permission\""), "{line}");

    let metrics = || {
        let api = Api::new(scene.metrics, None);
        tokio::task::block_in_place(|| api.get("/metrics").body)
    };
    let wanted = "portcullis_inbound_http_authz_deny_total{reason=\"permission\"} 4";
    eventually("it is counted", async || metrics().contains(wanted)).await;
    assert!(
        metrics().contains("portcullis_inbound_http_authz_allow_total 4"),
        "{}",
        metrics()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hyper_application_is_asked_only_what_its_intentions_allow() {
    let scene = Scene::start("http_hyper").await;
    let client = scene.client("web");
    let mut one = client.http1().await;
    for (path, status) in [
        ("/items/x/../7?q", 200),
        ("/items//secret", 403),
        ("/", 403),
    ] {
        let answer = send(&mut one, request("GET", path, &[("host", "api")])).await;
        assert_eq!(answer.status().as_u16(), status, "{path}");
        let text = body(answer).await;
        if status == 200 {
            assert_eq!(text, format!("{} may GET /items/7?q\n", client.uri));
        }
    }
    let mut two = client.http2().await;
    let answer = within(two.send_request(request("GET", "https://api/items/9", &[]))).await;
    assert_eq!(
        body(answer.unwrap()).await,
        format!("{} may GET https://api/items/9\n", client.uri)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_refused_each_request_and_strangers_the_handshake() {
    let scene = Scene::start("http_axum").await;
    let mut other = scene.client("batch").http2().await;
    for _ in 0..2 {
        let answer = within(other.send_request(request("GET", "https://api/items/7", &[]))).await;
        assert_eq!(answer.unwrap().status(), StatusCode::FORBIDDEN);
    }
    // A certificate of another CA proves nothing here.
    let elsewhere = crate::scene::agent().await;
    let stranger = crate::client::Client::new(&elsewhere, "web", scene.listen);
    let raw = stranger
        .raw(b"GET /items/7 HTTP/1.1\r\nhost: a\r\n\r\n", |_| false)
        .await;
    assert_eq!(raw, "", "not a byte of HTTP");
    let api = &scene.api;
    tokio::task::block_in_place(|| api.logs("the client's certificate is refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_read_in_two_ways_never_reaches_the_application() {
    let scene = Scene::start("http_hyper").await;
    let client = scene.client("web");
    for head in [
        "GET /items/7 HTTP/1.1\nhost: a\n\n",
        "GET /items/7 HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET /items/7 HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /items/7 HTTP/1.1\r\nhost: a\r\nx: y\r\n folded\r\n\r\n",
        "GET /items/7#/../secret HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let answer = client
            .raw(head.as_bytes(), |read| read.contains("\r\n\r\n"))
            .await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head}: {answer}");
    }
    // One after the other on one connection, each with its own target.
    let pipelined = "GET /items/1 HTTP/1.1\r\nhost: a\r\n\r\nGET /items//secret HTTP/1.1\r\nhost: a\r\n\r\nGET /items/3 HTTP/1.1\r\nhost: a\r\n\r\n";
    let answers = client
        .raw(pipelined.as_bytes(), |read| read.contains("/items/3"))
        .await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 403").count(), 1, "{answers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_client_calls_by_name() {
    let scene = Scene::start("http_axum").await;
    let ask = |arguments: &[&str]| {
        let arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
        let mut client = crate::scene::run("http_client", scene.agent.address(), &arguments);
        let status = client.process().wait(crate::scene::SOON);
        assert!(
            status.is_some_and(|status| status.success()),
            "{}",
            client.log()
        );
        client.log()
    };
    tokio::task::block_in_place(|| {
        let told = ask(&["GET", "http://api/items/7"]);
        assert!(told.starts_with("200 OK\nitem 7 for spiffe://"), "{told}");
        let told = ask(&["POST", "http://api/echo", "x-key=2"]);
        assert!(told.starts_with("403 Forbidden"), "{told}");
        let told = ask(&["POST", "http://api/echo", "x-key=1"]);
        assert!(told.starts_with("200 OK"), "{told}");
    });
}
