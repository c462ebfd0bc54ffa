//! The client's certificate ends in the middle of what is under way.

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use portcullis::clock::Clock;
use portcullis::member::Member;
use portcullis::proxy::{Application as To, InboundConfig, Proxy, ProxyConfig};
use portcullis::watcher::WatcherConfig;
use portcullis_tests::stage::{ANY, HUNG, Stage, eventually, front, logged_of, within};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::application::Application;
use crate::client::{Body, Client, empty, read_until, send};
use crate::jwt::provider;
use crate::scene::{intentions, permit, speaks};
use crate::tokens::Issuer;

/// A proxy of `api` whose clock is ours.
struct Timed {
    application: Application,
    clock: Clock,
    proxy: Proxy,
}

impl Timed {
    async fn start(stage: &Stage) -> Self {
        let application = Application::start().await;
        let clock = Clock::manual(Clock::system().now());
        let member = Member::start(WatcherConfig {
            clock: clock.clone(),
            max_stale: None,
            ..stage.config("api")
        });
        member.ready(HUNG).await.unwrap();
        let to = To::Tcp(application.address.to_string());
        let config = ProxyConfig {
            inbound: Some(InboundConfig::new(ANY, to)),
            ..ProxyConfig::default()
        };
        let proxy = Proxy::start(member, config).unwrap();
        Self {
            application,
            clock,
            proxy,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_ends_with_the_certificate_of_its_client() {
    let stage = Stage::new().await;
    speaks(&stage.agent, "http");
    permit(
        &stage.agent,
        json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]),
    );
    let Timed {
        application,
        clock,
        proxy,
    } = Timed::start(&stage).await;
    let client = Client::new(&stage.agent, "web", front(&proxy));

    let mut two = client.http2().await;
    let request = |path: &str| {
        Request::get(format!("https://a{path}"))
            .body(empty())
            .unwrap()
    };
    let answer = within(two.send_request(request("/live"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let mut stream = answer.into_body();
    assert!(within(stream.frame()).await.unwrap().is_ok());
    let mut one = client.connect(&[]).await;
    one.write_all(b"GET /live HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let began = read_until(&mut one, |read| read.contains("first")).await;
    assert!(began.starts_with("HTTP/1.1 200"), "{began}");
    // One that waits for its answer, and one that waits for a request.
    let mut waits = client.http1().await;
    let never = Request::get("/never").header("host", "a").body(empty());
    let never = tokio::spawn(async move { send(&mut waits, never.unwrap()).await });
    let mut idle = client.http1().await;
    let hello = || {
        Request::get("/x")
            .header("host", "a")
            .body(empty())
            .unwrap()
    };
    assert_eq!(send(&mut idle, hello()).await.status(), StatusCode::OK);
    eventually("all are under way", async || {
        application.paths().contains(&"/never".to_owned())
    })
    .await;

    let hours = |hours: u64| clock.now().saturating_add_millis(hours * 3_600_000);
    clock.set(hours(71));
    let answer = within(two.send_request(request("/x"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "it is still good");
    let asked = application.paths().len();
    clock.set(hours(2));

    assert!(within(stream.frame()).await.unwrap().is_err(), "a reset");
    let rest = read_until(&mut one, |_| false).await;
    assert!(!rest.contains("\r\n0\r\n\r\n"), "no whole answer: {rest}");
    assert_eq!(within(never).await.unwrap().status(), StatusCode::FORBIDDEN);
    eventually("GOAWAY", async || two.is_closed()).await;
    eventually("the idle one is closed", async || idle.is_closed()).await;
    let line = logged_of(proxy.member(), "certificate-expired").await;
    assert!(line["reason"].contains("has expired"), "{line:?}");
    assert_eq!(application.paths().len(), asked, "nothing more arrived");
    drop(proxy);
}

/// `api` speaks HTTP, and there is a provider `okta` with these keys.
fn provided(stage: &Stage) -> Issuer {
    speaks(&stage.agent, "http");
    let issuer = Issuer::new("k1");
    let keys = json!({ "Local": { "JWKS": issuer.inline() } });
    let entry = provider(keys, json!({}));
    stage.agent.put_config_entry(&entry).expect("a provider");
    issuer
}

/// Permissions for everything, with this requirement of a token.
fn all(jwt: Value) -> Value {
    json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" }, "JWT": jwt }])
}

fn request(path: &str, token: &str) -> Request<Body> {
    Request::get(format!("https://a{path}"))
        .header("authorization", format!("Bearer {token}"))
        .body(empty())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_ends_with_the_token_that_let_it_in() {
    let stage = Stage::new().await;
    let issuer = provided(&stage);
    let okta = json!({ "Providers": [{ "Name": "okta" }] });
    intentions(
        &stage.agent,
        json!([
            { "Name": "web", "Permissions": all(okta) },
            { "Name": "free", "Permissions": all(Value::Null) },
        ]),
    );
    let Timed {
        application: _application,
        clock,
        proxy,
    } = Timed::start(&stage).await;
    let web = Client::new(&stage.agent, "web", front(&proxy));
    let free = Client::new(&stage.agent, "free", front(&proxy));
    let (short, long) = (issuer.token(600, "x"), issuer.token(3_000, "x"));

    let mut two = web.http2().await;
    let mut others = free.http2().await;
    let mut streams = Vec::new();
    for (client, token) in [(&web, &short), (&web, &long), (&free, &short)] {
        let sender = if std::ptr::eq(client, &web) {
            &mut two
        } else {
            &mut others
        };
        let answer = within(sender.send_request(request("/live", token)))
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let mut stream = answer.into_body();
        assert!(within(stream.frame()).await.unwrap().is_ok());
        streams.push(stream);
    }
    let mut one = web.connect(&[]).await;
    let head = format!("GET /live?access_token={short} HTTP/1.1\r\nhost: a\r\n\r\n");
    one.write_all(head.as_bytes()).await.unwrap();
    let began = read_until(&mut one, |read| read.contains("first")).await;
    assert!(began.starts_with("HTTP/1.1 200"), "{began}");

    // Within the skew the token is still good.
    let start = clock.now();
    let after = |seconds: u64| start.saturating_add_millis(seconds * 1_000);
    clock.set(after(630));
    let answer = within(two.send_request(request("/x", &short)))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(proxy.stats().cut, 0);

    clock.set(after(662));
    assert!(
        within(streams[0].frame()).await.unwrap().is_err(),
        "a reset"
    );
    let rest = read_until(&mut one, |_| false).await;
    assert!(!rest.contains("\r\n0\r\n\r\n"), "no whole answer: {rest}");
    let answer = within(two.send_request(request("/x", &short)))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    // What another token let in, or none, goes on, and so does the connection.
    let answer = within(two.send_request(request("/x", &long)))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    for stream in &mut streams[1..] {
        let next = tokio::select! {
            biased;
            next = stream.frame() => next,
            () = std::future::ready(()) => None,
        };
        assert!(next.is_none(), "{next:?}");
    }
    let _ = logged_of(proxy.member(), "jwt-not-satisfied").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_comes_later_ends_what_is_under_way_with_its_token() {
    let stage = Stage::new().await;
    let issuer = provided(&stage);
    let permitted = |jwt: Value| {
        let web = json!([{ "Name": "web", "Permissions": all(jwt) }]);
        intentions(&stage.agent, web);
    };
    // No rule looks at tokens.
    permitted(Value::Null);
    let Timed {
        application: _application,
        clock,
        proxy,
    } = Timed::start(&stage).await;
    let mut two = Client::new(&stage.agent, "web", front(&proxy))
        .http2()
        .await;
    let token = issuer.token(600, "x");
    let answer = within(two.send_request(request("/live", &token))).await;
    let mut stream = answer.unwrap().into_body();
    assert!(within(stream.frame()).await.unwrap().is_ok());

    permitted(json!({ "Providers": [{ "Name": "okta" }] }));
    let mut second = two.clone();
    eventually("the rule is in force", async || {
        let answer = within(second.send_request(request("/x", "none"))).await;
        answer.unwrap().status() == StatusCode::FORBIDDEN
    })
    .await;
    assert_eq!(proxy.stats().cut, 0, "its token is good");
    clock.set(clock.now().saturating_add_millis(662_000));
    assert!(within(stream.frame()).await.unwrap().is_err(), "a reset");
}
