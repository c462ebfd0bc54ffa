//! Tokens at a real proxy: providers of the agent, keys from entries, servers and files.

use http::{Request, StatusCode};
use portcullis_testkit::TestCa;
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::program;
use portcullis_tests::stage::eventually;
use serde_json::{Value, json};

use crate::application::Application;
use crate::client::{Client, empty, send};
use crate::protocol::{Mesh, put};
use crate::scene::{Scene, intentions, proxy};
use crate::tokens::{Answer, Issuer, KeyServer};

const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";

pub(crate) fn provider(keys: Value, more: Value) -> Value {
    let mut entry = json!({ "Kind": "jwt-provider", "Name": "okta", "Issuer": "okta", "Audiences": ["api"],
        "JSONWebKeySet": keys });
    let entry_fields = entry.as_object_mut().unwrap();
    entry_fields.extend(more.as_object().unwrap().clone());
    entry
}

/// A provider, and an intention that asks for its tokens with `admin` as role.
fn guard(scene: &Scene, keys: Value, more: Value) {
    let entry = provider(keys, more);
    scene.agent.put_config_entry(&entry).expect("a provider");
    intentions(&scene.agent, guarded());
}

pub(crate) fn guarded() -> Value {
    let jwt = json!({ "Providers": [{ "Name": "okta", "VerifyClaims": [{ "Path": ["role"], "Value": "admin" }] }] });
    json!([{ "Name": "web", "Permissions": [
        { "Action": "allow", "HTTP": { "PathPrefix": "/" }, "JWT": jwt },
    ] }])
}

async fn scene(flags: &[&str]) -> Scene {
    Scene::start(
        "http",
        json!([{ "Action": "deny", "HTTP": { "PathPrefix": "/" } }]),
        flags,
    )
    .await
}

async fn ask(client: &Client, path: &str, headers: &[(&str, &str)]) -> StatusCode {
    let mut connection = client.http1().await;
    let mut request = Request::get(path).header("host", "api");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(empty()).unwrap();
    send(&mut connection, request).await.status()
}

async fn with_token(client: &Client, token: &str) -> StatusCode {
    ask(
        client,
        "/a",
        &[("authorization", &format!("Bearer {token}"))],
    )
    .await
}

async fn accepted(client: &Client, token: &str) {
    eventually("the token is accepted", async || {
        with_token(client, token).await == StatusCode::OK
    })
    .await;
}

