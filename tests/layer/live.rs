//! A change of intentions counts at once, also for what is under way.

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use portcullis_tests::stage::{eventually, within};
use serde_json::json;

use crate::client::{empty, read_until};
use crate::scene::{Scene, permit};
use tokio::io::AsyncWriteExt as _;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_is_judged_again() {
    let scene = Scene::start("http_axum").await;
    let client = scene.client("web");
    let two = client.http2().await;
    let ticks = |key: &str| {
        Request::get("https://api/ticks")
            .header("x-key", key)
            .body(empty())
            .unwrap()
    };
    let mut streams = Vec::new();
    for key in ["stays", "goes"] {
        let answer = within(two.clone().send_request(ticks(key))).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{}", scene.api.log());
        let mut stream = answer.into_body();
        let first = within(stream.frame()).await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "tick\n");
        streams.push(stream);
    }
    let mut one = client.connect(&[]).await;
    one.write_all(b"GET /ticks HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let began = read_until(&mut one, |read| read.contains("tick\n")).await;
    assert!(began.starts_with("HTTP/1.1 200"), "{began}");

    permit(
        &scene.agent,
        json!([{ "Action": "allow", "HTTP": { "PathExact": "/ticks", "Header": [{ "Name": "x-key", "Exact": "stays" }] } }]),
    );
    // The one that is refused now is reset; the connection and its neighbour go on.
    let (mut stays, mut goes) = (streams.remove(0), streams.remove(0));
    let reset = async {
        while let Some(frame) = goes.frame().await {
            if let Err(error) = frame {
                return error.to_string();
            }
        }
        "it ended as if it were whole".to_owned()
    };
    let reset = within(reset).await;
    assert!(
        reset.contains("error") || reset.contains("CANCEL") || reset.contains("reset"),
        "{reset}"
    );
    for _ in 0..2 {
        let more = within(stays.frame()).await.unwrap().unwrap();
        assert_eq!(more.into_data().unwrap(), "tick\n");
    }
    // HTTP/1.1 has no resets: the answer breaks off without its last chunk.
    let rest = read_until(&mut one, |_| false).await;
    assert!(!rest.contains("\r\n0\r\n\r\n"), "{rest}");
    let denied = within(two.clone().send_request(ticks("goes")))
        .await
        .unwrap();
    assert_eq!(denied.status(), StatusCode::FORBIDDEN);

    permit(
        &scene.agent,
        json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]),
    );
    eventually("what is allowed anew", async || {
        let answer = within(two.clone().send_request(ticks("goes")))
            .await
            .unwrap();
        answer.status() == StatusCode::OK
    })
    .await;
    let log = scene.api.log();
    assert_eq!(
        log.matches("cut off by a change of policy").count(),
        2,
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_refused_everything_is_sent_away_by_hyper() {
    let scene = Scene::start("http_hyper").await;
    let two = scene.client("web").http2().await;
    let get = || Request::get("https://api/items/1").body(empty()).unwrap();
    let answer = within(two.clone().send_request(get())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    permit(
        &scene.agent,
        json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/other" } }]),
    );
    eventually("it is refused", async || {
        let answer = within(two.clone().send_request(get())).await.unwrap();
        answer.status() == StatusCode::FORBIDDEN
    })
    .await;
    assert!(!two.is_closed(), "something else might be allowed");
    crate::scene::forbid(&scene.agent);
    eventually("GOAWAY", async || two.is_closed()).await;
}
