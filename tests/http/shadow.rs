//! A candidate in the shadow: asked about everything, never enforced, every difference told.

use std::fs;
use std::path::Path;

use http::{Method, Request};
use portcullis_tests::process::eventually;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::client::{Body, empty, read_until};
use crate::decisions::{asked, logged, metric, reaches};
use crate::scene::{SOON, Scene, intentions};

fn get(path: &str) -> Request<Body> {
    Request::builder()
        .method(Method::GET)
        .uri(path)
        .header("host", "api.example")
        .body(empty())
        .expect("a request")
}

fn entry(sources: &Value) -> String {
    json!({ "Kind": "service-intentions", "Name": "api", "Sources": sources }).to_string()
}

fn permitted(permissions: &Value) -> String {
    entry(&json!([{ "Name": "web", "Permissions": permissions }]))
}

const READY: &str = "portcullis_shadow_ready";

fn decisions(kind: &str, result: &str) -> String {
    format!("portcullis_shadow_decisions_total{{kind=\"{kind}\",result=\"{result}\"}}")
}

fn difference(kind: &str, live: &str, candidate: &str) -> String {
    format!(
        "portcullis_shadow_differences_total{{kind=\"{kind}\",live=\"{live}\",candidate=\"{candidate}\"}}"
    )
}

