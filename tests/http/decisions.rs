//! The decision log: what is in it, that `portcullis diff` reads it, and that nobody waits.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use http::{HeaderValue, Method, Request, StatusCode};
use portcullis_tests::process::eventually;
use portcullis_tests::program;
use portcullis_tests::stage::within;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::client::{Body, body, empty, read_until, send};
use crate::scene::{SOON, Scene, intentions, lines};

fn ask(method: Method, path: &str, headers: &[(&str, &[u8])]) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "api.example");
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(value).expect("a value");
        request = request.header(*name, value);
    }
    request.body(empty()).expect("a request")
}

/// The lines of a decision log, once there are so many.
pub(crate) fn logged(file: &Path, count: usize) -> Vec<Value> {
    tokio::task::block_in_place(|| {
        eventually("lines of the decision log", SOON, || {
            let text = fs::read_to_string(file).unwrap_or_default();
            // The last one may be half written.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let lines: Vec<Value> = whole.lines().map(parsed).collect();
            (lines.len() >= count).then_some(lines)
        })
    })
}

fn parsed(line: &str) -> Value {
    let plain = |byte: u8| (b' '..=b'~').contains(&byte);
    assert!(line.bytes().all(plain), "{line:?}");
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// A number of the metrics; 0 where it is not there.
pub(crate) fn metric(scene: &Scene, series: &str) -> u64 {
    let metrics = scene.metrics();
    let line = metrics.lines().find(|line| {
        line.strip_prefix(series)
            .is_some_and(|rest| rest.starts_with(' '))
    });
    line.and_then(|line| line.rsplit_once(' '))
        .map_or(0, |(_, number)| number.parse().expect("a number"))
}

/// Waits until a number of the metrics is as wanted.
pub(crate) fn reaches(scene: &Scene, series: &str, wanted: impl Fn(u64) -> bool) -> u64 {
    eventually(series, SOON, || {
        let now = metric(scene, series);
        wanted(now).then_some(now)
    })
}

/// Sends a request and reads the answer to its end.
pub(crate) async fn asked(
    one: &mut hyper::client::conn::http1::SendRequest<Body>,
    request: Request<Body>,
) -> StatusCode {
    let answer = send(one, request).await;
    let status = answer.status();
    let _ = body(answer).await;
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_is_a_line_that_diff_reads() {
    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln";
    let permissions = json!([
        { "Action": "deny", "HTTP": { "PathPrefix": "/admin" } },
        { "Action": "allow", "HTTP": { "PathPrefix": "/", "Methods": ["GET"] } },
        { "Action": "allow", "HTTP": { "PathPrefix": "/", "Header": [
            { "Name": "x-tenant", "Exact": "a" }, { "Name": "x-role", "Present": true },
        ] } },
    ]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.ndjson");
    let log = format!("-decision-log={}", file.display());
    let scene = Scene::start(
        "http",
        permissions,
        &[
            &log,
            "-decision-log-header=X-Tenant",
            "-decision-log-query=x",
            "-decision-log-query=t",
        ],
    )
    .await;
    let client = scene.client("web");
    let mut one = client.http1().await;
    let hostile = b"a\"b\\\t\x9b\xff{";
    let query = format!("/items//1?x=2&key=opaque&t={TOKEN}");
    for (request, status) in [
        (ask(Method::GET, &query, &[("x-other", b"no")]), 200),
        (ask(Method::POST, "/items/2", &[("x-tenant", hostile)]), 403),
        (
            ask(
                Method::DELETE,
                "/items/3",
                &[("x-tenant", b"a"), ("x-role", b"secret-role")],
            ),
            200,
        ),
        (
            ask(
                Method::POST,
                "/items/4",
                &[("x-tenant", TOKEN.as_bytes()), ("x-tenant", b"b")],
            ),
            403,
        ),
    ] {
        assert_eq!(asked(&mut one, request).await, status);
    }
    let mut two = client.http2().await;
    let request = Request::get("https://api.example/admin")
        .body(empty())
        .unwrap();
    let denied = within(two.send_request(request)).await.unwrap();
    assert_eq!(denied.status(), StatusCode::FORBIDDEN);

    let found = logged(&file, 5);
    assert_eq!(found.len(), 5);
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    for secret in ["eyJ", "opaque", "secret-role", "x-other"] {
        assert!(!text.contains(secret), "{secret}\n{text}");
    }
    let first = &found[0];
    let digest = first["policy"].as_str().expect("a digest");
    let digest = digest.strip_prefix("sha256:").expect("its kind");
    let revision = format!("portcullis_policy_revision_info{{digest=\"{digest}\"}}");
    assert_eq!(metric(&scene, &revision), 1);
    let generation = metric(&scene, "portcullis_policy_generation");
    let mut plain = first.clone();
    for field in ["time", "id", "policy"] {
        assert!(plain.as_object_mut().unwrap().remove(field).is_some());
    }
    assert_eq!(
        plain,
        json!({
            "generation": generation,
            "source": client.uri,
            "destination": "default/default/api",
            "request": {
                "method": "GET",
                "path": "/items//1?x=2&key=withheld&t=withheld",
                "headers": [["host", "api.example"]],
            },
            "http_version": "1.1",
            "effect": "allow",
            "because": { "code": "permission", "intention": 0, "permission": 1 },
        })
    );
    let latin: String = hostile.iter().copied().map(char::from).collect();
    let headers = |at: usize| found[at]["request"]["headers"].clone();
    let host = json!(["host", "api.example"]);
    assert_eq!(headers(1), json!([host, ["x-tenant", latin]]));
    assert_eq!(
        headers(2),
        json!([host, ["x-tenant", "a"], ["x-role", null]])
    );
    assert_eq!(
        headers(3),
        json!([host, ["x-tenant", null], ["x-tenant", "b"]])
    );
    assert_eq!(
        found[1]["because"],
        json!({ "code": "no-permission-matched", "intention": 0 })
    );
    assert_eq!(found[4]["http_version"], "2");
    assert_eq!(found[4]["request"]["authority"], "api.example");

    // The access log has the same ids.
    let access = scene.lines(5);
    let ids = |lines: &[Value], field: &str| {
        let ids = lines
            .iter()
            .map(|line| line[field].as_str().map(str::to_owned));
        ids.collect::<Option<Vec<_>>>()
    };
    assert_eq!(ids(&access, "decision"), ids(&found, "id"));
    // A line is counted once it is in the file.
    let written = "portcullis_decision_log_lines_total{result=\"written\"}";
    reaches(&scene, written, |count| count == 5);

    // What it is for.
    let candidate = folder.path().join("api.json");
    let entry = json!({
        "Kind": "service-intentions", "Name": "api", "Sources": [{ "Name": "web", "Permissions": [
            { "Action": "allow", "HTTP": { "PathPrefix": "/", "Methods": ["POST"] } },
            { "Action": "allow", "HTTP": { "PathPrefix": "/", "Header": [{ "Name": "x-tenant", "Exact": "a" }] } },
        ]}],
    });
    fs::write(&candidate, entry.to_string()).unwrap();
    let mut diff = program::portcullis(["diff", "-output=json"]);
    diff.arg(&candidate)
        .arg(format!("-log={}", file.display()))
        .env("CONSUL_HTTP_ADDR", scene.agent.address().to_string());
    let said = tokio::task::block_in_place(|| diff.output().unwrap());
    let answer: Value =
        serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let changes = answer["changes"].as_array().expect("changes");
    let mut effects: Vec<(&str, &str, &str)> = changes
        .iter()
        .map(|change| {
            let text = |at: &str| change.pointer(at).and_then(Value::as_str).expect("a text");
            (
                text("/request/path"),
                text("/before/effect"),
                text("/after/effect"),
            )
        })
        .collect();
    effects.sort_unstable();
    assert_eq!(
        effects,
        [
            ("/items//1?x=2&key=withheld&t=withheld", "allow", "deny"),
            ("/items/2", "deny", "allow"),
        ],
        "{answer:#}"
    );
    assert_eq!(answer["compared"], 3, "{answer:#}");
    let left: u64 = answer["left_out"]
        .as_object()
        .expect("what is left out")
        .values()
        .filter_map(Value::as_u64)
        .sum();
    assert_eq!(left, 2, "what needs a withheld value\n{answer:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_allows_a_part_is_logged_and_of_denials_all() {
    let permissions = json!([
        { "Action": "deny", "HTTP": { "PathPrefix": "/admin" } },
        { "Action": "allow", "HTTP": { "PathPrefix": "/" } },
    ]);
    let folder = tempfile::tempdir().unwrap();
    for (allows, expected) in [(10, 10), (0, 0)] {
        let file = folder.path().join(format!("{allows}.ndjson"));
        let log = format!("-decision-log={}", file.display());
        let sample = format!("-decision-log-allows={allows}");
        let scene = Scene::start("http", permissions.clone(), &[&log, &sample]).await;
        let mut one = scene.client("web").http1().await;
        for number in 0..100 {
            let path = format!("/items/{number}");
            assert_eq!(asked(&mut one, ask(Method::GET, &path, &[])).await, 200);
        }
        for _ in 0..7 {
            let request = ask(Method::GET, "/admin", &[]);
            assert_eq!(asked(&mut one, request).await, 403);
        }
        let found = logged(&file, expected + 7);
        let effect = |effect: &str| found.iter().filter(|line| line["effect"] == effect).count();
        assert_eq!((effect("allow"), effect("deny")), (expected, 7));
        for line in &found {
            let stands_for = (line["effect"] == "allow").then_some(json!(10));
            assert_eq!(line.get("sampled"), stands_for.as_ref(), "{line}");
        }
        // Only what is in the log has an id elsewhere.
        let access = scene.lines(107);
        let with = access.iter().filter(|line| line["decision"].is_string());
        assert_eq!(with.count(), expected + 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_logged_and_what_a_change_of_policy_cuts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.ndjson");
    let log = format!("-decision-log={}", file.display());
    let sources = json!([{ "Name": "web", "Action": "allow" }]);
    let scene = Scene::with_sources("tcp", sources, &[&log]).await;
    let client = scene.client("web");
    let mut open = client.connect(&[]).await;
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    open.write_all(request).await.unwrap();
    let answer = read_until(&mut open, |text| text.contains("hello")).await;
    assert!(answer.contains("hello"), "{answer}");
    let _ = scene
        .client("other")
        .raw(b"GET / HTTP/1.1\r\n\r\n", |_| false)
        .await;
    intentions(&scene.agent, json!([{ "Name": "web", "Action": "deny" }]));
    let _ = read_until(&mut open, |_| false).await;

    let last = logged(&file, 3);
    let told = |line: &Value| {
        assert!(line.get("request").is_none() && line.get("http_version").is_none());
        let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        (text("source"), text("effect"), line["because"].clone())
    };
    let other = scene.client("other").uri;
    assert_eq!(
        last.iter().map(told).collect::<Vec<_>>(),
        [
            (
                client.uri.clone(),
                "allow".to_owned(),
                json!({ "code": "intention", "intention": 0 })
            ),
            (
                other,
                "deny".to_owned(),
                json!({ "code": "default-policy" })
            ),
            (
                client.uri,
                "deny".to_owned(),
                json!({ "code": "intention", "intention": 0 })
            ),
        ]
    );
    assert!(last[2]["generation"].as_u64() > last[0]["generation"].as_u64());
    scene.proxy.logs(last[2]["id"].as_str().expect("an id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_keeps_nobody_waiting() {
    let permissions = json!([
        { "Action": "deny", "HTTP": { "PathPrefix": "/admin" } },
        { "Action": "allow", "HTTP": { "PathPrefix": "/" } },
    ]);
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("decisions");
    let made = Command::new("mkfifo").arg(&fifo).status();
    assert!(made.is_ok_and(|status| status.success()));
    let log = format!("-decision-log={}", fifo.display());
    let scene = Scene::start("http", permissions, &[&log]).await;
    let mut one = scene.client("web").http1().await;
    // Each line is about 50 kB: 64 KiB are in the pipe, 4 MiB wait, the rest is dropped.
    let long = "x".repeat(50_000);
    for number in 0..75 {
        for (place, status) in [("items", 200), ("admin", 403)] {
            let path = format!("/{place}/{number}/{long}");
            assert_eq!(asked(&mut one, ask(Method::GET, &path, &[])).await, status);
        }
    }
    let dropped = "portcullis_decision_log_lines_total{result=\"dropped\"}";
    let written = "portcullis_decision_log_lines_total{result=\"written\"}";
    let count = reaches(&scene, dropped, |count| count > 0);
    assert!((30..100).contains(&count), "{count}");
    assert!(metric(&scene, written) < 3);

    // Whoever reads late finds what there was room for, and how much is missing.
    let wanted = 150 - usize::try_from(count).unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let reader = BufReader::new(fs::File::open(fifo).unwrap());
        let (mut decisions, mut missing) = (0, None);
        for line in reader.lines() {
            let line = parsed(&line.unwrap());
            match line.get("dropped") {
                Some(count) => missing = count.as_u64(),
                None => decisions += 1,
            }
            if decisions == wanted && missing.is_some() {
                break;
            }
        }
        missing
    });
    assert_eq!(within(read).await.unwrap(), Some(count));
    reaches(&scene, written, |count| {
        count == u64::try_from(wanted).unwrap()
    });
    scene.proxy.logs("decisions were not logged");
    assert_eq!(metric(&scene, dropped), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_nobody_waiting() {
    let permissions = json!([{ "Action": "deny", "HTTP": { "PathPrefix": "/" } }]);
    let scene = Scene::start("http", permissions, &["-decision-log=/dev/full"]).await;
    let mut one = scene.client("web").http1().await;
    // Each line is about 50 kB: 4 MiB wait, the rest is dropped.
    let long = "x".repeat(50_000);
    for number in 0..120 {
        let path = format!("/{long}/{number}");
        assert_eq!(asked(&mut one, ask(Method::GET, &path, &[])).await, 403);
    }
    let result = |result: &str| {
        let series = format!("portcullis_decision_log_lines_total{{result=\"{result}\"}}");
        metric(&scene, &series)
    };
    let dropped = result("dropped");
    assert!((30..60).contains(&dropped), "{dropped}");
    assert_eq!(result("written"), 0);
    scene.proxy.logs("the decision log cannot be written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_put_aside_goes_on_in_a_new_file() {
    let permissions = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    let folder = tempfile::tempdir().unwrap();
    let (file, aside) = (folder.path().join("log"), folder.path().join("log.1"));
    let log = format!("-decision-log={}", file.display());
    let scene = Scene::start("http", permissions, &[&log]).await;
    let mut one = scene.client("web").http1().await;
    assert_eq!(asked(&mut one, ask(Method::GET, "/1", &[])).await, 200);
    assert_eq!(logged(&file, 1).len(), 1);
    fs::rename(&file, &aside).unwrap();
    scene.proxy.signal(1);
    scene.proxy.logs("reading again");
    // The signal arrives some time; until then lines go where they went.
    let mut sent = 1;
    while !file.exists() {
        sent += 1;
        assert_eq!(asked(&mut one, ask(Method::GET, "/2", &[])).await, 200);
    }
    let all = || lines_of(&file) + lines_of(&aside);
    tokio::task::block_in_place(|| {
        eventually("all lines are there", SOON, || {
            (all() == sent).then_some(())
        });
    });
    assert!(lines_of(&file) > 0);
    assert_eq!(lines(&scene.proxy, sent).len(), sent);
}

fn lines_of(file: &Path) -> usize {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter(|line| parsed(line)["id"].is_string())
        .count()
}
