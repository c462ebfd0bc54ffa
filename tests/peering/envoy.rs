//! Callers of a really peered cluster at a real Envoy with the filter: verified by Envoy with
//! the bundles of `portcullis sds`, verified by the filter, and named by a mesh gateway. The
//! filter asks by way of the relay.

use std::net::SocketAddr;
use std::path::Path;

use http::Request;
use portcullis_testkit::TestCa;
use portcullis_tests::consul::Consul;
use portcullis_tests::echo::Echo;
use portcullis_tests::envoy_process::{self as envoy, Envoy};
use portcullis_tests::proxy::Proxy;
use portcullis_tests::stage::eventually;
use portcullis_tests::{components, ports, process, program};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use crate::application::Application;
use crate::client::{Client, empty, send};
use crate::clusters::{BETA, Clusters, SOON, allow, allow_requests, leaf};
use crate::scene::{is_cut, open, reaches, refused};

const STATS: &str = "wasmcustom.portcullis";

/// An Envoy in front of a service of `alpha`, with what serves it.
struct Door {
    envoy: Envoy,
    address: SocketAddr,
    _sds: Proxy,
    _folder: TempDir,
}

impl Door {
    /// As `portcullis envoy bootstrap -peers` writes it, and `change` leaves it.
    fn open(
        program: &Path,
        consul: &Consul,
        service: &str,
        application: SocketAddr,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = format!("unix:{}", folder.path().join("socket").display());
        let at = consul.address().to_string();
        let mut run = program::portcullis(["sds", "-service", service, "-relay"]);
        run.arg(format!("-listen={socket}"))
            .env("CONSUL_HTTP_ADDR", &at);
        let sds = Proxy::spawn(run);
        sds.logs("ready: ");
        let [inbound, admin] = ports::free::<2>();
        let mut run = program::portcullis(["envoy", "bootstrap", "-peers", "-output=json"]);
        run.args(["-service", service])
            .arg(format!("-listen=127.0.0.1:{inbound}"))
            .arg(format!("-service-addr={application}"))
            .arg(format!("-filter={}", components::envoy_filter().display()))
            .arg(format!("-sds={socket}"))
            .arg(format!("-envoy-admin=127.0.0.1:{admin}"))
            .env("CONSUL_HTTP_ADDR", &at);
        let said = program::run(&mut run);
        assert_eq!(said.code, Some(0), "{}", said.err);
        let mut config: Value = serde_json::from_str(&said.out).expect("JSON");
        change(&mut config);
        Self {
            envoy: Envoy::start_with(program, &config.to_string(), "json", admin, &[]),
            address: ([127, 0, 0, 1], inbound).into(),
            _sds: sds,
            _folder: folder,
        }
    }

    fn client(&self, ca: &TestCa, uri: &str) -> Client {
        Client::with_leaf(&ca.leaf(uri).issue(), self.address)
    }
}