/// Asks until the candidate and the live policy have been compared once more.
async fn compared(scene: &Scene, path: &str, status: u16) {
    let mut one = scene.client("web").http1().await;
    let all = || ["same", "different"].map(|result| metric(scene, &decisions("request", result)));
    let before = all();
    for _ in 0..1_000 {
        assert_eq!(asked(&mut one, get(path)).await, status);
        if all() != before {
            return;
        }
    }
    panic!("never compared");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_would_be_answered_otherwise_are_counted_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let (file, candidate) = (folder.path().join("log"), folder.path().join("api.json"));
    fs::write(
        &candidate,
        permitted(&json!([
            { "Action": "deny", "HTTP": { "PathPrefix": "/items", "Header": [{ "Name": "x-gone", "Present": true, "Invert": true }] } },
            { "Action": "allow", "HTTP": { "PathPrefix": "/" } },
        ])),
    )
    .unwrap();
    let live = json!([
        { "Action": "deny", "HTTP": { "PathPrefix": "/admin" } },
        { "Action": "allow", "HTTP": { "PathPrefix": "/" } },
    ]);
    let scene = Scene::start(
        "http",
        live,
        &[
            &format!("-decision-log={}", file.display()),
            "-decision-log-allows=0",
            &format!("-shadow-intentions={}", candidate.display()),
        ],
    )
    .await;
    tokio::task::block_in_place(|| reaches(&scene, READY, |ready| ready == 1));
    let mut one = scene.client("web").http1().await;
    let before = metric(&scene, &decisions("request", "skipped"));
    for (path, status) in [("/items/1", 200), ("/admin", 403), ("/other", 200)] {
        assert_eq!(asked(&mut one, get(path)).await, status, "{path}");
    }
    let mut with = get("/items/2");
    with.headers_mut().insert("x-gone", "here".parse().unwrap());
    assert_eq!(asked(&mut one, with).await, 200);
    for (series, count) in [
        (difference("request", "allow", "deny"), 1),
        (difference("request", "deny", "allow"), 1),
        (decisions("request", "different"), 2),
        (decisions("request", "same"), 2),
        (decisions("request", "skipped"), before),
        (decisions("connection", "different"), 0),
        // Nothing of it is enforced, nor counted as if it were.
        ("portcullis_inbound_http_authz_allow_total".to_owned(), 3),
    ] {
        assert_eq!(
            metric(&scene, &series),
            count,
            "{series}\n{}",
            scene.metrics()
        );
    }

    // Both reasons, in both logs; an allow that would be denied is logged though none is sampled.
    let found = logged(&file, 2);
    assert_eq!(found.len(), 2);
    let told = |line: &Value| {
        (
            line["effect"].clone(),
            line["because"]["permission"].clone(),
            line["shadow"].clone(),
        )
    };
    assert_eq!(
        told(&found[0]),
        (
            json!("allow"),
            json!(1),
            json!({ "effect": "deny", "because": { "code": "permission", "intention": 0, "permission": 0 } })
        )
    );
    assert_eq!(
        told(&found[1]),
        (
            json!("deny"),
            json!(0),
            json!({ "effect": "allow", "because": { "code": "permission", "intention": 0, "permission": 1 } })
        )
    );
    let access = scene.lines(4);
    assert_eq!(access[0]["shadow.effect"], "deny");
    assert_eq!(access[0]["shadow.code"], "permission");
    assert_ne!(access[0]["shadow.reason"], "");
    assert!(access[0]["shadow.reason"].is_string());
    assert_eq!(access[1]["shadow.effect"], "allow");
    for line in &access[2..] {
        assert!(line.get("shadow.effect").is_none(), "{line}");
    }
    assert_eq!(
        scene.application.paths(),
        ["/items/1", "/other", "/items/2"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_would_be_answered_otherwise_are_counted_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let (file, candidate) = (folder.path().join("log"), folder.path().join("new"));
    fs::create_dir(&candidate).unwrap();
    let sources = json!([
        { "Name": "web", "Action": "deny" }, { "Name": "other", "Action": "allow" },
    ]);
    fs::write(candidate.join("api.json"), entry(&sources)).unwrap();
    let scene = Scene::with_sources(
        "tcp",
        json!([{ "Name": "web", "Action": "allow" }]),
        &[
            &format!("-decision-log={}", file.display()),
            &format!("-shadow-intentions={}", candidate.display()),
        ],
    )
    .await;
    tokio::task::block_in_place(|| reaches(&scene, READY, |ready| ready == 1));
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let (allow_deny, deny_allow) = (
        difference("connection", "allow", "deny"),
        difference("connection", "deny", "allow"),
    );
    let mut web = scene.client("web").connect(&[]).await;
    web.write_all(request).await.unwrap();
    let answer = read_until(&mut web, |text| text.contains("hello")).await;
    assert!(answer.contains("hello"), "it is not enforced: {answer}");
    drop(web);
    let refused = scene.client("other").raw(request, |_| false).await;
    assert_eq!(refused, "");
    assert_eq!(metric(&scene, &allow_deny), 1);
    tokio::task::block_in_place(|| reaches(&scene, &deny_allow, |count| count == 1));
    assert_eq!(metric(&scene, &decisions("connection", "skipped")), 0);
    let found = logged(&file, 2);
    let has = |live: &str, candidate: &str| {
        found.iter().any(|line| {
            line["effect"] == live
                && line["shadow"]["effect"] == candidate
                && line["shadow"]["because"]["code"] == "intention"
        })
    };
    assert!(has("allow", "deny") && has("deny", "allow"), "{found:#?}");
    scene.proxy.logs("\"shadow.effect\":\"deny\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_cannot_be_read_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let candidate = folder.path().join("api.json");
    let write = |text: &str| replace(&candidate, text);
    write("{ \"Kind\": ");
    let live = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    let flag = format!("-shadow-intentions={}", candidate.display());
    let scene = Scene::start("http", live, &[&flag]).await;
    scene
        .proxy
        .logs("there is no candidate in the shadow until its files change");
    let mut one = scene.client("web").http1().await;
    assert_eq!(asked(&mut one, get("/1")).await, 200);
    assert_eq!(metric(&scene, READY), 0);
    assert_eq!(metric(&scene, &decisions("request", "skipped")), 1);

    // A good one is found by itself.
    write(&permitted(
        &json!([{ "Action": "deny", "HTTP": { "PathPrefix": "/" } }]),
    ));
    tokio::task::block_in_place(|| reaches(&scene, READY, |ready| ready == 1));
    compared(&scene, "/2", 200).await;
    assert_eq!(metric(&scene, &difference("request", "allow", "deny")), 1);

    // What is wrong with the next leaves this one; so does one that no policy takes.
    let kept = |times: usize| {
        let said = || {
            let log = scene.proxy.log();
            log.matches("of no use: the last good one stays").count()
        };
        tokio::task::block_in_place(|| {
            eventually("it is refused", SOON, || (said() == times).then_some(()));
        });
        assert_eq!(metric(&scene, READY), 1);
    };
    write("{}");
    scene.proxy.signal(1);
    kept(1);
    compared(&scene, "/3", 200).await;
    assert_eq!(metric(&scene, &difference("request", "allow", "deny")), 2);
    fs::remove_file(&candidate).unwrap();
    scene.proxy.signal(1);
    tokio::task::block_in_place(|| {
        eventually("it is refused again", SOON, || {
            (scene.proxy.log().matches("of no use").count() >= 2).then_some(())
        });
    });
    compared(&scene, "/4", 200).await;

    // It follows the live policy: what is compared rests on the same state.
    let generation = metric(&scene, "portcullis_policy_generation");
    intentions(
        &scene.agent,
        json!([{ "Name": "web", "Action": "allow" }, { "Name": "x", "Action": "deny" }]),
    );
    tokio::task::block_in_place(|| {
        reaches(&scene, "portcullis_policy_generation", |now| {
            now > generation
        })
    });
    compared(&scene, "/5", 200).await;
    let same = decisions("request", "same");
    assert_eq!(metric(&scene, &same), 0);
    // And to what the live policy says in the end.
    write(&entry(&json!([{ "Name": "web", "Action": "allow" }])));
    tokio::task::block_in_place(|| {
        eventually("it is read", SOON, || {
            (scene.proxy.log().matches("read again, and in use").count() >= 2).then_some(())
        });
    });
    compared(&scene, "/6", 200).await;
    assert_eq!(metric(&scene, &same), 1);
}

/// As an operator should: never half a file.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}
