//! One list of reasons: the debug header, the access log, the decision log, the command and
//! the library say the same word, and the same sentence where they have one.

use http::{Method, Request};
use portcullis_core::intention::Reason;
use portcullis_tests::program;
use serde_json::{Value, json};

use crate::client::{Body, body, empty, send};
use crate::decisions::logged;
use crate::scene::Scene;

fn ask(method: &str, path: &str) -> Request<Body> {
    Request::builder()
        .method(Method::from_bytes(method.as_bytes()).expect("a method"))
        .uri(path)
        .header("host", "api.example")
        .body(empty())
        .expect("a request")
}

/// What `portcullis check` says of the same question.
fn checked(scene: &Scene, source: &str, method: &str, path: &str) -> Value {
    let mut check = program::portcullis(["check", source, "api", "-output=json"]);
    check
        .args([format!("-method={method}"), format!("-path={path}")])
        .env("CONSUL_HTTP_ADDR", scene.agent.address().to_string());
    let said = tokio::task::block_in_place(|| check.output().expect("it runs"));
    serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_has_one_reason_wherever_it_is_told() {
    let permissions = json!([
        { "Action": "deny", "HTTP": { "PathPrefix": "/admin" } },
        { "Action": "allow", "HTTP": { "PathPrefix": "/", "Methods": ["GET"] } },
        { "Action": "deny", "HTTP": { "PathRegex": "/(unread" } },
    ]);
    let sources = json!([
        { "Name": "web", "Permissions": permissions },
        { "Name": "batch", "Action": "deny" },
        { "Name": "reader", "Permissions": [
            { "Action": "deny", "HTTP": { "PathPrefix": "/admin" } },
            { "Action": "allow", "HTTP": { "PathPrefix": "/", "Methods": ["GET"] } },
        ] },
    ]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.ndjson");
    let log = format!("-decision-log={}", file.display());
    let scene = Scene::with_sources("http", sources, &["-debug-reason-header", &log]).await;
    let cases = [
        ("reader", "GET", "/items", 200, "permission"),
        ("reader", "GET", "/x/../admin", 403, "permission"),
        ("reader", "POST", "/items", 403, "no-permission-matched"),
        ("other", "GET", "/items", 403, "default-policy"),
        ("batch", "GET", "/items", 403, "intention"),
        ("web", "POST", "/items", 403, "unreadable-rule"),
        ("reader", "GET", "/a%00b", 400, "bad-request"),
    ];
    for (source, method, path, status, code) in cases {
        let mut one = scene.client(source).http1().await;
        let answer = send(&mut one, ask(method, path)).await;
        let told = (
            answer.status().as_u16(),
            answer.headers().get("x-portcullis-reason").cloned(),
        );
        let _ = body(answer).await;
        assert_eq!(told.0, status, "{source} {method} {path}");
        assert_eq!(told.1.expect("a reason"), code, "{source} {method} {path}");
        assert!(Reason::from_code(code).is_some(), "{code}");
    }
    let (found, access) = (logged(&file, cases.len()), scene.lines(cases.len()));
    assert_eq!((found.len(), access.len()), (cases.len(), cases.len()));
    for (at, (source, method, path, _, code)) in cases.into_iter().enumerate() {
        let (decision, line) = (&found[at], &access[at]);
        assert_eq!(decision["because"]["code"], code, "{decision}");
        assert_eq!(line["code"], code, "{line}");
        let said = checked(&scene, source, method, path);
        for part in ["code", "intention", "permission"] {
            let (said, logged) = (&said["because"][part], &decision["because"][part]);
            assert_eq!(said, logged, "{part}: {decision}");
        }
        assert_eq!(said["effect"], decision["effect"], "{said:#}\n{decision}");
        if code != "permission" || decision["effect"] != "allow" {
            assert_eq!(line["reason"], said["text"], "{line}\n{said:#}");
        }
    }
}

#[test]
fn the_page_for_newcomers_explains_each_reason() {
    const PAGE: &str = include_str!("../../host/WHY-DENIED.md");
    let explained: Vec<&str> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(code, _)| code)
        .collect();
    for reason in Reason::all() {
        assert!(explained.contains(&reason.code()), "{reason:?}");
    }
}
