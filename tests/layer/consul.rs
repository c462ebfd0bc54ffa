//! On a real Consul: registered as `connect.native`, called through `portcullis proxy`.

use http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::process::eventually;
use portcullis_tests::proxy::Proxy;
use portcullis_tests::{ports, program};
use serde_json::json;
use tokio::net::TcpStream;

use crate::client::{Body, body, empty, send};
use crate::scene::{SOON, local, run, usual};

fn request(method: &str, path: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    request.header("host", "api").body(empty()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_application_on_a_real_agent() {
    let start = || {
        Consul::start(
            "a_native_application_on_a_real_agent",
            Options::new().with_config("default_intention_policy = \"deny\""),
        )
    };
    let Some(consul) = tokio::task::block_in_place(start) else {
        return;
    };
    let [listen, door] = ports::free::<2>();
    let (api, web) = tokio::task::block_in_place(|| {
        for entry in [
            json!({ "Kind": "service-defaults", "Name": "api", "Protocol": "http" }),
            json!({ "Kind": "service-intentions", "Name": "api", "Sources": [
                { "Name": "web", "Permissions": usual() },
                { "Name": "*", "Action": "deny" },
            ] }),
        ] {
            let _ = consul.api().put("/v1/config", &entry).good();
        }
        let api = run("http_axum", consul.address(), &[local(listen).to_string()]);
        api.logs("api listens on");
        // Consul itself says that it is native, and healthy.
        eventually("it is listed", SOON, || {
            let listed = consul.api().get("/v1/health/connect/api?passing").body;
            let listed: serde_json::Value = serde_json::from_str(&listed).ok()?;
            (listed.pointer("/0/Service/Connect/Native")? == true).then_some(())
        });
        let mut command = program::portcullis(["proxy", "-log-json", "-service=web"]);
        command
            .arg(format!("-upstream=api:{door}"))
            .env("CONSUL_HTTP_ADDR", consul.address().to_string());
        let web = Proxy::spawn(command);
        web.logs("ready: connections are taken");
        (api, web)
    });
    let stream = TcpStream::connect(local(door)).await.unwrap();
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut one, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let answer = send(&mut one, request("GET", "/items/7")).await;
    assert_eq!(
        answer.status(),
        StatusCode::OK,
        "{}\n{}",
        web.log(),
        api.log()
    );
    let text = body(answer).await;
    assert!(text.contains("/svc/web"), "{text}");
    for (method, path) in [
        ("GET", "/items//secret"),
        ("POST", "/items/7"),
        ("GET", "/"),
    ] {
        let answer = send(&mut one, request(method, path)).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{method} {path}");
        let _ = body(answer).await;
    }
    let mut api = api;
    tokio::task::block_in_place(|| {
        api.signal(2);
        assert!(
            api.process()
                .wait(SOON)
                .is_some_and(|status| status.success())
        );
        let left = consul.api().get("/v1/agent/services").body;
        assert!(!left.contains("\"api\""), "it has left: {left}");
    });
}
