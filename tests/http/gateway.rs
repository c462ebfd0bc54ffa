//! Requests through the local mesh gateway, which says in `x-forwarded-client-cert` for which
//! peer's service it speaks; nobody else can say so.

use http::{Request, StatusCode};
use portcullis::proxy::{Application as To, InboundConfig, Limits, Proxy, ProxyConfig};
use portcullis_core::policy::Document;
use portcullis_testkit::TestCa;
use portcullis_tests::api::Api;
use portcullis_tests::stage::{ANY, Stage, eventually, front, within};
use serde_json::{Value, json};

use crate::application::Application;
use crate::client::{Client, empty, send};
use crate::scene::{intentions, speaks};

const BETA: &str = "beta.consul";

/// What it is, who asks, what it says, for what, and how that is answered and why.
type Case<'c> = (&'c str, &'c Client, &'c [&'c str], &'c str, u16, &'c str);

#[tokio::test(flavor = "multi_thread")]
async fn a_peers_service_is_known_behind_the_local_gateway_alone() {
    let stage = Stage::new().await;
    speaks(&stage.agent, "http");
    let may = |path: &str| json!([{ "Action": "allow", "HTTP": { "PathPrefix": path } }]);
    let sources = json!([
        { "Name": "web", "Peer": "beta", "Permissions": may("/peer") },
        { "Name": "web", "Permissions": may("/ours") },
    ]);
    intentions(&stage.agent, sources);
    let application = Application::start().await;
    let mut limits = Limits::default();
    limits.http.debug_header = true;
    let inbound = InboundConfig::new(ANY, To::Tcp(application.address.to_string()));
    let config = ProxyConfig {
        inbound: Some(inbound),
        limits,
        ..ProxyConfig::default()
    };
    let member = stage.member("api").await;
    let policy = member.tls().verifier().policy().clone();
    let clock = member.tls().verifier().clock().clone();
    let proxy = Proxy::start(member, config).unwrap();

    // The gateway's certificate is of a root that the agent does not know, so the document is
    // loaded from here.
    let trust_domain = stage.agent.trust_domain();
    let (ca, beta) = (TestCa::new(&trust_domain), TestCa::new(BETA));
    let roots = {
        let api = Api::new(stage.agent.address(), None);
        let roots = tokio::task::block_in_place(|| api.get("/v1/agent/connect/ca/roots").body);
        let roots: Value = serde_json::from_str(&roots).unwrap();
        let root = roots.pointer("/Roots/0/RootCert").unwrap().clone();
        json!([root, ca.pem()])
    };
    let mesh = json!({
        "trust_domain": trust_domain, "roots": roots, "default_policy": "deny",
        "matching": "strict",
        "peers": { "beta": { "trust_domain": BETA, "roots": [beta.pem()] } },
    });
    let load = || {
        let document = Document {
            name: "mesh".to_owned(),
            body: Some(mesh.to_string().into_bytes()),
            confirmed_at: clock.now(),
        };
        let report = policy.load(vec![document]).expect("it is loaded");
        assert!(report.refused.is_empty(), "{report:?}");
    };
    load();

    let address = front(&proxy);
    let gateway = format!("spiffe://{trust_domain}/gateway/mesh/dc/dc1");
    let gateway = Client::with_leaf(&ca.leaf(&gateway).issue(), address);
    let web = Client::new(&stage.agent, "web", address);
    let stranger = format!("spiffe://{trust_domain}/ns/default/dc/dc1/svc/other");
    let stranger = Client::with_leaf(&ca.leaf(&stranger).issue(), address);
    let element = |service: &str| format!("Hash=00;URI={service}");
    let theirs = beta.service_id("web");
    let peer = element(&theirs);
    let twice = format!("{peer},{peer}");
    let ours = element(&ca.service_id("web"));
    let foreign = element("spiffe://gamma.consul/ns/default/dc/dc1/svc/web");
    let other = element(&beta.service_id("other"));
    let both = [peer.as_str(), peer.as_str()];
    let cases: [Case<'_>; 12] = [
        (
            "a peer's service",
            &gateway,
            &[&peer],
            "/peer/a",
            200,
            "permission",
        ),
        (
            "not this path",
            &gateway,
            &[&peer],
            "/ours",
            403,
            "no-permission-matched",
        ),
        (
            "not this service",
            &gateway,
            &[&other],
            "/peer",
            403,
            "default-policy",
        ),
        (
            "the gateway itself",
            &gateway,
            &[],
            "/peer",
            403,
            "not-a-service",
        ),
        (
            "two elements",
            &gateway,
            &[&twice],
            "/peer",
            403,
            "malformed-identity",
        ),
        (
            "two headers",
            &gateway,
            &both,
            "/peer",
            403,
            "malformed-identity",
        ),
        (
            "a service of ours",
            &gateway,
            &[&ours],
            "/ours",
            403,
            "not-a-service",
        ),
        (
            "no peer",
            &gateway,
            &[&foreign],
            "/peer",
            403,
            "foreign-trust-domain",
        ),
        (
            "nonsense",
            &gateway,
            &["URI"],
            "/peer",
            403,
            "malformed-identity",
        ),
        // Who is no gateway is who it is, whatever it says.
        (
            "our web",
            &web,
            &[&peer],
            "/peer",
            403,
            "no-permission-matched",
        ),
        ("our web", &web, &[&peer], "/ours", 200, "permission"),
        (
            "another",
            &stranger,
            &[&peer],
            "/peer",
            403,
            "default-policy",
        ),
    ];
    for (what, client, said, path, status, code) in cases {
        for named in [false, true] {
            let request = || {
                let mut request = Request::get(path).header("host", "a");
                for said in said {
                    request = request.header("x-forwarded-client-cert", *said);
                }
                if named {
                    // Nobody can have it taken out on the way.
                    request = request.header("connection", "x-forwarded-client-cert");
                }
                request.body(empty()).unwrap()
            };
            // A watcher that loads its own document in between is overruled again.
            eventually(what, async || {
                load();
                let mut one = client.http1().await;
                let answer = send(&mut one, request()).await;
                let told = answer.headers()["x-portcullis-reason"].to_str().unwrap();
                (answer.status().as_u16(), told) == (status, code)
            })
            .await;
        }
    }
    let arrived: Vec<_> = application.asked();
    assert_eq!(arrived.len(), 4, "{arrived:?}");
    // The application is told whose certificate we saw.
    for asked in &arrived[..2] {
        let told = asked.headers["x-forwarded-client-cert"].to_str().unwrap();
        assert!(told.ends_with("/gateway/mesh/dc/dc1"), "{told}");
    }

    // The same over HTTP/2.
    let mut two = gateway.http2().await;
    let request = |path: &str| {
        let request = Request::get(format!("https://a{path}"));
        let request = request.header("x-forwarded-client-cert", &peer);
        request.body(empty()).unwrap()
    };
    load();
    let answer = within(two.send_request(request("/peer"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let answer = within(two.send_request(request("/ours"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
}
