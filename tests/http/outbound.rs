//! From a local program through two proxies: HTTP/1.1 and HTTP/2 without TLS.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_tests::ports;
use portcullis_tests::proxy::Proxy;
use portcullis_tests::stage::within;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::client::{Body, body, empty, full, read_until, send};
use crate::scene::{Scene, lines, proxy};

/// `web` with a door to `api`.
async fn web(scene: &Scene, flags: &[&str]) -> (Proxy, SocketAddr) {
    let [door] = ports::free::<1>();
    let mut all = vec!["-service=web".to_owned(), format!("-upstream=api:{door}")];
    all.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let web = tokio::task::block_in_place(|| {
        let web = proxy(scene.agent.address(), &all);
        web.logs("ready: connections are taken");
        web
    });
    (web, SocketAddr::from(([127, 0, 0, 1], door)))
}

async fn http1(door: SocketAddr) -> hyper::client::conn::http1::SendRequest<Body> {
    let stream = TcpStream::connect(door).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

async fn http2(door: SocketAddr) -> hyper::client::conn::http2::SendRequest<Body> {
    let stream = TcpStream::connect(door).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_reach_the_upstream_and_refusals_come_back() {
    for (protocol, version) in [("http", Version::HTTP_11), ("http2", Version::HTTP_2)] {
        let permissions = json!([
            { "Action": "deny", "HTTP": { "PathPrefix": "/admin" } },
            { "Action": "allow", "HTTP": { "PathPrefix": "/" } },
        ]);
        let scene = Scene::start(protocol, permissions, &[]).await;
        let (web, door) = web(&scene, &[]).await;
        let mut one = http1(door).await;
        let mut two = http2(door).await;
        for round in 0..3 {
            let get = Request::get("/a?b")
                .header("host", "api.local")
                .header("traceparent", "00-1-2-03")
                .body(empty())
                .unwrap();
            let answer = send(&mut one, get).await;
            assert_eq!(
                answer.status(),
                StatusCode::OK,
                "{protocol} {round}\n{}\n{}",
                web.log(),
                scene.proxy.log()
            );
            assert_eq!(body(answer).await, "hello from the application");
            let post = Request::post("http://api.local/echo")
                .header("te", "trailers")
                .body(full("hello"))
                .unwrap();
            let answer = within(two.send_request(post)).await.unwrap();
            let all = within(answer.into_body().collect()).await.unwrap();
            assert_eq!(all.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(all.to_bytes(), Bytes::from_static(b"hello"));
            let denied = Request::get("http://api.local/admin")
                .body(empty())
                .unwrap();
            assert_eq!(
                within(two.send_request(denied)).await.unwrap().status(),
                StatusCode::FORBIDDEN
            );
        }
        let asked = scene.application.asked();
        assert_eq!(asked.len(), 6);
        assert!(
            asked.iter().all(|asked| asked.version == version),
            "{asked:?}"
        );
        assert_eq!(asked[0].headers["traceparent"], "00-1-2-03");
        let xfcc = asked[0].headers["x-forwarded-client-cert"]
            .to_str()
            .unwrap();
        assert!(xfcc.ends_with("/svc/web"), "{xfcc}");
        if version == Version::HTTP_11 {
            assert_eq!(asked[0].headers["host"], "api.local");
        }
        // One line on each side.
        assert_eq!(scene.lines(9).len(), 9);
        let told = lines(&web, 9);
        assert_eq!(told.len(), 9);
        assert!(told[0].to_string().contains("/svc/api"), "{}", told[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_go_through_both_proxies() {
    let permissions = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    let scene = Scene::start("http", permissions, &[]).await;
    let (_web, door) = web(&scene, &[]).await;
    let mut stream = TcpStream::connect(door).await.unwrap();
    stream
        .write_all(
            b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await
        .unwrap();
    let answer = read_until(&mut stream, |read| read.contains("welcome ")).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    stream.write_all(b"ping").await.unwrap();
    assert_eq!(
        read_until(&mut stream, |read| read.len() >= 4).await,
        "ping"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_instances_is_503_and_of_tcp_it_is_bytes() {
    let permissions = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    let scene = Scene::start("http", permissions, &[]).await;
    let [nowhere] = ports::free::<1>();
    let flag = format!("-upstream=absent:{nowhere}");
    let (_web, door) = web(
        &scene,
        &[
            &flag,
            "-upstream-protocol=absent=http",
            "-upstream-protocol=api=tcp",
        ],
    )
    .await;
    let mut one = http1(SocketAddr::from(([127, 0, 0, 1], nowhere))).await;
    let get = Request::get("/").header("host", "a").body(empty()).unwrap();
    assert_eq!(
        send(&mut one, get).await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    // Bytes that happen to be HTTP are judged at the other end all the same.
    let mut one = http1(door).await;
    let get = Request::get("/raw")
        .header("host", "a")
        .body(empty())
        .unwrap();
    assert_eq!(send(&mut one, get).await.status(), StatusCode::OK);
    let mut two = http2(door).await;
    let get = Request::get("http://a/raw2").body(empty()).unwrap();
    assert_eq!(
        within(two.send_request(get)).await.unwrap().status(),
        StatusCode::OK
    );
}
