//! Long requests through the HTTP filter: streams, upgrades and answers that have not come are
//! judged again when the policy changes; what is still allowed goes on.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use portcullis_dev_agent::DevAgent;
use portcullis_tests::envoy::{Plan, Plugin, cluster, settings};
use portcullis_tests::stage::{eventually, within};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::application::Application;
use crate::client::{Client, empty, read_until};
use crate::scene::{agent, client, get_becomes};

fn permit(agent: &DevAgent, paths: &[&str]) {
    let permissions: Vec<Value> = paths
        .iter()
        .map(|path| json!({ "Action": "allow", "HTTP": { "PathPrefix": path } }))
        .collect();
    let entry = json!({
        "Kind": "service-intentions", "Name": "api",
        "Sources": [{ "Name": "web", "Permissions": permissions }],
    });
    agent.put_config_entry(&entry).expect("an entry");
}

fn ask(path: &str, kind: &str) -> Request<crate::client::Body> {
    let request = Request::get(path).header("host", "api");
    let request = request.header("x-kind", kind).body(empty());
    request.expect("a request")
}

/// An upgraded connection below `path`, and how its answer began.
async fn upgraded(client: &Client, path: &str) -> (impl AsyncBytes, String) {
    let mut stream = client.connect(&["http/1.1"]).await;
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: api\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let answer = read_until(&mut stream, |read| {
        read.contains("welcome ") || read.contains("Forbidden")
    });
    let answer = answer.await;
    (stream, answer)
}

trait AsyncBytes: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> AsyncBytes for T {}

async fn echoes(stream: &mut impl AsyncBytes) -> bool {
    if stream.write_all(b"\x81\x02hi").await.is_err() {
        return false;
    }
    let mut echo = [0; 4];
    within(stream.read_exact(&mut echo)).await.is_ok() && &echo == b"\x81\x02hi"
}

#[tokio::test(flavor = "multi_thread")]
async fn long_requests_end_when_they_are_refused_and_go_on_while_they_are_not() {
    let agent = agent().await;
    let entry = json!({ "Kind": "service-defaults", "Name": "api", "Protocol": "http" });
    agent.put_config_entry(&entry).expect("an entry");
    permit(&agent, &["/"]);
    let app = Application::start().await;
    let mut http2 = cluster("app", app.address);
    http2["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            // As the client speaks.
            "use_downstream_protocol_config": { "http2_protocol_options": {} },
        },
    });
    let plan = Plan::new(&agent, "api").cluster(http2);
    let (plan, address) = plan.http(&Plugin::new(settings("api")));
    let Some(envoy) =
        plan.start("long_requests_end_when_they_are_refused_and_go_on_while_they_are_not")
    else {
        return;
    };
    let web = client(&agent, "web", address);
    get_becomes(&web, "/", 200).await;

    // On one connection of HTTP/2 a stream that will be refused, and one that will not.
    let two = web.http2().await;
    let mut streams = Vec::new();
    for path in ["/live", "/test.Echo/Stream"] {
        let (mut sender, channel) = Channel::<Bytes, std::io::Error>::new(1);
        let request = Request::post(format!("https://api{path}"))
            .header("content-type", "application/grpc")
            .body(channel.boxed())
            .expect("a request");
        sender.send_data("first".into()).await.expect("room");
        let answer = within(two.clone().send_request(request)).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let mut body = answer.into_body();
        let first = within(body.frame()).await.expect("a frame").expect("one");
        assert_eq!(first.into_data().expect("data"), "first", "{path}");
        streams.push((sender, body));
    }
    let mut ones = Vec::new();
    for _ in 0..2 {
        let mut one = web.http1().await;
        let answer = within(one.send_request(ask("/live", "one"))).await;
        let mut body = answer.expect("an answer").into_body();
        let _ = within(body.frame()).await.expect("a frame").expect("one");
        ones.push(body);
    }
    let (mut tunnel, answer) = upgraded(&web, "/ws").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(echoes(&mut tunnel).await);
    let mut waits = web.http1().await;
    let waiting = tokio::spawn(async move { waits.send_request(ask("/never", "waits")).await });
    eventually("it waits", async || {
        app.paths().contains(&"/never".to_owned())
    })
    .await;

    // gRPC and the tunnel stay, the streams of events go.
    permit(&agent, &["/test.Echo/", "/ws", "/new"]);
    for body in &mut ones {
        let end = within(body.frame()).await.expect("not a whole body");
        assert!(end.is_err(), "{end:?}");
    }
    let (mut sender, mut stays) = streams.pop().expect("two");
    let (_open, mut goes) = streams.pop().expect("two");
    let end = within(goes.frame()).await.expect("not a whole body");
    assert!(end.is_err(), "{end:?}");
    let answer = within(waiting).await.expect("a task").expect("an answer");
    assert_eq!(answer.status(), StatusCode::FORBIDDEN, "none had begun");
    envoy.stat_reaches("wasmcustom.portcullis.api.closed.no-permission-matched", 4);
    assert!(echoes(&mut tunnel).await, "it is allowed still");
    let new = within(
        two.clone().send_request(
            Request::get("https://api/new")
                .body(empty())
                .expect("a request"),
        ),
    );
    let new = new.await.expect("the connection goes on");
    assert_eq!(new.status(), StatusCode::OK);
    sender.send_data("second".into()).await.expect("room");
    let second = within(stays.frame()).await.expect("a frame").expect("one");
    assert_eq!(second.into_data().expect("data"), "second");

    // And now they go, too.
    permit(&agent, &["/new"]);
    let mut byte = [0];
    let ended = within(tunnel.read(&mut byte)).await;
    assert!(!matches!(ended, Ok(1)), "{ended:?}");
    let end = within(stays.frame()).await;
    assert!(
        !matches!(end, Some(Ok(ref frame)) if frame.is_data()),
        "{end:?}"
    );
    let (_, answer) = upgraded(&web, "/ws").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}
