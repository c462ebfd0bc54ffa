//! Tokens through the HTTP filter: keys that Envoy fetches by a cluster, or the relay for it.

use std::path::Path;

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use portcullis_dev_agent::DevAgent;
use portcullis_testkit::TestCa;
use portcullis_tests::envoy::{Envoy, Plan, Plugin, cluster, settings};
use portcullis_tests::proxy::Proxy;
use portcullis_tests::stage::{eventually, within};
use portcullis_tests::{components, envoy_process, ports, program};
use serde_json::{Value, json};

use crate::application::{Application, Asked};
use crate::client::{Client, empty, send};
use crate::issuers::{Answer, Issuer, KeyServer};
use crate::scene::{agent, client, get, is_sound};

struct Scene {
    agent: DevAgent,
    app: Application,
    keys: KeyServer,
    web: Client,
    envoy: Envoy,
}

/// Below which paths `web` needs a token of `okta`; below `/free` it needs none.
fn guard(agent: &DevAgent) {
    let jwt = json!({ "Providers": [{ "Name": "okta", "VerifyClaims": [{ "Path": ["role"], "Value": "admin" }] }] });
    let entry = json!({
        "Kind": "service-intentions", "Name": "api",
        "Sources": [{ "Name": "web", "Permissions": [
            { "Action": "allow", "HTTP": { "PathPrefix": "/free" } },
            { "Action": "allow", "HTTP": { "PathPrefix": "/" }, "JWT": jwt },
        ] }],
    });
    agent.put_config_entry(&entry).expect("an entry");
}

fn provide(agent: &DevAgent, uri: &str, more: Value) {
    let mut entry = json!({
        "Kind": "jwt-provider", "Name": "okta", "Issuer": "okta", "Audiences": ["api"],
        "JSONWebKeySet": { "Remote": { "URI": uri, "CacheDuration": "1s", "RequestTimeoutMs": 1_000,
            "RetryPolicy": { "RetryPolicyBackOff": { "BaseInterval": "100ms", "MaxInterval": "1s" } } } },
    });
    let fields = entry.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    agent.put_config_entry(&entry).expect("a provider");
}

impl Scene {
    async fn start(test: &str, issuer: &Issuer) -> Option<Self> {
        let agent = agent().await;
        let entry = json!({ "Kind": "service-defaults", "Name": "api", "Protocol": "http" });
        agent.put_config_entry(&entry).expect("an entry");
        let app = Application::start().await;
        let keys = KeyServer::start(Answer::Keys(issuer.keys()), None).await;
        let uri = format!("http://{}/keys", keys.address);
        provide(&agent, &uri, json!({}));
        guard(&agent);
        let mut settings = settings("api");
        settings["jwks"] = json!([{ "uri": uri, "cluster": "keys" }]);
        let plan = Plan::new(&agent, "api")
            .workers(2)
            .cluster(cluster("app", app.address))
            .cluster(cluster("keys", keys.address));
        let (plan, address) = plan.http(&Plugin::new(settings));
        let envoy = plan.start(test)?;
        let web = client(&agent, "web", address);
        Some(Self {
            agent,
            app,
            keys,
            web,
            envoy,
        })
    }

    fn uri(&self) -> String {
        format!("http://{}/keys", self.keys.address)
    }

    fn last(&self) -> Asked {
        self.app.asked().pop().expect("a request")
    }
}

async fn ask(client: &Client, path: &str, headers: &[(&str, &str)]) -> StatusCode {
    let mut connection = client.http1().await;
    let mut request = Request::get(path).header("host", "api");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(empty()).expect("a request");
    send(&mut connection, request).await.status()
}

async fn with_token(client: &Client, token: &str) -> StatusCode {
    let bearer = format!("Bearer {token}");
    ask(client, "/a", &[("authorization", &bearer)]).await
}

