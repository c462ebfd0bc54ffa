//! The HTTP filter: requests allowed and refused, each with its reason.

use http::{Request, StatusCode};
use portcullis_tests::envoy::{Envoy, Plan, Plugin, cluster, settings};
use serde_json::json;

use crate::application::Application;
use crate::client::{Client, body, empty, full, send};
use crate::scene::{agent, client, get, get_becomes};
use portcullis_dev_agent::DevAgent;
use portcullis_tests::stage::within;

/// `web` may read below `/public`, `admin` everything, and nobody `/public/secret`.
async fn mesh() -> DevAgent {
    let agent = agent().await;
    let entry = json!({
        "Kind": "service-defaults", "Name": "api", "Protocol": "http",
    });
    agent.put_config_entry(&entry).expect("an entry");
    let entry = json!({
        "Kind": "service-intentions", "Name": "api", "Sources": [
            { "Name": "web", "Permissions": [
                { "Action": "deny", "HTTP": { "PathPrefix": "/public/secret" } },
                { "Action": "allow", "HTTP": { "PathPrefix": "/public", "Methods": ["GET"] } },
                { "Action": "allow", "HTTP": { "PathPrefix": "/test.Echo/" } },
            ]},
            { "Name": "admin", "Action": "allow" },
            { "Name": "evil", "Action": "deny" },
        ],
    });
    agent.put_config_entry(&entry).expect("an entry");
    agent
}

struct Scene {
    agent: DevAgent,
    app: Application,
    envoy: Envoy,
    address: std::net::SocketAddr,
}

impl Scene {
    async fn start(test: &str) -> Option<Self> {
        let agent = mesh().await;
        let app = Application::start().await;
        let plan = Plan::new(&agent, "api").cluster(cluster("app", app.address));
        let (plan, address) = plan.http(&Plugin::new(settings("api")));
        let envoy = plan.start(test)?;
        Some(Self {
            agent,
            app,
            envoy,
            address,
        })
    }

    fn client(&self, service: &str) -> Client {
        client(&self.agent, service, self.address)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_judged_one_by_one_with_their_reasons() {
    let Some(scene) = Scene::start("requests_are_judged_one_by_one_with_their_reasons").await
    else {
        return;
    };
    // The first request may come before the policy, and waits for it.
    let web = scene.client("web");
    assert_eq!(get(&web, "/public/a").await, StatusCode::OK);
    let mut one = web.http1().await;
    for (method, path, status) in [
        ("GET", "/public/b?x=/private", 200),
        ("GET", "/private", 403),
        ("POST", "/public/b", 403),
        ("GET", "/public/secret", 403),
        ("GET", "/public/b", 200),
        // The connection manager makes these canonical before they are judged.
        ("GET", "/public/../private", 403),
        ("GET", "/private/../public/b", 200),
        ("GET", "/public/%73ecret", 403),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "api")
            .body(empty())
            .expect("a request");
        let response = send(&mut one, request).await;
        assert_eq!(response.status(), status, "{method} {path}");
        if status == 403 {
            assert_eq!(body(response).await, "Forbidden");
        } else {
            let _ = body(response).await;
        }
    }
    assert_eq!(get(&scene.client("admin"), "/private").await, 200);
    assert_eq!(get(&scene.client("evil"), "/public/a").await, 403);
    assert_eq!(get(&scene.client("other"), "/public/a").await, 403);
    for line in [
        "http 403 portcullis[no-permission-matched] deny no-permission-matched /private",
        "http 403 portcullis[permission] deny permission /public/secret",
        "http 403 portcullis[intention] deny intention /public/a",
        "http 403 portcullis[default-policy] deny default-policy /public/a",
        "http 200 via_upstream - /public/b",
    ] {
        scene.envoy.logged(line);
    }
    let paths = scene.app.paths();
    assert!(
        !paths.iter().any(|path| path.contains("secret")),
        "{paths:?}"
    );
    scene
        .envoy
        .stat_reaches("wasmcustom.portcullis.api.denied.no-permission-matched", 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_envoy_left_as_it_was_is_refused() {
    let agent = mesh().await;
    let app = Application::start().await;
    let plan = Plan::new(&agent, "api").cluster(cluster("app", app.address));
    let [port] = portcullis_tests::ports::free::<1>();
    // Without `normalize_path` the filter would judge another path than the application gets.
    let plugin = Plugin::new(settings("api"));
    let mut manager =
        portcullis_tests::envoy::http_manager("app", &[plugin.http()], &plan.access_log());
    manager["typed_config"]["normalize_path"] = json!(false);
    let tls = portcullis_tests::envoy::tls(plan.folder());
    let listener = portcullis_tests::envoy::listener(port, &tls, &[manager]);
    let Some(envoy) = plan
        .listener(listener)
        .start("a_path_that_envoy_left_as_it_was_is_refused")
    else {
        return;
    };
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let admin = client(&agent, "admin", address);
    get_becomes(&admin, "/private", 200).await;
    for path in ["/x/../private", "/%70rivate", "/a\\b"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n");
        let answer = admin.raw(request.as_bytes(), |_| false).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
    }
    envoy.logged(
        "http 400 portcullis[path-not-normalized] bad-request path-not-normalized /x/../private",
    );
    assert!(!scene_paths(&app).iter().any(|path| path.contains("..")));
}

fn scene_paths(app: &Application) -> Vec<String> {
    app.paths()
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_and_grpc_are_answered_in_their_own_way() {
    let Some(scene) = Scene::start("http2_and_grpc_are_answered_in_their_own_way").await else {
        return;
    };
    let web = scene.client("web");
    get_becomes(&web, "/public/a", 200).await;
    let mut two = web.http2().await;
    let mut ask = async |path: &str, grpc: bool| {
        let mut request = Request::post(format!("https://api{path}"));
        if grpc {
            request = request.header("content-type", "application/grpc");
        }
        let request = request.body(full("x")).expect("a request");
        within(two.send_request(request)).await.expect("an answer")
    };
    let allowed = ask("/test.Echo/Stream", true).await;
    assert_eq!(allowed.status(), StatusCode::OK);
    assert_eq!(allowed.headers().get("grpc-status"), None);
    assert_eq!(body(allowed).await, "x");
    let refused = ask("/test.Other/Stream", true).await;
    assert_eq!(refused.status(), StatusCode::OK);
    assert_eq!(refused.headers()["grpc-status"], "7");
    let refused = ask("/test.Other/Stream", false).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_intention_is_in_force_for_the_next_request() {
    let Some(scene) = Scene::start("a_changed_intention_is_in_force_for_the_next_request").await
    else {
        return;
    };
    let admin = scene.client("admin");
    get_becomes(&admin, "/private", 200).await;
    let mut one = admin.http1().await;
    let entry = |action: &str| {
        json!({
            "Kind": "service-intentions", "Name": "api", "Sources": [{ "Name": "admin", "Action": action }],
        })
    };
    for (action, status) in [("deny", 403), ("allow", 200), ("deny", 403)] {
        scene
            .agent
            .put_config_entry(&entry(action))
            .expect("an entry");
        let wait = async {
            loop {
                let request = Request::get("/private")
                    .header("host", "api")
                    .body(empty())
                    .expect("a request");
                let response = send(&mut one, request).await;
                let got = response.status();
                let _ = body(response).await;
                if got == status {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        within(wait).await;
    }
}
