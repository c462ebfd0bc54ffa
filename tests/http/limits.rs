//! Clients that ask for too much: headers, time, streams, resets.

use http::{Request, StatusCode};
use portcullis_tests::stage::{eventually, within};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::client::{body, empty, read_until};
use crate::scene::Scene;

async fn scene(flags: &[&str]) -> Scene {
    let permissions = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    Scene::start("http", permissions, flags).await
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_few_and_small() {
    let scene = scene(&["-max-request-headers=20", "-max-request-header-bytes=4096"]).await;
    let client = scene.client("web");
    let ask = |more: &str| format!("GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{more}\r\n");
    let fitting = "x: y\r\n".repeat(18);
    assert!(
        client
            .raw(ask(&fitting).as_bytes(), |_| false)
            .await
            .starts_with("HTTP/1.1 200")
    );
    let large = format!("x: {}\r\n", "y".repeat(5_000));
    // Without an end, too.
    let endless = format!("GET /a HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(100_000));
    for bytes in [ask(&"x: y\r\n".repeat(19)), ask(&large), endless] {
        let answer = client.raw(bytes.as_bytes(), |_| false).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer:?}");
    }
    let mut two = client.http2().await;
    let request = |count: usize, size: usize| {
        let mut request = Request::get("https://a/b");
        for number in 0..count {
            request = request.header(format!("x-{number}"), "y".repeat(size));
        }
        request.body(empty()).unwrap()
    };
    let answer = within(two.send_request(request(1, 8_000))).await;
    let refused = answer.map_or(true, |answer| {
        answer.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    });
    assert!(refused);
    let mut two = client.http2().await;
    let answer = within(two.send_request(request(60, 1))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(scene.application.paths(), ["/a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_drips_is_ended() {
    let scene = scene(&["-request-header-timeout=300ms"]).await;
    let client = scene.client("web");
    let mut slow = client.connect(&[]).await;
    slow.write_all(b"GET /a HTTP/1.1\r\nhost: a\r\nx: ")
        .await
        .unwrap();
    // Others are served meanwhile.
    let quick = client
        .raw(
            b"GET /b HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            |_| false,
        )
        .await;
    assert!(quick.starts_with("HTTP/1.1 200"), "{quick}");
    let answer = read_until(&mut slow, |_| false).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer:?}");
    assert_eq!(scene.application.paths(), ["/b"]);
    // Between requests nobody is in a hurry.
    let mut idle = client.connect(&[]).await;
    idle.write_all(b"GET /c HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let _ = read_until(&mut idle, |read| read.ends_with("application")).await;
    let mut slow = client.connect(&[]).await;
    slow.write_all(b"G").await.unwrap();
    let _ = read_until(&mut slow, |_| false).await;
    idle.write_all(b"GET /d HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let answer = read_until(&mut idle, |_| false).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_wait() {
    let scene = scene(&["-max-concurrent-streams=3"]).await;
    let two = scene.client("web").http2().await;
    let mut first = two.clone();
    let answer = within(first.send_request(Request::get("https://a/x").body(empty()).unwrap()))
        .await
        .unwrap();
    let _ = body(answer).await;
    // The client knows the limit by now: the fourth is not even sent.
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut two = two.clone();
        let request = Request::get("https://a/live").body(empty()).unwrap();
        held.push(within(two.send_request(request)).await.unwrap());
    }
    let mut fourth = two.clone();
    let waiting = tokio::spawn(async move {
        fourth
            .send_request(Request::get("https://a/fourth").body(empty()).unwrap())
            .await
    });
    let alive = within(
        scene
            .client("web")
            .http2()
            .await
            .send_request(Request::get("https://a/alive").body(empty()).unwrap()),
    )
    .await;
    assert_eq!(alive.unwrap().status(), StatusCode::OK);
    assert!(!scene.application.paths().contains(&"/fourth".to_owned()));
    held.clear();
    let answer = within(waiting).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_back_request_after_request_is_cut_off() {
    let scene = scene(&["-max-stream-resets=50"]).await;
    let client = scene.client("web");
    let mut healthy = client.http2().await;
    let two = client.http2().await;
    eventually("it is cut off", async || {
        let mut one = two.clone();
        let request = Request::get("https://a/never").body(empty()).unwrap();
        let sent = tokio::spawn(async move { one.send_request(request).await });
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_micros(300)).await;
        sent.abort();
        let _ = sent.await;
        two.is_closed()
    })
    .await;
    tokio::task::block_in_place(|| scene.proxy.logs("too-many-resets"));
    let answer = within(healthy.send_request(Request::get("https://a/b").body(empty()).unwrap()))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "others are served");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_back_answer_after_answer_is_cut_off() {
    let scene = scene(&["-max-stream-resets=50"]).await;
    let two = scene.client("web").http2().await;
    // Those that end well are on the other side of the scale.
    for _ in 0..60 {
        let mut one = two.clone();
        let request = Request::get("https://a/x").body(empty()).unwrap();
        let answer = within(one.send_request(request)).await.unwrap();
        let _ = body(answer).await;
    }
    for _ in 0..5_000 {
        let mut one = two.clone();
        let request = Request::get("https://a/live").body(empty()).unwrap();
        // Until its head is there, and no longer.
        match within(one.send_request(request)).await {
            Ok(answer) => assert_eq!(answer.status(), StatusCode::OK),
            Err(_) => break,
        }
    }
    eventually("it is cut off", async || two.is_closed()).await;
    tokio::task::block_in_place(|| scene.proxy.logs("too-many-resets"));
}
