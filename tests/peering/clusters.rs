//! Two real Consul clusters, really peered.

use std::time::Duration;

use http::{Request, StatusCode};
use portcullis::proxy::{Application as To, InboundConfig, Limits, Proxy, ProxyConfig};
use portcullis::watcher::WatcherConfig;
use portcullis_testkit::TestCa;
use portcullis_tests::api::Api;
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::process;
use portcullis_tests::stage::{
    ANY, HUNG, capture, client, eventually, front, logged_of, policy, within,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::application::Application;
use crate::client::{Client, empty, send};
use crate::scene::{Database, is_cut, open, reaches, refused};

/// What of the local cluster the peer is called.
pub(crate) const BETA: &str = "beta-peer";
pub(crate) const SOON: Duration = Duration::from_secs(90);

/// The service `web` is exported by `beta`.
pub(crate) struct Clusters {
    pub(crate) alpha: Consul,
    pub(crate) beta: Consul,
    /// The authority of `alpha`, which can issue what its agent does not: gateways.
    pub(crate) alpha_ca: TestCa,
    pub(crate) beta_ca: TestCa,
}

impl Clusters {
    pub(crate) fn start() -> Option<Self> {
        let start = |datacenter: &'static str| {
            move || {
                let config =
                    format!("datacenter = \"{datacenter}\"\ndefault_intention_policy = \"deny\"");
                let options = Options::new().with_peering().with_config(&config);
                Consul::start("peering", options)
            }
        };
        let other = std::thread::spawn(start("beta"));
        let alpha = start("alpha")();
        let beta = other.join().expect("it starts");
        let (alpha, beta) = (alpha?, beta?);
        let (alpha_ca, beta_ca) = (with_ca(&alpha.api()), with_ca(&beta.api()));
        let clusters = Self {
            alpha,
            beta,
            alpha_ca,
            beta_ca,
        };
        clusters.peer();
        Some(clusters)
    }

    fn peer(&self) {
        let (alpha, beta) = (self.alpha.api(), self.beta.api());
        let token = alpha.post("/v1/peering/token", &json!({ "PeerName": BETA }));
        let token = token.good().json()["PeeringToken"].clone();
        // The other side may have no leader for peerings yet.
        process::eventually("the peering is established", SOON, || {
            let body = json!({ "PeerName": "alpha-peer", "PeeringToken": token });
            let said = beta.post("/v1/peering/establish", &body);
            (said.status == 200).then_some(())
        });
        let exported = json!({
            "Kind": "exported-services", "Name": "default",
            "Services": [{ "Name": "web", "Consumers": [{ "Peer": "alpha-peer" }] }],
        });
        let _ = beta.put("/v1/config", &exported).good();
        process::eventually("the peering is active", SOON, || {
            let peering = alpha.get(&format!("/v1/peering/{BETA}")).json();
            let has_roots = peering["PeerCAPems"]
                .as_array()
                .is_some_and(|pems| !pems.is_empty());
            (peering["State"] == "ACTIVE" && has_roots).then_some(())
        });
    }
}

/// Gives a cluster an authority whose key we have.
fn with_ca(api: &Api) -> TestCa {
    let roots = api.get("/v1/agent/connect/ca/roots").good().json();
    let ca = TestCa::new(roots["TrustDomain"].as_str().expect("a trust domain"));
    let config = json!({
        "Provider": "consul",
        "Config": {
            "PrivateKey": ca.key_pem(), "RootCert": ca.pem(),
            "LeafCertTTL": "72h", "IntermediateCertTTL": "8760h",
        },
    });
    let _ = api.put("/v1/connect/ca/configuration", &config).good();
    ca
}

pub(crate) fn allow(api: &Api, destination: &str, sources: Value) {
    let entry = json!({ "Kind": "service-intentions", "Name": destination, "Sources": sources });
    let _ = api.put("/v1/config", &entry).good();
}