/// Waits until looks at the keys of `okta` have ended so once more.
async fn looked(scene: &Scene, result: &str) {
    let count = || -> u64 {
        let start =
            format!("portcullis_jwks_fetches_total{{provider=\"okta\",result=\"{result}\"}} ");
        let metrics = scene.metrics();
        let found = metrics.lines().find_map(|line| line.strip_prefix(&start));
        found.map_or(0, |count| count.trim().parse().expect("a count"))
    };
    let before = count();
    eventually(result, async || count() > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_what_asks_for_one() {
    let scene = scene(&[]).await;
    let (issuer, stranger) = (Issuer::new("one"), Issuer::new("one"));
    let forwarding = json!({ "Forwarding": { "HeaderName": "x-claims" } });
    guard(
        &scene,
        json!({ "Local": { "JWKS": issuer.inline() } }),
        forwarding,
    );
    let client = scene.client("web");
    let token = issuer.token(600, "admin");
    accepted(&client, &token).await;

    for (what, bad) in issuer.bad("admin") {
        assert_eq!(
            with_token(&client, &bad).await,
            StatusCode::FORBIDDEN,
            "{what}"
        );
    }
    tokio::task::block_in_place(|| scene.proxy.logs("jwt-not-satisfied"));
    // Two tokens are none: who passes them on might read the other.
    let (one, other) = (format!("Bearer {token}"), issuer.token(600, "guest"));
    let other = format!("Bearer {other}");
    for pair in [[&one, &other], [&other, &one], [&one, &one]] {
        let headers = pair.map(|value| ("authorization", value.as_str()));
        assert_eq!(ask(&client, "/a", &headers).await, StatusCode::FORBIDDEN);
    }
    let path = format!("/a?access_token={token}");
    let headers = [("authorization", other.as_str())];
    assert_eq!(ask(&client, &path, &headers).await, StatusCode::FORBIDDEN);
    for scheme in ["bearer ", "BEARER ", "Basic ", ""] {
        let value = format!("{scheme}{token}");
        let headers = [("authorization", value.as_str())];
        assert_eq!(ask(&client, "/a", &headers).await, StatusCode::FORBIDDEN);
    }
    assert_eq!(ask(&client, "/a", &[]).await, StatusCode::FORBIDDEN);
    assert_eq!(
        with_token(&scene.client("other"), &token).await,
        StatusCode::FORBIDDEN
    );

    // The token is used up, and nobody but the proxy says what was in it.
    let bearer = format!("Bearer {token}");
    let forged = [("authorization", bearer.as_str()), ("x-claims", "forged")];
    assert_eq!(ask(&client, "/b", &forged).await, StatusCode::OK);
    let path = format!("/c?a=1&access_token={token}&b=2");
    assert_eq!(ask(&client, &path, &[]).await, StatusCode::OK);
    let asked = scene.application.asked();
    let payload = token.split('.').nth(1).unwrap();
    for (asked, uri) in asked[asked.len() - 2..].iter().zip(["/b", "/c?a=1&b=2"]) {
        assert_eq!(asked.uri, uri);
        assert!(!asked.headers.contains_key("authorization"));
        let claims: Vec<_> = asked.headers.get_all("x-claims").iter().collect();
        assert_eq!(claims, [payload]);
    }
    assert!(!scene.proxy.log().contains(&token), "no token in the log");

    // A claim within claims is not one whose name has dots.
    for (path, expected) in [
        (json!(["in", "depth"]), StatusCode::OK),
        (json!(["in.depth"]), StatusCode::FORBIDDEN),
        (json!(["in", "depth", "more"]), StatusCode::FORBIDDEN),
        (json!(["role"]), StatusCode::OK),
    ] {
        let claim = json!({ "Path": path, "Value": "admin" });
        let jwt = json!({ "Providers": [{ "Name": "okta", "VerifyClaims": [claim] }] });
        let http = json!({ "PathPrefix": "/" });
        intentions(
            &scene.agent,
            json!([{ "Name": "web", "Permissions": [{ "Action": "allow", "HTTP": http, "JWT": jwt }] }]),
        );
        eventually("the claim decides", async || {
            with_token(&client, &token).await == expected
        })
        .await;
    }
    intentions(&scene.agent, guarded());

    // Forwarded where the provider says so; and the change holds without a restart.
    let forward = json!({ "Locations": [{ "Header": { "Name": "x-token", "Forward": true } }] });
    guard(
        &scene,
        json!({ "Local": { "JWKS": issuer.inline() } }),
        forward,
    );
    eventually("another place of the token", async || {
        ask(&client, "/d", &[("x-token", &token)]).await == StatusCode::OK
    })
    .await;
    let last = scene.application.asked().pop().unwrap();
    assert_eq!(last.headers["x-token"], token.as_str());
    assert_eq!(with_token(&client, &token).await, StatusCode::FORBIDDEN);

    // Another key in the entry: tokens of the one before are worth nothing.
    guard(
        &scene,
        json!({ "Local": { "JWKS": stranger.inline() } }),
        json!({}),
    );
    accepted(&client, &stranger.token(600, "admin")).await;
    assert_eq!(with_token(&client, &token).await, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_by_https_and_rotate() {
    let ca = TestCa::new(TRUST_DOMAIN);
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let server = KeyServer::start(Answer::Keys(old.keys()), Some(&ca)).await;
    let port = server.address.port();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, ca.pem()).unwrap();
    let (allow, file) = (
        format!("-jwks-allow=localhost:{port}"),
        format!("-jwks-ca-file={}", file.display()),
    );
    let scene = scene(&[&allow, &file]).await;
    let uri = format!("https://localhost:{port}/keys");
    let remote =
        json!({ "Remote": { "URI": uri, "CacheDuration": "1s", "RequestTimeoutMs": 5000 } });
    guard(&scene, remote, json!({}));
    let client = scene.client("web");
    accepted(&client, &old.token(600, "admin")).await;
    assert_eq!(
        with_token(&client, &new.token(600, "admin")).await,
        StatusCode::FORBIDDEN
    );

    server.answers(Answer::Keys(new.keys()));
    accepted(&client, &new.token(600, "admin")).await;
    assert_eq!(
        with_token(&client, &old.token(600, "admin")).await,
        StatusCode::FORBIDDEN
    );

    // The provider names a server that may not be asked: what it had is taken away.
    let other = KeyServer::start(Answer::Keys(new.keys()), Some(&ca)).await;
    let uri = format!("https://localhost:{}/keys", other.address.port());
    guard(
        &scene,
        json!({ "Remote": { "URI": uri, "CacheDuration": "1s" } }),
        json!({}),
    );
    eventually("the keys are gone", async || {
        with_token(&client, &new.token(600, "admin")).await == StatusCode::FORBIDDEN
    })
    .await;
    looked(&scene, "not-allowed").await;
    assert_eq!(other.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_prove_itself_is_not_believed() {
    let (ca, other) = (TestCa::new(TRUST_DOMAIN), TestCa::new(TRUST_DOMAIN));
    let issuer = Issuer::new("one");
    let server = KeyServer::start(Answer::Keys(issuer.keys()), Some(&ca)).await;
    let port = server.address.port();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, other.pem()).unwrap();
    let (allow, file) = (
        format!("-jwks-allow=localhost:{port}"),
        format!("-jwks-ca-file={}", file.display()),
    );
    let scene = scene(&[&allow, &file]).await;
    let uri = format!("https://localhost:{port}/keys");
    guard(&scene, json!({ "Remote": { "URI": uri } }), json!({}));
    looked(&scene, "tls").await;
    assert_eq!(server.asked(), 0);
    let client = scene.client("web");
    assert_eq!(
        with_token(&client, &issuer.token(600, "admin")).await,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_answers_leave_the_last_keys() {
    let issuer = Issuer::new("one");
    let server = KeyServer::start(Answer::Keys(issuer.keys()), None).await;
    let elsewhere = KeyServer::start(Answer::Keys(Issuer::new("evil").keys()), None).await;
    let address = server.address;
    let allow = [
        format!("-jwks-allow=http://{address}"),
        format!("-jwks-allow=http://{}", elsewhere.address),
    ];
    let scene = scene(&[&allow[0], &allow[1]]).await;
    let remote = json!({ "URI": format!("http://{address}/keys"), "CacheDuration": "1s", "RequestTimeoutMs": 500 });
    guard(&scene, json!({ "Remote": remote }), json!({}));
    let client = scene.client("web");
    let token = issuer.token(600, "admin");
    accepted(&client, &token).await;
    for (answer, result) in [
        (
            Answer::Redirect(format!("http://{}/keys", elsewhere.address)),
            "redirect",
        ),
        (Answer::Status(500), "status"),
        (Answer::Huge { with_length: true }, "too-large"),
        (Answer::Huge { with_length: false }, "too-large"),
        (Answer::Garbage, "unusable"),
        (Answer::Keys(json!({ "keys": [] })), "unusable"),
        (Answer::Compressed(issuer.keys()), "broken"),
        (Answer::Silent, "timeout"),
    ] {
        let what = format!("{answer:?}");
        server.answers(answer);
        looked(&scene, result).await;
        assert_eq!(
            with_token(&client, &token).await,
            StatusCode::OK,
            "{what:.80}"
        );
        server.answers(Answer::Keys(issuer.keys()));
        looked(&scene, "success").await;
    }
    assert_eq!(elsewhere.asked(), 0, "redirects are not followed");
    assert_eq!(with_token(&client, &token).await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_keys_accept_nothing() {
    let issuer = Issuer::new("one");
    let server = KeyServer::start(Answer::Keys(issuer.keys()), None).await;
    let allow = format!("-jwks-allow=http://{}", server.address);
    let scene = scene(&[&allow, "-max-stale=8s"]).await;
    let uri = format!("http://{}/keys", server.address);
    guard(
        &scene,
        json!({ "Remote": { "URI": uri, "CacheDuration": "1h" } }),
        json!({}),
    );
    let client = scene.client("web");
    let token = issuer.token(600, "admin");
    accepted(&client, &token).await;
    // They are looked at oftener than the entry says, as they would be stale otherwise.
    looked(&scene, "success").await;
    server.answers(Answer::Status(503));
    eventually("the keys are stale", async || {
        with_token(&client, &token).await == StatusCode::FORBIDDEN
    })
    .await;
    server.answers(Answer::Keys(issuer.keys()));
    accepted(&client, &token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_causes_a_fetch_and_nobody_is_asked_by_default() {
    let issuer = Issuer::new("one");
    let server = KeyServer::start(Answer::Keys(issuer.keys()), None).await;
    let address = server.address;
    let keys = json!({ "Remote": { "URI": format!("http://{address}/keys") } });
    let allowed = scene(&[&format!("-jwks-allow=http://{address}")]).await;
    guard(&allowed, keys.clone(), json!({}));
    let client = allowed.client("web");
    accepted(&client, &issuer.token(600, "admin")).await;
    let asked = server.asked();
    for number in 0..40 {
        let token = issuer.token_with_kid(&format!("unknown {number}"), 600, "admin");
        assert_eq!(with_token(&client, &token).await, StatusCode::FORBIDDEN);
    }
    assert_eq!(server.asked(), asked);

    let nobody = scene(&[]).await;
    guard(&nobody, keys, json!({}));
    tokio::task::block_in_place(|| {
        nobody
            .proxy
            .logs("allow it with `-jwks-allow http://127.0.0.1:")
    });
    let token = issuer.token(600, "admin");
    assert_eq!(
        with_token(&nobody.client("web"), &token).await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(server.asked(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_is_read_again() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, old.keys().to_string()).unwrap();
    let scene = scene(&[]).await;
    guard(&scene, json!({ "Local": { "Filename": file } }), json!({}));
    let client = scene.client("web");
    accepted(&client, &old.token(600, "admin")).await;
    std::fs::write(&file, new.keys().to_string()).unwrap();
    accepted(&client, &new.token(600, "admin")).await;
    assert_eq!(
        with_token(&client, &old.token(600, "admin")).await,
        StatusCode::FORBIDDEN
    );
    // A file that is gone leaves what it held; a device is never opened.
    std::fs::remove_file(&file).unwrap();
    looked(&scene, "file").await;
    assert_eq!(
        with_token(&client, &new.token(600, "admin")).await,
        StatusCode::OK
    );
    guard(
        &scene,
        json!({ "Local": { "Filename": "/dev/zero" } }),
        json!({}),
    );
    looked(&scene, "file").await;
    assert_eq!(
        with_token(&client, &new.token(600, "admin")).await,
        StatusCode::FORBIDDEN
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_that_asks_for_a_token_holds_while_keys_are_missing() {
    let scene = scene(&[]).await;
    let jwt = json!({ "Providers": [{ "Name": "okta" }] });
    let entry = provider(
        json!({ "Remote": { "URI": "https://nobody.invalid/" } }),
        json!({}),
    );
    scene.agent.put_config_entry(&entry).expect("a provider");
    intentions(
        &scene.agent,
        json!([{ "Name": "web", "Permissions": [
        { "Action": "deny", "HTTP": { "PathPrefix": "/admin" }, "JWT": jwt },
        { "Action": "allow", "HTTP": { "PathPrefix": "/" } },
    ] }]),
    );
    let client = scene.client("web");
    eventually("allowed", async || {
        ask(&client, "/a", &[]).await == StatusCode::OK
    })
    .await;
    assert_eq!(ask(&client, "/admin", &[]).await, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_had_at_the_start_deny_and_say_why() {
    let issuer = Issuer::new("one");
    let [port] = portcullis_tests::ports::free::<1>();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let agent = crate::scene::agent().await;
    let guard_by = |uri: String| {
        let retry =
            json!({ "RetryPolicyBackOff": { "BaseInterval": "100ms", "MaxInterval": "200ms" } });
        let remote = json!({ "URI": uri, "RetryPolicy": retry });
        provider(json!({ "Remote": remote }), json!({}))
    };
    let entry = guard_by(format!("http://user:canary@{address}/keys?canary=1"));
    agent.put_config_entry(&entry).expect("a provider");
    let allow = format!("-jwks-allow=http://{address}");
    let [admin] = portcullis_tests::ports::free::<1>();
    let admin_flag = format!("-admin=127.0.0.1:{admin}");
    let flags = [allow.as_str(), "-debug-reason-header", &admin_flag];
    let nothing = json!([{ "Name": "web", "Action": "deny" }]);
    let application = Application::start().await;
    let scene = Scene::start_on(agent, application, "http", nothing, &flags).await;
    looked(&scene, "uri").await;
    let entry = guard_by(format!("http://{address}/keys?canary=1"));
    scene.agent.put_config_entry(&entry).expect("a provider");
    intentions(&scene.agent, guarded());
    let client = scene.client("web");
    let token = issuer.token(600, "admin");
    let bearer = format!("Bearer {token}");
    eventually("the reason is told", async || {
        let mut connection = client.http1().await;
        let request = Request::get("/a").header("host", "api");
        let request = request.header("authorization", &bearer).body(empty());
        let answer = send(&mut connection, request.unwrap()).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        answer.headers()["x-portcullis-reason"] == "jwt-not-satisfied"
    })
    .await;
    looked(&scene, "unreachable").await;
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], admin));
    let admin = portcullis_tests::api::Api::new(admin, None);
    let status = tokio::task::block_in_place(|| admin.get("/status").body);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let set = &status["jwt"]["key_sets"][0];
    assert_eq!(status["jwt"]["providers"], 1, "{status}");
    assert_eq!(set["provider"], "okta");
    assert_eq!(set["from"], format!("http://{address}/keys"));
    assert_eq!(set["confirmed_seconds_ago"], Value::Null);
    let error = set["error"].as_str().expect("an error");
    assert!(error.contains("no connection"), "{error}");
    tokio::task::block_in_place(|| scene.proxy.logs("its keys cannot be had"));
    assert!(!scene.proxy.log().contains("canary"));

    // When the server comes, so do the keys, as soon as the entry's policy of retries says.
    // Whatever the level of the log, nothing of a token is in it.
    let level = "/logging?level=trace";
    let level = tokio::task::block_in_place(|| admin.send("POST", level, None));
    let _ = level.expect("an answer").good();
    let _server = KeyServer::start_at(address, Answer::Keys(issuer.keys()), None).await;
    accepted(&client, &token).await;
    let path = format!("/b?access_token={token}");
    assert_eq!(ask(&client, &path, &[]).await, StatusCode::OK);
    let guest = issuer.token(600, "guest");
    let path = format!("/c?access_token={guest}");
    assert_eq!(ask(&client, &path, &[]).await, StatusCode::FORBIDDEN);
    tokio::task::block_in_place(|| scene.proxy.logs("\"/c\""));
    let log = scene.proxy.log();
    let level = tokio::task::block_in_place(|| admin.get("/logging").good().body);
    assert!(level.contains("trace"), "{level}");
    for token in [&token, &guest] {
        for part in token.split('.').skip(1) {
            assert!(!log.contains(part), "a token in the log");
        }
    }
    let status = tokio::task::block_in_place(|| admin.get("/status").body);
    assert!(!status.contains("canary") && !status.contains("\"x\""));
}

fn consuls_guard(provider: &str) -> Value {
    let claim = json!({ "Path": ["role"], "Value": "admin" });
    let jwt = json!({ "Providers": [{ "Name": provider, "VerifyClaims": [claim] }] });
    json!({ "JWT": jwt, "Sources": [{ "Name": "web", "Action": "allow" }] })
}

fn consuls_provider(keys: Value) -> Value {
    json!({ "Issuer": "okta", "Audiences": ["api"], "JSONWebKeySet": keys, "Forwarding": { "HeaderName": "x-claims" } })
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_says_whose_tokens_count() {
    let test = "consul_says_whose_tokens_count";
    let issuer = Issuer::new("one");
    let server = KeyServer::start(Answer::Keys(issuer.keys()), None).await;
    let uri = format!("http://{}/keys", server.address);
    let allow = format!("-jwks-allow=http://{}", server.address);
    let options = Options::new().with_config("default_intention_policy = \"deny\"");
    let Some(mesh) = Mesh::start_with(test, options, &[&allow], |consul| {
        put(consul, "service-defaults", "api", json!({ "Protocol": "http" }));
        let keys = json!({ "Local": { "JWKS": issuer.inline() } });
        put(consul, "jwt-provider", "inline", consuls_provider(keys));
        let keys = json!({ "Remote": { "URI": uri, "CacheDuration": "1s", "RequestTimeoutMs": 5000, "FetchAsynchronously": true } });
        put(consul, "jwt-provider", "Far", consuls_provider(keys));
        put(consul, "service-intentions", "api", consuls_guard("inline"));
    })
    .await
    else {
        return;
    };
    let good = issuer.token(600, "admin");
    let with = |token: &str| format!("/a?access_token={token}");
    eventually("an instance is known", async || {
        mesh.get(&with(&good)).await == Some(StatusCode::OK)
    })
    .await;
    let asked = mesh.application.asked().pop().unwrap();
    assert_eq!(asked.uri, "/a");
    assert_eq!(asked.headers["x-claims"], good.split('.').nth(1).unwrap());
    assert_eq!(mesh.get("/a").await, Some(StatusCode::FORBIDDEN));
    for (what, bad) in issuer.bad("admin") {
        let answer = mesh.get(&with(&bad)).await;
        assert_eq!(answer, Some(StatusCode::FORBIDDEN), "{what}");
    }

    // The same by keys from a server, which change.
    tokio::task::block_in_place(|| {
        put(
            &mesh.consul,
            "service-intentions",
            "api",
            consuls_guard("Far"),
        );
    });
    let next = Issuer::new("two");
    server.answers(Answer::Keys(next.keys()));
    eventually("the keys are other ones", async || {
        mesh.get(&with(&next.token(600, "admin"))).await == Some(StatusCode::OK)
    })
    .await;
    assert_eq!(mesh.get(&with(&good)).await, Some(StatusCode::FORBIDDEN));
    for (what, bad) in next.bad("admin") {
        let answer = mesh.get(&with(&bad)).await;
        assert_eq!(answer, Some(StatusCode::FORBIDDEN), "{what}");
    }

    // A server that may not be asked is not, and the log says so.
    let other = KeyServer::start(Answer::Keys(issuer.keys()), None).await;
    let address = other.address;
    let keys = json!({ "Remote": { "URI": format!("http://{address}/keys") } });
    tokio::task::block_in_place(|| {
        put(&mesh.consul, "jwt-provider", "Far", consuls_provider(keys));
        mesh.api
            .logs(&format!("allow it with `-jwks-allow http://{address}`"));
    });
    for token in [&good, &next.token(600, "admin")] {
        assert_eq!(mesh.get(&with(token)).await, Some(StatusCode::FORBIDDEN));
    }
    assert_eq!(other.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smallest_token_reads_providers_of_consul() {
    let test = "the_smallest_token_reads_providers_of_consul";
    let options = Options::new().with_acls();
    let Some(consul) = tokio::task::block_in_place(|| Consul::start(test, options)) else {
        return;
    };
    let issuer = Issuer::new("one");
    tokio::task::block_in_place(|| {
        put(
            &consul,
            "service-defaults",
            "api",
            json!({ "Protocol": "http" }),
        );
        let keys = json!({ "Local": { "JWKS": issuer.inline() } });
        put(&consul, "jwt-provider", "inline", consuls_provider(keys));
        put(
            &consul,
            "service-intentions",
            "api",
            consuls_guard("inline"),
        );
        let flags = [
            "-service=api",
            "-service-addr=127.0.0.1:1",
            "-listen=127.0.0.1:0",
        ];
        let mut print = program::portcullis(["proxy", "-print-acl-policy"]);
        let policy = program::run(print.args(flags));
        assert_eq!(policy.code, Some(0), "{}", policy.err);
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, consul.token("api", &policy.out)).expect("a file");
        let mut flags = flags.map(str::to_owned).to_vec();
        flags.push(format!("-token-file={}", file.display()));
        let proxy = proxy(consul.address(), &flags);
        proxy.logs("jwt providers");
        proxy.logs("ready: connections are taken");
        assert!(!proxy.log().contains("may not read"), "{}", proxy.log());
    });
}
