//! Bodies both ways: large, streamed, with trailers, and only when they are wanted.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use hyper::body::Frame;
use portcullis_tests::stage::within;
use serde_json::json;

use crate::client::{Body, body, empty, read_until, send};
use crate::scene::Scene;

const LARGE: usize = 40 * 1024 * 1024;

async fn scene(protocol: &str) -> Scene {
    let permissions = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    Scene::start(protocol, permissions, &[]).await
}

fn streamed() -> (http_body_util::channel::Sender<Bytes, std::io::Error>, Body) {
    let (sender, body) = Channel::new(2);
    (sender, body.boxed())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_both_ways() {
    for protocol in ["http", "http2"] {
        let scene = scene(protocol).await;
        let client = scene.client("web");
        let send_large = || {
            let (mut sender, large) = streamed();
            tokio::spawn(async move {
                for _ in 0..LARGE / (1024 * 1024) {
                    let piece = Bytes::from(vec![7; 1024 * 1024]);
                    if sender.send_data(piece).await.is_err() {
                        return;
                    }
                }
            });
            large
        };
        let mut one = client.http1().await;
        let up = Request::post("/count")
            .header("host", "a")
            .body(send_large())
            .unwrap();
        let counted = send(&mut one, up).await;
        assert_eq!(body(counted).await, LARGE.to_string());
        let down = Request::get(format!("/big?{LARGE}"))
            .header("host", "a")
            .body(empty())
            .unwrap();
        let answer = send(&mut one, down).await;
        let got = within(answer.into_body().collect())
            .await
            .unwrap()
            .to_bytes();
        assert_eq!(got.len(), LARGE);

        let mut two = client.http2().await;
        let up = Request::post("https://a/count").body(send_large()).unwrap();
        let counted = within(two.send_request(up)).await.unwrap();
        assert_eq!(body(counted).await, LARGE.to_string());
        let down = Request::get(format!("https://a/big?{LARGE}"))
            .body(empty())
            .unwrap();
        let answer = within(two.send_request(down)).await.unwrap();
        let got = within(answer.into_body().collect())
            .await
            .unwrap()
            .to_bytes();
        assert_eq!(got.len(), LARGE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_both_ways_at_once_and_ends_with_trailers() {
    for protocol in ["http", "grpc"] {
        let scene = scene(protocol).await;
        let mut two = scene.client("web").http2().await;
        let (mut sender, stream) = streamed();
        let call = Request::post("https://api/test.Echo/Stream")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(stream)
            .unwrap();
        let answer = within(two.send_request(call)).await.unwrap();
        let mut answer = answer.into_body();
        // Each message comes back before the next is sent.
        for message in ["one", "two", "three"] {
            sender.send_data(Bytes::from(message)).await.unwrap();
            let frame = within(answer.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), message);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-late", HeaderValue::from_static("1"));
        let _ = sender.send(Frame::trailers(trailers)).await;
        drop(sender);
        let mut last = None;
        while let Some(frame) = within(answer.frame()).await {
            last = frame.unwrap().into_trailers().ok();
        }
        let last = last.expect("trailers");
        assert_eq!(last["grpc-status"], "0");
        assert_eq!(last["x-checksum"], "none");
        if protocol == "grpc" {
            assert_eq!(last["x-late"], "1");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_reach_a_client_of_http1_that_wants_them() {
    let scene = scene("http").await;
    let request = "POST /echo HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te, close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let answer = scene.client("web").raw(request.as_bytes(), |_| false).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("abc") && answer.contains("x-checksum: none"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_asked_for_only_when_it_is_wanted() {
    use tokio::io::AsyncWriteExt as _;
    let scene = scene("http").await;
    let client = scene.client("web");
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"
        )
    };
    // The application asks.
    let mut stream = client.connect(&[]).await;
    stream.write_all(head("/count").as_bytes()).await.unwrap();
    let asked = read_until(&mut stream, |read| read.contains("\r\n\r\n")).await;
    assert!(asked.starts_with("HTTP/1.1 100 "), "{asked}");
    stream.write_all(b"hello").await.unwrap();
    let answer = read_until(&mut stream, |read| read.ends_with('5')).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    // It does not want it, and neither does the policy: no 100.
    let answer = client
        .raw(head("/unwanted").as_bytes(), |read| {
            read.contains("\r\n\r\n")
        })
        .await;
    assert!(answer.starts_with("HTTP/1.1 417"), "{answer}");
    let stranger = scene.client("other");
    let answer = stranger
        .raw(head("/count").as_bytes(), |read| read.contains("Forbidden"))
        .await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(scene.application.paths(), ["/count", "/unwanted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_and_empty_answers_are_whole() {
    let scene = scene("http").await;
    let mut one = scene.client("web").http1().await;
    for _ in 0..3 {
        let head = Request::head("/")
            .header("host", "a")
            .body(empty())
            .unwrap();
        let answer = send(&mut one, head).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-length"], "26");
        assert_eq!(body(answer).await, "");
    }
    assert_eq!(scene.application.connections(), 1, "kept alive");
    // In HTTP/2 what follows the answer to HEAD would break the stream.
    let mut two = scene.client("web").http2().await;
    let mut stranger = scene.client("other").http2().await;
    for (two, status) in [(&mut two, 200), (&mut stranger, 403)] {
        let head = Request::head("https://a/").body(empty()).unwrap();
        let answer = within(two.send_request(head)).await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        assert_ne!(answer.headers()["content-length"], "0");
        assert_eq!(body(answer).await, "");
    }
    assert!(
        scene
            .lines(3)
            .iter()
            .all(|line| !line.to_string().contains("ended before"))
    );
}

/// What came back of trailers that nobody announced, as `name: value`.
async fn unannounced(scene: &Scene, http2: bool, path: &str) -> Vec<String> {
    let (mut sender, stream) = streamed();
    let mut request = Request::post(format!("https://api{path}"))
        .header("host", "api")
        .header("te", "trailers")
        .header("x-tenant", "one");
    if !http2 {
        request = request.header("connection", "te");
    }
    let request = request.body(stream).unwrap();
    let mut fields = HeaderMap::new();
    for name in [
        "x-late",
        "x-tenant",
        "x-forwarded-client-cert",
        "authorization",
    ] {
        fields.insert(name, HeaderValue::from_static("forged"));
    }
    let _ = sender.send(Frame::data(Bytes::from_static(b"abc"))).await;
    let _ = sender.send(Frame::trailers(fields)).await;
    drop(sender);
    let client = scene.client("web");
    let answer = if http2 {
        let mut two = client.http2().await;
        within(two.send_request(request)).await.unwrap()
    } else {
        let mut one = client.http1().await;
        send(&mut one, request).await
    };
    let all = within(answer.into_body().collect()).await.unwrap();
    let mut trailers: Vec<String> = all
        .trailers()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    assert_eq!(all.to_bytes(), "abc");
    trailers.sort();
    trailers
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_unannounced_where_the_version_has_them() {
    let permissions = json!([{ "Action": "allow", "HTTP": {
        "PathPrefix": "/", "Header": [{ "Name": "x-tenant", "Exact": "one" }] } }]);
    // HTTP/2 on both sides: all that a trailer may be, and nothing that was judged.
    let scene = Scene::start("http2", permissions.clone(), &[]).await;
    let ours = ["x-application: late", "x-seen: x-late"];
    assert_eq!(unannounced(&scene, true, "/trailers").await, ours);
    // HTTP/1.1 has only those that the head announces (hyper writes no others): the body
    // is whole without them, and the connection goes on.
    assert_eq!(unannounced(&scene, false, "/trailers").await, [""; 0]);
    // gRPC's names are known.
    let grpc = unannounced(&scene, false, "/trailers?application/grpc").await;
    assert_eq!(grpc, ["grpc-status: 0"]);
    let scene = Scene::start("http", permissions, &[]).await;
    // The application's answer in HTTP/1.1 announces nothing either.
    assert_eq!(unannounced(&scene, true, "/trailers").await, [""; 0]);
}
