//! Requests under way are judged again when the policy changes.

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use portcullis_tests::stage::{eventually, within};
use serde_json::json;

use crate::client::{body, empty, send};
use crate::scene::{Scene, intentions, permit};

fn get(path: &str) -> Request<crate::client::Body> {
    Request::get(path)
        .header("host", "a")
        .body(empty())
        .unwrap()
}

fn get2(path: &str) -> Request<crate::client::Body> {
    Request::get(format!("https://a{path}"))
        .body(empty())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_refused_now_is_reset() {
    let both = json!([
        { "Action": "allow", "HTTP": { "PathExact": "/live" , "Header": [{ "Name": "x-kind", "Exact": "one" }] } },
        { "Action": "allow", "HTTP": { "PathPrefix": "/" } },
    ]);
    let scene = Scene::start("http", both, &[]).await;
    let client = scene.client("web");
    let two = client.http2().await;
    let mut kind = get2("/live");
    kind.headers_mut().insert("x-kind", "one".parse().unwrap());
    let mut stays = within(two.clone().send_request(kind))
        .await
        .unwrap()
        .into_body();
    let mut goes = within(two.clone().send_request(get2("/live")))
        .await
        .unwrap()
        .into_body();
    for stream in [&mut stays, &mut goes] {
        assert_eq!(
            within(stream.frame())
                .await
                .unwrap()
                .unwrap()
                .into_data()
                .unwrap(),
            "first"
        );
    }
    let mut waits = client.http1().await;
    let waiting = tokio::spawn(async move { waits.send_request(get("/never")).await });
    eventually("it waits", async || {
        scene.application.paths().contains(&"/never".to_owned())
    })
    .await;

    permit(
        &scene.agent,
        json!([
            { "Action": "allow", "HTTP": { "PathExact": "/live" , "Header": [{ "Name": "x-kind", "Exact": "one" }] } },
            { "Action": "allow", "HTTP": { "PathExact": "/new" } },
        ]),
    );
    // A stream that is refused now is reset; its neighbour and the connection go on.
    let reset = within(goes.frame()).await.unwrap();
    assert!(reset.is_err(), "{reset:?}");
    let answer = within(waiting).await.unwrap().unwrap();
    assert_eq!(
        answer.status(),
        StatusCode::FORBIDDEN,
        "no answer had begun"
    );
    let answer = within(two.clone().send_request(get2("/new")))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "the connection goes on");
    let _ = body(answer).await;
    let quiet = tokio::time::timeout(std::time::Duration::from_millis(50), stays.frame()).await;
    assert!(quiet.is_err(), "its neighbour goes on: {quiet:?}");

    // Nothing is left: the connection is told so, and ends.
    intentions(&scene.agent, json!([{ "Name": "web", "Action": "deny" }]));
    let reset = within(stays.frame()).await.unwrap();
    assert!(reset.is_err(), "{reset:?}");
    eventually("GOAWAY", async || two.is_closed()).await;

    let cut = scene
        .lines(4)
        .into_iter()
        .filter(|line| line.to_string().contains("change of policy"));
    assert_eq!(cut.count(), 3);
    let series = [
        "portcullis_inbound_http_authz_terminate_total{reason=\"no-permission-matched\"} 2",
        "portcullis_inbound_http_authz_terminate_total{reason=\"intention\"} 1",
    ];
    scene.counts(&series).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_http1_ends_visibly_incomplete() {
    let all = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    let scene = Scene::start("http", all, &[]).await;
    let mut one = scene.client("web").http1().await;
    let mut stream = send(&mut one, get("/live")).await.into_body();
    let _ = within(stream.frame()).await.unwrap().unwrap();
    intentions(&scene.agent, json!([{ "Name": "web", "Action": "deny" }]));
    assert!(within(stream.frame()).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_protocol_reaches_those_who_come_and_leaves_those_who_may_stay() {
    let all = json!([{ "Action": "allow", "HTTP": { "PathExact": "/a" } }]);
    // What an entry says is asked for four times in the budget.
    let scene = Scene::start("http", all, &["-max-stale=8s"]).await;
    let client = scene.client("web");
    let mut there = client.http1().await;
    let allowed = within(there.send_request(get("/a"))).await.unwrap();
    assert_eq!(allowed.status(), StatusCode::OK);
    let _ = body(allowed).await;
    let asked = |path: &str| {
        let asked = scene.application.asked();
        let told = asked.iter().rev().find(|asked| asked.uri == path);
        told.map(|asked| asked.headers.contains_key("x-forwarded-client-cert"))
    };
    assert_eq!(asked("/a"), Some(true), "the proxy speaks HTTP");

    // Of TCP nothing is read, and nothing is added.
    intentions(&scene.agent, json!([{ "Name": "web", "Action": "allow" }]));
    crate::scene::speaks(&scene.agent, "tcp");
    let fresh = async |path: &str| {
        let answer = client.http1().await.send_request(get(path)).await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    };
    eventually("bytes", async || {
        fresh("/tcp").await && asked("/tcp") == Some(false)
    })
    .await;
    // Who is there goes on as it began, judged by what holds now.
    there.ready().await.unwrap();
    let still = within(there.send_request(get("/still"))).await.unwrap();
    assert_eq!(
        (still.status(), asked("/still")),
        (StatusCode::OK, Some(true))
    );
    let _ = body(still).await;
    intentions(&scene.agent, json!([{ "Name": "web", "Action": "deny" }]));
    eventually("refused", async || !fresh("/no").await).await;
    let refused = match there.ready().await {
        Ok(()) => within(there.send_request(get("/no")))
            .await
            .map(|answer| answer.status()),
        Err(error) => Err(error),
    };
    assert!(refused.is_err() || refused.is_ok_and(|status| status == StatusCode::FORBIDDEN));

    crate::scene::speaks(&scene.agent, "http");
    permit(
        &scene.agent,
        json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/b" } }]),
    );
    eventually("HTTP again", async || {
        fresh("/b").await && asked("/b") == Some(true)
    })
    .await;
    assert!(!fresh("/c").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_stops_lets_requests_end() {
    let all = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    let mut scene = Scene::start("http", all, &[]).await;
    let two = scene.client("web").http2().await;
    let mut one = scene.client("web").http1().await;
    assert_eq!(send(&mut one, get("/a")).await.status(), StatusCode::OK);
    let (mut sender, echo) = http_body_util::channel::Channel::<_, std::io::Error>::new(1);
    let request = Request::post("https://a/echo").body(echo.boxed()).unwrap();
    let mut answer = within(two.clone().send_request(request))
        .await
        .unwrap()
        .into_body();
    scene.proxy.signal(15);
    eventually("GOAWAY", async || {
        let mut two = two.clone();
        two.send_request(get2("/a")).await.is_err()
    })
    .await;
    // What is under way goes on to its end.
    sender
        .send_data(bytes::Bytes::from_static(b"late"))
        .await
        .unwrap();
    assert_eq!(
        within(answer.frame())
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap(),
        "late"
    );
    drop(sender);
    while let Some(frame) = within(answer.frame()).await {
        frame.unwrap();
    }
    let code = tokio::task::block_in_place(|| scene.proxy.process().wait(crate::scene::SOON));
    assert_eq!(code.and_then(|code| code.code()), Some(0));
}
