//! What is judged, what goes on, what is answered instead, and what is written about it.

use http::{Method, Request, StatusCode};
use portcullis_tests::stage::within;
use serde_json::json;

use crate::client::{Body, body, empty, send};
use crate::scene::{Scene, intentions};

fn get(path: &str) -> Request<Body> {
    ask(Method::GET, path)
}

fn ask(method: Method, path: &str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "api.example")
        .body(empty())
        .expect("a request")
}

/// The same over HTTP/2.
fn get2(path: &str) -> Request<Body> {
    Request::builder()
        .uri(format!("https://api.example{path}"))
        .body(empty())
        .expect("a request")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_judged_and_an_allowed_one_arrives_as_it_was() {
    let permissions = json!([
        { "Action": "deny", "HTTP": { "PathPrefix": "/admin" } },
        { "Action": "allow", "HTTP": { "PathPrefix": "/", "Methods": ["GET"] } },
        { "Action": "allow", "HTTP": { "PathExact": "/write", "Header": [{ "Name": "x-key", "Exact": "good" }] } },
    ]);
    let scene = Scene::start("http", permissions, &["-debug-reason-header"]).await;
    let client = scene.client("web");

    // One connection, many answers.
    let mut one = client.http1().await;
    let allowed = send(&mut one, get("/items//a%2Fb?x=1&token=secret")).await;
    assert_eq!(allowed.status(), StatusCode::OK);
    assert_eq!(allowed.headers()["x-portcullis-reason"], "permission");
    assert_eq!(allowed.headers()["x-app"], "1");
    assert!(
        !allowed.headers().contains_key("keep-alive"),
        "it is about the other connection"
    );
    assert_eq!(body(allowed).await, "hello from the application");

    let denied = send(&mut one, get("/admin/users")).await;
    assert_eq!(denied.status(), StatusCode::FORBIDDEN);
    assert_eq!(denied.headers()["x-portcullis-reason"], "permission");
    assert_eq!(body(denied).await, "Forbidden");

    // Escaped and climbing: the same place, and the same refusal.
    for path in ["/x/../admin", "/%61dmin", "/x/%2e%2e/admin"] {
        let denied = send(&mut one, get(path)).await;
        assert_eq!(denied.status(), StatusCode::FORBIDDEN, "{path}");
        let _ = body(denied).await;
    }
    // What is matched is what is forwarded.
    let moved = send(&mut one, get("/x/../items/%7Eme?q=%2e")).await;
    assert_eq!(moved.status(), StatusCode::OK);
    let _ = body(moved).await;

    let none = send(&mut one, ask(Method::POST, "/write")).await;
    assert_eq!(none.status(), StatusCode::FORBIDDEN);
    assert_eq!(
        none.headers()["x-portcullis-reason"],
        "no-permission-matched"
    );
    let _ = body(none).await;
    let mut keyed = ask(Method::POST, "/write");
    keyed.headers_mut().insert("x-key", "good".parse().unwrap());
    let keyed = send(&mut one, keyed).await;
    assert_eq!(keyed.status(), StatusCode::OK);
    let _ = body(keyed).await;

    // The same over HTTP/2, and for somebody else.
    let mut two = client.http2().await;
    let allowed = within(two.send_request(get2("/items/2"))).await.unwrap();
    assert_eq!(allowed.status(), StatusCode::OK);
    let _ = body(allowed).await;
    let denied = within(two.send_request(get2("/admin"))).await.unwrap();
    assert_eq!(denied.status(), StatusCode::FORBIDDEN);
    let mut other = scene.client("other").http1().await;
    let denied = within(other.send_request(get("/items/3"))).await.unwrap();
    assert_eq!(denied.status(), StatusCode::FORBIDDEN);
    assert_eq!(denied.headers()["x-portcullis-reason"], "default-policy");

    assert_eq!(
        scene.application.paths(),
        [
            "/items//a%2Fb?x=1&token=secret",
            "/items/~me?q=%2e",
            "/write",
            "/items/2"
        ]
    );
    assert_eq!(
        scene.application.connections(),
        2,
        "one for each client's connection"
    );

    // One line for each, without the query.
    let lines = scene.lines(11);
    assert_eq!(lines.len(), 11);
    let log = scene.proxy.log();
    assert!(!log.contains("secret"), "{log}");
    assert!(log.contains(&client.uri));
    let said = |line: &serde_json::Value, text: &str| line.to_string().contains(text);
    assert!(
        said(&lines[0], "/items//a%2Fb") && said(&lines[0], "permission"),
        "{}",
        lines[0]
    );
    assert_eq!(
        lines.iter().filter(|line| said(line, "\"WARN\"")).count(),
        7
    );

    let series = [
        "portcullis_inbound_http_authz_allow_total 4",
        "portcullis_inbound_http_authz_deny_total{reason=\"permission\"} 5",
        "portcullis_inbound_http_authz_deny_total{reason=\"no-permission-matched\"} 1",
        "portcullis_inbound_http_authz_deny_total{reason=\"default-policy\"} 1",
        "portcullis_http_requests_total{direction=\"inbound\",status=\"2xx\"} 4",
        "portcullis_http_requests_total{direction=\"inbound\",status=\"4xx\"} 7",
        "portcullis_http_requests_active{direction=\"inbound\"} 0",
    ];
    scene.counts(&series).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_request_holds_for_all_of_them() {
    let scene = Scene::start(
        "http",
        json!([{ "Action": "deny", "HTTP": { "PathPrefix": "/" } }]),
        &[],
    )
    .await;
    intentions(
        &scene.agent,
        json!([
            { "Name": "web", "Action": "allow" },
            { "Name": "bad", "Action": "deny" },
        ]),
    );
    let (web, bad) = (scene.client("web"), scene.client("bad"));
    portcullis_tests::stage::eventually("the intention holds", async || {
        let answer = web.http1().await.send_request(get("/")).await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    })
    .await;
    let refused = within(bad.http1().await.send_request(get("/")))
        .await
        .unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert!(
        !refused.headers().contains_key("x-portcullis-reason"),
        "off unless asked for"
    );
    assert!(
        refused
            .headers()
            .iter()
            .all(|(_, value)| !value.to_str().unwrap().contains("intention"))
    );
    assert_eq!(body(refused).await, "Forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_is_refused_in_its_own_words() {
    let permissions = json!([{ "Action": "allow", "HTTP": { "PathExact": "/test.Echo/Stream" } }]);
    let scene = Scene::start("grpc", permissions, &[]).await;
    let mut two = scene.client("web").http2().await;
    let call = |path: &str, kind: &str| {
        Request::post(format!("https://api{path}"))
            .header("content-type", kind)
            .header("te", "trailers")
            .body(empty())
            .expect("a request")
    };
    let refused = within(two.send_request(call("/test.Echo/Other", "application/grpc")))
        .await
        .unwrap();
    assert_eq!(refused.status(), StatusCode::OK);
    assert_eq!(refused.headers()["grpc-status"], "7");
    assert_eq!(refused.headers()["content-type"], "application/grpc");
    assert_eq!(body(refused).await, "");
    let proto = within(two.send_request(call("/x", "application/grpc+proto")))
        .await
        .unwrap();
    assert_eq!(proto.headers()["grpc-status"], "7");
    let web = within(two.send_request(call("/x", "application/grpc-web")))
        .await
        .unwrap();
    assert_eq!(web.status(), StatusCode::FORBIDDEN);
    let served = within(two.send_request(call("/test.Echo/Stream", "application/grpc")))
        .await
        .unwrap();
    assert_eq!(served.status(), StatusCode::OK);
    assert!(!served.headers().contains_key("grpc-status"));
    let asked = scene.application.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].version,
        http::Version::HTTP_2,
        "the application speaks it, too"
    );
    assert_eq!(asked[0].headers["te"], "trailers");
}

#[tokio::test(flavor = "multi_thread")]
async fn escaped_slashes_are_answered_as_the_mesh_says() {
    let permissions = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    let scene = Scene::start("http", permissions, &["-matching=envoy", "-max-stale=4s"]).await;
    let client = scene.client("web");
    for (action, status, location) in [
        ("REJECT_REQUEST", StatusCode::BAD_REQUEST, None),
        (
            "UNESCAPE_AND_REDIRECT",
            StatusCode::TEMPORARY_REDIRECT,
            Some("/a/b?c"),
        ),
        ("KEEP_UNCHANGED", StatusCode::OK, None),
    ] {
        scene
            .agent
            .put_config_entry(
                &json!({ "Kind": "mesh", "HTTP": { "Incoming": { "RequestNormalization": {
                "PathWithEscapedSlashesAction": action
            } } } }),
            )
            .expect("an entry");
        portcullis_tests::stage::eventually(action, async || {
            let answer = client
                .http1()
                .await
                .send_request(get("/a%2Fb?c"))
                .await
                .expect("an answer");
            let found = answer
                .headers()
                .get("location")
                .map(|found| found.to_str().unwrap().to_owned());
            answer.status() == status && found.as_deref() == location
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_change_only_where_they_must() {
    let permissions = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    type Expected = fn(&str, &str) -> Option<String>;
    let cases: [(&str, Expected); 4] = [
        ("SANITIZE_SET", |ours, _| Some(ours.to_owned())),
        ("sanitize", |_, _| None),
        ("FORWARD_ONLY", |_, theirs| Some(theirs.to_owned())),
        ("APPEND_FORWARD", |ours, theirs| {
            Some(format!("{theirs},{ours}"))
        }),
    ];
    for (mode, expected) in cases {
        let flag = format!("-forward-client-cert-details={mode}");
        let scene = Scene::start("http", permissions.clone(), &[&flag]).await;
        let client = scene.client("web");
        let theirs = "URI=spiffe://forged";
        let sent = Request::builder()
            .uri("/a")
            .header("host", "api.example")
            .header("x-forwarded-client-cert", theirs)
            .header(
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
            .header("tracestate", "a=b")
            .header("connection", "x-mine, traceparent, x-forwarded-client-cert")
            .header("x-mine", "about this connection")
            .header("proxy-connection", "keep-alive")
            .header("te", "gzip")
            .header("x-twice", "1")
            .header("x-twice", "2")
            .header("x-odd", http::HeaderValue::from_bytes(b"caf\xe9").unwrap())
            .body(empty())
            .unwrap();
        let answer = within(client.http1().await.send_request(sent))
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let asked = scene.application.asked().remove(0);
        for gone in [
            "x-mine",
            "connection",
            "proxy-connection",
            "te",
            "transfer-encoding",
        ] {
            assert!(
                !asked.headers.contains_key(gone),
                "{gone}: {:?}",
                asked.headers
            );
        }
        assert_eq!(asked.headers["host"], "api.example");
        assert_eq!(asked.headers["tracestate"], "a=b");
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(asked.headers["traceparent"], trace);
        assert_eq!(body(answer).await, "hello from the application");
        assert_eq!(scene.lines(1)[0]["traceparent"], trace);
        assert_eq!(asked.headers["x-odd"].as_bytes(), b"caf\xe9");
        assert_eq!(asked.headers.get_all("x-twice").iter().count(), 2);
        let found = asked
            .headers
            .get("x-forwarded-client-cert")
            .map(|found| found.to_str().unwrap().to_owned());
        let td = scene.agent.trust_domain();
        let ours = found.as_deref().unwrap_or_default();
        let ours = ours
            .strip_prefix(&format!("{theirs},"))
            .unwrap_or(ours)
            .to_owned();
        assert_eq!(found, expected(&ours, theirs), "{mode}");
        if mode == "SANITIZE_SET" || mode == "APPEND_FORWARD" {
            assert!(
                ours.starts_with(&format!("By=spiffe://{td}/ns/default/dc/dc1/svc/api;Hash=")),
                "{ours}"
            );
            assert!(ours.ends_with(&format!(";URI={}", client.uri)), "{ours}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_cannot_be_reached_is_told_apart_from_a_refusal() {
    let permissions = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    let [nobody] = portcullis_tests::ports::free::<1>();
    let flag = format!("-service-addr=127.0.0.1:{nobody}");
    let agent = crate::scene::agent().await;
    crate::scene::speaks(&agent, "http");
    crate::scene::permit(&agent, permissions);
    let [listen] = portcullis_tests::ports::free::<1>();
    let flags = [
        "-service=api".to_owned(),
        flag,
        format!("-listen=127.0.0.1:{listen}"),
    ];
    let proxy = tokio::task::block_in_place(|| {
        let proxy = crate::scene::proxy(agent.address(), &flags);
        proxy.logs("ready: connections are taken");
        proxy
    });
    let client = crate::client::Client::new(&agent, "web", ([127, 0, 0, 1], listen).into());
    let answer = within(client.http1().await.send_request(get("/")))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    tokio::task::block_in_place(|| proxy.logs("application-unreachable"));
}