/// Envoy takes every certificate, and the filter verifies it.
fn by_filter(config: &mut Value) {
    let chain = &mut config["static_resources"]["listeners"][0]["filter_chains"][0];
    let tls = &mut chain["transport_socket"]["typed_config"]["common_tls_context"];
    let tls = tls.as_object_mut().expect("an object");
    let mut roots = tls
        .remove("validation_context_sds_secret_config")
        .expect("it is there");
    assert_eq!(roots["name"], "bundles");
    roots["name"] = json!("roots");
    let any = json!({
        "default_validation_context": { "trust_chain_verification": "ACCEPT_UNTRUSTED" },
        "validation_context_sds_secret_config": roots,
    });
    tls.insert("combined_validation_context".to_owned(), any);
    let plugin = &mut chain["filters"][0]["typed_config"]["config"]["configuration"]["value"];
    let text = plugin.as_str().expect("JSON in a string");
    let mut settings: Value = serde_json::from_str(text).expect("JSON");
    settings["peer_verification"] = json!("filter");
    *plugin = json!(settings.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_lets_in_whom_the_intentions_of_a_peered_cluster_name() {
    let name = "envoy_lets_in_whom_the_intentions_of_a_peered_cluster_name";
    let started = tokio::task::block_in_place(|| {
        let program = envoy::program(name)?;
        Some((program, Clusters::start()?))
    });
    let Some((program, clusters)) = started else {
        return;
    };
    let (alpha_ca, beta_ca) = (&clusters.alpha_ca, &clusters.beta_ca);
    let api = clusters.alpha.api();
    let blocking = |work: &dyn Fn()| tokio::task::block_in_place(work);
    // `local` is ours, `web` theirs.
    let rules = |action: &str| {
        json!([
            { "Name": "web", "Peer": BETA, "Action": action },
            { "Name": "local", "Action": "allow" },
        ])
    };
    blocking(&|| allow(&api, "db", rules("allow")));
    let echo = Echo::start();
    let application = echo.address();
    let doors = tokio::task::block_in_place(|| {
        let open = |change: fn(&mut Value)| {
            Door::open(&program, &clusters.alpha, "db", application, change)
        };
        [open(|_| {}), open(by_filter)]
    });
    let real = tokio::task::block_in_place(|| leaf(&clusters.beta, "web"));
    let web = |door: &Door| Client::with(real.0.clone(), real.1.clone_key(), door.address);
    let gamma = TestCa::new("gamma.consul");
    let mut kept = Vec::new();
    for (door, verified_by) in doors.iter().zip(["envoy", "filter"]) {
        // A certificate that the agent of the peer itself gave out, and one of ours.
        kept.push(reaches("web of the peer", &web(door)).await);
        drop(
            reaches(
                "local",
                &door.client(alpha_ca, &alpha_ca.service_id("local")),
            )
            .await,
        );
        let received = echo.received();
        for (what, ca, uri) in [
            (
                "somebody else of the peer",
                beta_ca,
                beta_ca.service_id("other"),
            ),
            (
                "ours of the same name",
                alpha_ca,
                alpha_ca.service_id("web"),
            ),
            ("theirs of our name", beta_ca, beta_ca.service_id("local")),
            ("no cluster's", &gamma, gamma.service_id("web")),
            // Whoever claims another cluster's name is judged by that cluster's roots.
            ("ours by their root", beta_ca, alpha_ca.service_id("local")),
            ("theirs by our root", alpha_ca, beta_ca.service_id("web")),
            ("theirs by nobody's", &gamma, beta_ca.service_id("web")),
            ("ours by nobody's", &gamma, alpha_ca.service_id("local")),
        ] {
            let client = door.client(ca, &uri);
            for _ in 0..3 {
                assert!(open(&client).await.is_none(), "{verified_by}: {what}");
            }
        }
        assert_eq!(echo.received(), received, "not one byte of who is refused");
        tokio::task::block_in_place(|| {
            let refused = format!("{STATS}.db.denied.");
            door.envoy.reaches(&format!("{refused}default-policy"), 9);
            if verified_by == "filter" {
                door.envoy
                    .reaches(&format!("{refused}certificate-refused"), 15);
            } else {
                let stats = door.envoy.stats(".ssl.fail_verify_error");
                let failed: u64 = stats.iter().map(|(_, count)| count).sum();
                assert!(failed >= 15, "{stats:?}");
            }
            assert_eq!(
                door.envoy.stat(&format!("{STATS}.db.peers_without_bundle")),
                0
            );
        });
    }

    // The peer's authority is replaced: certificates of both roots are good.
    let rotate = json!({ "Provider": "consul", "Config": {
        "PrivateKeyType": "ec", "PrivateKeyBits": 384,
        "LeafCertTTL": "72h", "IntermediateCertTTL": "8760h",
    }});
    blocking(&|| {
        let api = clusters.beta.api();
        drop(api.put("/v1/connect/ca/configuration", &rotate).good());
    });
    let fresh = tokio::task::block_in_place(|| {
        process::eventually("the bundle has both roots", SOON, || {
            let peering = clusters.alpha.api().get(&format!("/v1/peering/{BETA}"));
            let roots = peering.json()["PeerCAPems"].as_array()?.len();
            (roots >= 2).then_some(())
        });
        leaf(&clusters.beta, "other-web")
    });
    blocking(&|| {
        let mut rules = rules("allow");
        let more = json!({ "Name": "other-web", "Peer": BETA, "Action": "allow" });
        rules.as_array_mut().expect("a list").push(more);
        allow(&api, "db", rules);
    });
    for door in &doors {
        let fresh = Client::with(fresh.0.clone(), fresh.1.clone_key(), door.address);
        drop(reaches("a leaf of the new root", &fresh).await);
        drop(open(&web(door)).await.expect("a leaf of the root before"));
    }
    for kept in &mut kept {
        kept.write_all(b"more").await.expect("it lives on");
    }

    // A denial ends what is open.
    blocking(&|| allow(&api, "db", rules("deny")));
    for (door, kept) in doors.iter().zip(&mut kept) {
        drained(kept).await;
        refused("denied", &web(door)).await;
    }
    blocking(&|| allow(&api, "db", rules("allow")));
    kept.clear();
    for door in &doors {
        kept.push(reaches("allowed again", &web(door)).await);
    }
    http(&program, &clusters).await;

    // The peer leaves. What it had as roots stays listed for ever, but is worth nothing.
    blocking(&|| drop(clusters.beta.api().delete("/v1/peering/alpha-peer").good()));
    for (door, kept) in doors.iter().zip(&mut kept) {
        is_cut(kept).await;
        refused("the peering has ended", &web(door)).await;
        tokio::task::block_in_place(|| {
            door.envoy.logs(&format!("the peer `{BETA}` has no bundle"));
            door.envoy
                .reaches(&format!("{STATS}.db.peers_without_bundle"), 1);
        });
        drop(
            reaches(
                "local",
                &door.client(alpha_ca, &alpha_ca.service_id("local")),
            )
            .await,
        );
    }
}

/// Reads what was still under way, and waits for the end.
async fn drained(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    use tokio::io::AsyncReadExt as _;
    let mut rest = Vec::new();
    let _ = portcullis_tests::stage::within(stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty() || rest == b"more", "{rest:?}");
}

/// Requests of the peer come through the local mesh gateway.
async fn http(program: &Path, clusters: &Clusters) {
    let (alpha_ca, beta_ca) = (&clusters.alpha_ca, &clusters.beta_ca);
    tokio::task::block_in_place(|| allow_requests(&clusters.alpha));
    let application = Application::start().await;
    // As it is written, and where the header goes through as the gateway has sent it.
    let forwards = |config: &mut Value| {
        let chain = &mut config["static_resources"]["listeners"][0]["filter_chains"][0];
        let manager = &mut chain["filters"][0]["typed_config"];
        assert_eq!(manager["forward_client_cert_details"], "APPEND_FORWARD");
        manager["forward_client_cert_details"] = json!("FORWARD_ONLY");
    };
    let doors = tokio::task::block_in_place(|| {
        let open = |change: &dyn Fn(&mut Value)| {
            Door::open(program, &clusters.alpha, "api", application.address, change)
        };
        [open(&|_| {}), open(&forwards)]
    });
    let gateway = format!("spiffe://{}/gateway/mesh/dc/alpha", alpha_ca.trust_domain());
    let (web, other) = (beta_ca.service_id("web"), beta_ca.service_id("other"));
    let local = alpha_ca.service_id("web");
    let says = |uri: &str| format!("Hash=00;Cert=\"x%20y\";URI={uri}");
    for door in &doors {
        let gateway = door.client(alpha_ca, &gateway);
        let own = door.client(alpha_ca, &local);
        let twice = format!("{},{}", says(&web), says(&web));
        let cases = [
            ("web of the peer", &gateway, says(&web), "/peer/a", 200, ""),
            (
                "another path",
                &gateway,
                says(&web),
                "/else",
                403,
                "no-permission-matched",
            ),
            (
                "another service",
                &gateway,
                says(&other),
                "/peer",
                403,
                "default-policy",
            ),
            (
                "one of ours",
                &gateway,
                says(&local),
                "/peer",
                403,
                "not-a-service",
            ),
            (
                "two clients",
                &gateway,
                twice,
                "/peer",
                403,
                "malformed-identity",
            ),
            (
                "no gateway",
                &own,
                says(&web),
                "/peer",
                403,
                "default-policy",
            ),
        ];
        let ask = async |client: &Client, header: &str, path: &str| {
            let request = Request::get(path)
                .header("host", "a")
                .header("x-forwarded-client-cert", header)
                .body(empty())
                .expect("a request");
            let mut one = client.http1().await;
            send(&mut one, request).await.status().as_u16()
        };
        let (_, client, header, path, _, _) = &cases[0];
        eventually("every worker lets web in", async || {
            for _ in 0..16 {
                if ask(client, header, path).await != 200 {
                    return false;
                }
            }
            true
        })
        .await;
        for (what, client, header, path, status, reason) in &cases {
            let count = |name: &str| tokio::task::block_in_place(|| door.envoy.stat(name));
            let counter = format!("{STATS}.api.denied.{reason}");
            let before = if reason.is_empty() {
                0
            } else {
                count(&counter)
            };
            assert_eq!(ask(client, header, path).await, *status, "{what}");
            if !reason.is_empty() {
                tokio::task::block_in_place(|| door.envoy.reaches(&counter, before + 1));
            }
        }
        // A gateway that says nothing is nobody.
        let request = Request::get("/peer").header("host", "a");
        let request = request.body(empty()).expect("a request");
        let mut one = gateway.http1().await;
        assert_eq!(send(&mut one, request).await.status(), 403);
    }
    let forwarded = application.asked();
    assert!(
        forwarded.iter().all(|asked| asked.uri == "/peer/a"),
        "{forwarded:?}"
    );
}