/// Waits until several connections in a row, which go to either worker, have this status.
async fn becomes(client: &Client, token: &str, status: StatusCode) {
    eventually("tokens are judged so", async || {
        for _ in 0..8 {
            if with_token(client, token).await != status {
                return false;
            }
        }
        true
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_what_asks_for_one_and_keys_rotate() {
    let (old, new) = (Issuer::new("one"), Issuer::new("two"));
    let test = "a_token_opens_what_asks_for_one_and_keys_rotate";
    let Some(scene) = Scene::start(test, &old).await else {
        return;
    };
    let web = &scene.web;
    let token = old.token(600, "admin");
    becomes(web, &token, StatusCode::OK).await;
    for (what, bad) in old.bad("admin") {
        assert_eq!(with_token(web, &bad).await, StatusCode::FORBIDDEN, "{what}");
    }
    assert_eq!(get(web, "/free/a").await, StatusCode::OK);
    assert_eq!(get(web, "/refused").await, StatusCode::FORBIDDEN);
    scene
        .envoy
        .logged("http 403 portcullis[jwt-not-satisfied] deny jwt-not-satisfied /refused");

    // A token is used up, in a header or in the query.
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("x-other", "stays")];
    assert_eq!(ask(web, "/b", &headers).await, StatusCode::OK);
    let asked = scene.last();
    assert!(!asked.headers.contains_key("authorization"));
    assert_eq!(asked.headers["x-other"], "stays");
    let path = format!("/c?a=1&access_token={token}&b=2");
    assert_eq!(ask(web, &path, &[]).await, StatusCode::OK);
    assert_eq!(scene.last().uri, "/c?a=1&b=2");
    let path = format!("/c?access_token={token}");
    assert_eq!(ask(web, &path, &[]).await, StatusCode::OK);
    assert_eq!(scene.last().uri, "/c");
    // Two are none.
    let pair = [("authorization", bearer.as_str()); 2];
    assert_eq!(ask(web, "/a", &pair).await, StatusCode::FORBIDDEN);
    let path = format!("/d?access_token={token}");
    assert_eq!(ask(web, &path, &headers).await, StatusCode::FORBIDDEN);

    // Whatever the server says, the last good keys stay.
    let elsewhere = KeyServer::start(Answer::Keys(new.keys()), None).await;
    let told = |what: &str| scene.envoy.log().matches(what).count();
    let from = format!("keys of the provider `okta` from `{}`: ", scene.uri());
    let good = format!("{from}good again");
    for answer in [
        Answer::Status(500),
        Answer::Redirect(format!("http://{}/keys", elsewhere.address)),
        Answer::Garbage,
        Answer::Huge { with_length: false },
        Answer::Huge { with_length: true },
        Answer::Compressed(new.keys()),
        Answer::Silent,
    ] {
        let (what, before) = (format!("{answer:.60?}"), told(&from));
        scene.keys.answers(answer);
        eventually(&what, async || told(&from) > before).await;
        assert_eq!(with_token(web, &token).await, StatusCode::OK, "{what}");
        let before = told(&good);
        scene.keys.answers(Answer::Keys(old.keys()));
        eventually(&good, async || told(&good) > before).await;
    }
    assert_eq!(elsewhere.asked(), 0, "redirects are not followed");
    scene.keys.answers(Answer::Keys(new.keys()));
    becomes(web, &new.token(600, "admin"), StatusCode::OK).await;
    becomes(web, &token, StatusCode::FORBIDDEN).await;
    assert!(!scene.envoy.log().contains(&token), "no token in the log");
    is_sound(&scene.envoy);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_gets_what_the_provider_says_and_nothing_forged() {
    let issuer = Issuer::new("one");
    let test = "an_application_gets_what_the_provider_says_and_nothing_forged";
    let Some(scene) = Scene::start(test, &issuer).await else {
        return;
    };
    let (web, token) = (&scene.web, issuer.token(600, "admin"));
    let forwarding = json!({ "Forwarding": { "HeaderName": "X-Claims" }, "Locations": [
        { "Header": { "Name": "X-Token", "Forward": true } },
        { "Cookie": { "Name": "session" } }] });
    provide(&scene.agent, &scene.uri(), forwarding);
    let forged = [
        ("x-token", token.as_str()),
        ("x-claims", "forged"),
        ("X-Claims", "too"),
    ];
    eventually("another place of the token", async || {
        ask(web, "/b", &forged).await == StatusCode::OK
    })
    .await;
    let asked = scene.last();
    let claims: Vec<_> = asked.headers.get_all("x-claims").iter().collect();
    assert_eq!(claims, [token.split('.').nth(1).expect("a payload")]);
    assert_eq!(asked.headers["x-token"], token.as_str());
    let cookie = format!("a=b; session={token}");
    eventually("every worker knows it", async || {
        ask(web, "/b", &[("cookie", &cookie)]).await == StatusCode::OK
    })
    .await;
    assert_eq!(
        scene.last().headers["cookie"],
        cookie.as_str(),
        "cookies stay"
    );
    assert_eq!(with_token(web, &token).await, StatusCode::FORBIDDEN);
    // Where no token is asked for, nobody says what was in one.
    let forged = [("x-claims", "forged")];
    assert_eq!(ask(web, "/free/x", &forged).await, StatusCode::OK);
    assert!(!scene.last().headers.contains_key("x-claims"));

    // A URI without a cluster is not asked, and the log says which.
    provide(&scene.agent, "http://127.0.0.1:1/other", json!({}));
    becomes(web, &token, StatusCode::FORBIDDEN).await;
    let told = "keys of the provider `okta` from `http://127.0.0.1:1/other`: no cluster is named for this URI";
    eventually("it is told", async || scene.envoy.log().contains(told)).await;
    provide(&scene.agent, &scene.uri(), json!({}));
    becomes(web, &token, StatusCode::OK).await;
    is_sound(&scene.envoy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_token_that_let_it_in() {
    let issuer = Issuer::new("one");
    let test = "a_stream_ends_with_the_token_that_let_it_in";
    let Some(scene) = Scene::start(test, &issuer).await else {
        return;
    };
    let long = issuer.token(600, "admin");
    becomes(&scene.web, &long, StatusCode::OK).await;
    let mut two = scene.web.http2().await;
    let mut stream = async |token: &str| {
        let request =
            Request::get("https://api/live").header("authorization", format!("Bearer {token}"));
        let request = request.body(empty()).expect("a request");
        let answer = within(two.send_request(request)).await.expect("an answer");
        let is_open = answer.status() == StatusCode::OK;
        let mut body = answer.into_body();
        if is_open {
            let first = within(body.frame()).await.expect("a frame");
            assert!(first.is_ok());
        }
        is_open.then_some(body)
    };
    let mut stays = stream(&long).await.expect("it is allowed");
    // It has ended, and is good for the rest of the skew.
    // Ten seconds of the provider's 30 are left, on a slow machine none.
    let mut goes = None;
    for _ in 0..20 {
        goes = stream(&issuer.token(-20, "admin")).await;
        if goes.is_some() {
            break;
        }
    }
    let mut goes = goes.expect("it is good for a while");
    let end = within(goes.frame()).await.expect("not a whole body");
    assert!(end.is_err(), "{end:?}");
    let stat = "wasmcustom.portcullis.api.closed.jwt-not-satisfied";
    assert_eq!(scene.envoy.stat_reaches(stat, 1), 1);
    let next = tokio::select! {
        biased;
        next = stays.frame() => next,
        () = std::future::ready(()) => None,
    };
    assert!(next.is_none(), "{next:?}");
    is_sound(&scene.envoy);
}

/// `portcullis sds -relay` of `api`, who may ask this server for keys.
fn relay(agent: &DevAgent, socket: &Path, keys: &KeyServer) -> Proxy {
    let mut run = program::portcullis(["sds", "-service", "api", "-relay"]);
    run.arg(format!("-listen=unix:{}", socket.display()))
        .arg(format!("-jwks-allow=http://{}", keys.address))
        .env("CONSUL_HTTP_ADDR", agent.address().to_string());
    tokio::task::block_in_place(|| {
        let relay = Proxy::spawn(run);
        relay.logs("ready: ");
        relay
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_fetches_keys_for_a_filter_without_clusters() {
    let test = "the_relay_fetches_keys_for_a_filter_without_clusters";
    let (old, new) = (Issuer::new("one"), Issuer::new("two"));
    let agent = agent().await;
    let entry = json!({ "Kind": "service-defaults", "Name": "api", "Protocol": "http" });
    agent.put_config_entry(&entry).expect("an entry");
    let app = Application::start().await;
    let keys = KeyServer::start(Answer::Keys(old.keys()), None).await;
    provide(&agent, &format!("http://{}/keys", keys.address), json!({}));
    guard(&agent);
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("sds.sock");
    let relay = relay(&agent, &socket, &keys);
    let plan = Plan::new(&agent, "api")
        .cluster(cluster("app", app.address))
        .cluster(envoy_process::grpc_cluster("relay", &socket));
    let settings = json!({ "service": "api", "agent": { "cluster": "relay", "jwks": true } });
    let (plan, address) = plan.http(&Plugin::new(settings));
    let Some(envoy) = plan.start(test) else {
        return;
    };
    let web = client(&agent, "web", address);
    let token = old.token(600, "admin");
    becomes(&web, &token, StatusCode::OK).await;
    keys.answers(Answer::Keys(new.keys()));
    becomes(&web, &new.token(600, "admin"), StatusCode::OK).await;
    becomes(&web, &token, StatusCode::FORBIDDEN).await;
    // Who may not be asked is not, and Envoy's log has the remedy.
    provide(&agent, "http://127.0.0.1:1/keys", json!({}));
    let told = "by the relay: the relay answers 403: http://127.0.0.1:1/keys: `http://127.0.0.1:1` may not be asked for key sets: allow it with";
    eventually("it is told", async || envoy.log().contains(told)).await;
    becomes(&web, &new.token(600, "admin"), StatusCode::FORBIDDEN).await;
    drop(relay);
    is_sound(&envoy);
}

/// What `portcullis envoy bootstrap -jwks` writes: keys over TLS by Envoy's own clusters, all
/// others by the relay, and none from a server that cannot prove itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_as_written_fetches_keys_both_ways() {
    let test = "a_configuration_as_written_fetches_keys_both_ways";
    let Some(envoy) = envoy_process::program(test) else {
        return;
    };
    let agent = agent().await;
    let entry = json!({ "Kind": "service-defaults", "Name": "api", "Protocol": "http" });
    agent.put_config_entry(&entry).expect("an entry");
    let [known, relayed, false_one] = ["known", "relayed", "false"].map(Issuer::new);
    let (ca, other) = (TestCa::new("keys"), TestCa::new("keys"));
    let server = KeyServer::start(Answer::Keys(known.keys()), Some(&ca)).await;
    let impostor = KeyServer::start(Answer::Keys(false_one.keys()), Some(&other)).await;
    let plain = KeyServer::start(Answer::Keys(relayed.keys()), None).await;
    let behind_tls =
        |server: &KeyServer| format!("https://localhost:{}/keys", server.address.port());
    let app = Application::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, roots) = (folder.path().join("sds.sock"), folder.path().join("ca.pem"));
    std::fs::write(&roots, ca.pem()).expect("it is written");
    let _relay = relay(&agent, &socket, &plain);
    provide(&agent, &behind_tls(&server), json!({}));
    guard(&agent);
    let [inbound, admin] = ports::free::<2>();
    let mut command = program::portcullis(["envoy", "bootstrap", "-service=api"]);
    command
        .arg(format!("-listen=127.0.0.1:{inbound}"))
        .arg(format!("-service-addr={}", app.address))
        .arg(format!("-filter={}", components::envoy_filter().display()))
        .arg(format!("-sds=unix:{}", socket.display()))
        .arg(format!("-envoy-admin=127.0.0.1:{admin}"))
        .arg(format!("-jwks={}", behind_tls(&server)))
        .arg(format!("-jwks={}", behind_tls(&impostor)))
        .arg(format!("-jwks-ca-file={}", roots.display()))
        .env("CONSUL_HTTP_ADDR", agent.address().to_string());
    let envoy = tokio::task::block_in_place(|| {
        let said = program::run(&mut command);
        assert_eq!(said.code, Some(0), "{}", said.err);
        envoy_process::Envoy::start_with(&envoy, &said.out, "yaml", admin, &[])
    });
    let web = client(&agent, "web", ([127, 0, 0, 1], inbound).into());
    let [known, relayed, false_one] =
        [known, relayed, false_one].map(|issuer| issuer.token(600, "admin"));

    becomes(&web, &known, StatusCode::OK).await;
    assert_eq!(with_token(&web, &relayed).await, StatusCode::FORBIDDEN);
    assert!(server.asked() > 0);
    provide(&agent, &format!("http://{}/keys", plain.address), json!({}));
    becomes(&web, &relayed, StatusCode::OK).await;
    assert_eq!(with_token(&web, &known).await, StatusCode::FORBIDDEN);
    provide(&agent, &behind_tls(&impostor), json!({}));
    let told = format!(
        "keys of the provider `okta` from `{}`: ",
        behind_tls(&impostor)
    );
    eventually("it is told", async || envoy.log().contains(&told)).await;
    becomes(&web, &relayed, StatusCode::FORBIDDEN).await;
    assert_eq!(with_token(&web, &false_one).await, StatusCode::FORBIDDEN);
    assert_eq!(impostor.asked(), 0, "no certificate that is trusted");
    assert!(!envoy.log().contains("panicked"), "{}", envoy.log());
}