/// Makes `api` of this cluster speak HTTP, and lets `web` of the peer ask below `/peer`.
pub(crate) fn allow_requests(cluster: &Consul) {
    let api = cluster.api();
    let entry = json!({ "Kind": "service-defaults", "Name": "api", "Protocol": "http" });
    let _ = api.put("/v1/config", &entry).good();
    let may = json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/peer" } }]);
    let sources = json!([{ "Name": "web", "Peer": BETA, "Permissions": may }]);
    allow(&api, "api", sources);
}

/// The certificate that the agent itself gives to `service`, once it is of that root.
pub(crate) fn leaf(
    consul: &Consul,
    service: &str,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let path = format!("/v1/agent/connect/ca/leaf/{service}");
    let leaf = consul.api().get(&path).good().json();
    let text = |field: &str| leaf[field].as_str().expect("PEM").to_owned();
    let chain = CertificateDer::pem_slice_iter(text("CertPEM").as_bytes())
        .collect::<Result<_, _>>()
        .expect("certificates");
    let key = PrivateKeyDer::from_pem_slice(text("PrivateKeyPEM").as_bytes()).expect("a key");
    (chain, key)
}

fn settings(consul: &Consul, service: &str) -> WatcherConfig {
    let agent = client(&format!("http://{}", consul.address()));
    WatcherConfig {
        leaf_spread: Duration::ZERO,
        ..WatcherConfig::new(agent, policy(), service)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_peered_cluster_are_judged_by_their_own_roots() {
    let started = tokio::task::block_in_place(Clusters::start);
    let Some(clusters) = started else {
        return;
    };
    capture();
    let (alpha_ca, beta_ca) = (&clusters.alpha_ca, &clusters.beta_ca);
    let api = clusters.alpha.api();
    let blocking = |work: &dyn Fn()| tokio::task::block_in_place(work);
    let source = |action: &str| json!([{ "Name": "web", "Peer": BETA, "Action": action }]);
    blocking(&|| allow(&api, "db", source("allow")));
    let db = Database::start(settings(&clusters.alpha, "db")).await;
    db.knows(BETA).await;

    // A certificate that the agent of the peer itself gave out.
    let real = tokio::task::block_in_place(|| leaf(&clusters.beta, "web"));
    let web = Client::with(real.0, real.1, front(&db.proxy));
    drop(reaches("web of the peer", &web).await);
    let line = logged_of(db.proxy.member(), "intention").await;
    let real = format!(
        "spiffe://{}/ns/default/dc/beta/svc/web",
        beta_ca.trust_domain()
    );
    assert_eq!(line["src.identity"], real);
    let mut kept = reaches("web of the peer", &web).await;
    // Somebody else of the peer, one of ours of the same name, and a service of no cluster.
    assert!(
        open(&db.client(beta_ca, &beta_ca.service_id("other")))
            .await
            .is_none()
    );
    assert!(
        open(&db.client(alpha_ca, &alpha_ca.service_id("web")))
            .await
            .is_none()
    );
    let gamma = TestCa::new("gamma.consul");
    assert!(
        open(&db.client(&gamma, &gamma.service_id("web")))
            .await
            .is_none()
    );
    // Whoever claims another cluster's name is judged by that cluster's roots.
    assert!(
        open(&db.client(beta_ca, &alpha_ca.service_id("web")))
            .await
            .is_none()
    );
    assert!(
        open(&db.client(alpha_ca, &beta_ca.service_id("web")))
            .await
            .is_none()
    );
    assert_eq!(db.echo.seen(), 2, "nobody else reached the application");

    http(&clusters).await;

    // The peer's authority is replaced: the bundle follows, with both roots.
    let rotate = json!({
        "Provider": "consul",
        "Config": { "PrivateKeyType": "ec", "PrivateKeyBits": 384,
                    "LeafCertTTL": "72h", "IntermediateCertTTL": "8760h" },
    });
    blocking(&|| {
        drop(
            clusters
                .beta
                .api()
                .put("/v1/connect/ca/configuration", &rotate)
                .good(),
        )
    });
    eventually("the bundle has both roots", async || {
        db.peer(BETA).is_some_and(|peer| peer.roots.len() >= 2)
    })
    .await;
    let fresh = tokio::task::block_in_place(|| leaf(&clusters.beta, "other-web"));
    let fresh = Client::with(fresh.0, fresh.1, front(&db.proxy));
    blocking(&|| {
        let sources = json!([
            { "Name": "web", "Peer": BETA, "Action": "allow" },
            { "Name": "other-web", "Peer": BETA, "Action": "allow" },
        ]);
        allow(&api, "db", sources);
    });
    drop(reaches("a leaf of the new root", &fresh).await);
    drop(open(&web).await.expect("a leaf of the root before"));

    // A denial ends what is open.
    blocking(&|| allow(&api, "db", source("deny")));
    is_cut(&mut kept).await;
    refused("denied", &web).await;
    blocking(&|| allow(&api, "db", source("allow")));
    let mut kept = reaches("allowed again", &web).await;

    // The peer leaves. What it had as roots stays listed for ever, but is worth nothing.
    blocking(&|| drop(clusters.beta.api().delete("/v1/peering/alpha-peer").good()));
    blocking(&|| {
        process::eventually("Consul says that it has ended", SOON, || {
            let peering = api.get(&format!("/v1/peering/{BETA}")).json();
            (peering["State"] == "TERMINATED").then_some(())
        });
    });
    db.lacks(BETA, "TERMINATED").await;
    is_cut(&mut kept).await;
    refused("the peering has ended", &web).await;
}

/// Requests of the peer come through the local mesh gateway.
async fn http(clusters: &Clusters) {
    let (alpha_ca, beta_ca) = (&clusters.alpha_ca, &clusters.beta_ca);
    tokio::task::block_in_place(|| allow_requests(&clusters.alpha));
    let member = portcullis::member::Member::start(settings(&clusters.alpha, "api"));
    member.ready(HUNG).await.expect("ready");
    let application = Application::start().await;
    let mut limits = Limits::default();
    limits.http.debug_header = true;
    let config = ProxyConfig {
        inbound: Some(InboundConfig::new(
            ANY,
            To::Tcp(application.address.to_string()),
        )),
        limits,
        ..ProxyConfig::default()
    };
    let proxy = Proxy::start(member, config).expect("the proxy starts");
    within(proxy.ready()).await;
    let address = front(&proxy);
    let gateway = format!("spiffe://{}/gateway/mesh/dc/alpha", alpha_ca.trust_domain());
    let gateway = Client::with_leaf(&alpha_ca.leaf(&gateway).issue(), address);
    let foreign = format!("spiffe://{}/gateway/mesh/dc/beta", beta_ca.trust_domain());
    let foreign = Client::with_leaf(&beta_ca.leaf(&foreign).issue(), address);
    let own = Client::with_leaf(&alpha_ca.service("web").issue(), address);
    let (web, other) = (beta_ca.service_id("web"), beta_ca.service_id("other"));
    let local = alpha_ca.service_id("web");
    for (what, client, says, path, status, code) in [
        (
            "web of the peer",
            &gateway,
            &web,
            "/peer/a",
            200,
            "permission",
        ),
        (
            "another path",
            &gateway,
            &web,
            "/else",
            403,
            "no-permission-matched",
        ),
        (
            "another service",
            &gateway,
            &other,
            "/peer",
            403,
            "default-policy",
        ),
        (
            "one of ours",
            &gateway,
            &local,
            "/peer",
            403,
            "not-a-service",
        ),
        (
            "the peer's own gateway",
            &foreign,
            &web,
            "/peer",
            403,
            "not-a-service",
        ),
        ("no gateway", &own, &web, "/peer", 403, "default-policy"),
    ] {
        let request = Request::get(path)
            .header("host", "a")
            .header("x-forwarded-client-cert", format!("Hash=00;URI={says}"))
            .body(empty())
            .expect("a request");
        let mut one = client.http1().await;
        let answer = send(&mut one, request).await;
        let told = answer.headers()["x-portcullis-reason"]
            .to_str()
            .expect("text");
        assert_eq!((answer.status().as_u16(), told), (status, code), "{what}");
        assert_eq!(answer.status() == StatusCode::OK, code == "permission");
    }
    assert_eq!(application.asked().len(), 1);
}
