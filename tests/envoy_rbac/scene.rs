//! A real Consul agent with one default, and one Envoy that it configures.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use portcullis_core::http::HttpVersion;
use portcullis_testkit::{TestCa, TestLeaf};
use portcullis_tests::api::Api;
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::envoy::cluster;
use portcullis_tests::process::{Process, eventually};
use portcullis_tests::{envoy_process, peers, ports};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::application::{self, Application};
use crate::client::Client;
use crate::question::{Answer, Question};
use crate::tokens::Issuer;

/// The service that everybody calls.
pub(crate) const TARGET: &str = "api";
/// Who asks whether a change has arrived.
const MARKER: &str = "marker";
const SOON: Duration = Duration::from_secs(90);

/// The providers of tokens.
pub(crate) const PROVIDERS: [&str; 2] = ["one", "two"];

pub(crate) struct Scene {
    pub(crate) consul: Consul,
    pub(crate) default: &'static str,
    pub(crate) trust_domain: String,
    /// Consul's CA, whose key is ours: for certificates that Consul would not issue.
    pub(crate) ca: TestCa,
    pub(crate) issuers: Vec<Issuer>,
    pub(crate) envoy: SocketAddr,
    /// The application behind it.
    pub(crate) application: Application,
    admin: SocketAddr,
    folder: TempDir,
    marker: Client,
    changes: u32,
    /// Whether Envoy is given what it must reject.
    pub(crate) may_reject: bool,
    _process: Process,
}

impl Scene {
    /// Starts both; `None` where peers are left out on purpose.
    pub(crate) fn start(test: &str, default: &'static str) -> Option<Self> {
        let binary = peers::require(test, "envoy/bin/envoy")?;
        let options = Options::new()
            .with_grpc()
            .with_config(&format!("default_intention_policy = \"{default}\""));
        let consul = Consul::start(test, options)?;
        let api = consul.api();
        let roots = api.get("/v1/agent/connect/ca/roots").good().json();
        let trust_domain = roots["TrustDomain"]
            .as_str()
            .expect("a trust domain")
            .to_owned();
        let ca = TestCa::new(&trust_domain);
        let provider = json!({
            "Provider": "consul", "ForceWithoutCrossSigning": true,
            "Config": { "LeafCertTTL": "72h", "PrivateKey": ca.key_pem(), "RootCert": ca.pem() },
        });
        let _ = api.put("/v1/connect/ca/configuration", &provider).good();
        let issuers: Vec<Issuer> = PROVIDERS.into_iter().map(Issuer::new).collect();
        for issuer in &issuers {
            let _ = api.put("/v1/config", &issuer.entry()).good();
        }
        let application = application::start();
        let [front, admin] = ports::free::<2>();
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let _ = api
            .put(
                "/v1/config",
                &json!({ "Kind": "service-defaults", "Name": TARGET, "Protocol": "http" }),
            )
            .good();
        // For the filter, should Consul be told to load it.
        let agent = cluster("portcullis", consul.address()).to_string();
        let service = json!({
            "Name": TARGET, "Port": application.port,
            "Connect": { "SidecarService": {
                "Port": front, "Address": "127.0.0.1", "Check": { "TTL": "10m", "Status": "passing" },
                "Proxy": { "Config": { "envoy_extra_static_clusters_json": agent } },
            } },
        });
        let _ = api.put("/v1/agent/service/register", &service).good();

        let folder = tempfile::tempdir().expect("a folder");
        let bootstrap = Command::new(consul.binary())
            .args(["connect", "envoy", "-sidecar-for", TARGET, "-bootstrap"])
            .arg("-ignore-envoy-compatibility")
            .arg("-envoy-binary")
            .arg(&binary)
            .arg(format!("-http-addr={}", consul.address()))
            .arg(format!("-grpc-addr={}", consul.grpc()))
            .arg(format!("-admin-bind={}", local(admin)))
            .env_remove("CONSUL_HTTP_ADDR")
            .env_remove("CONSUL_HTTP_TOKEN")
            .output()
            .expect("consul runs");
        let error = String::from_utf8_lossy(&bootstrap.stderr);
        assert!(bootstrap.status.success(), "no bootstrap: {error}");
        let file = folder.path().join("bootstrap.json");
        fs::write(&file, &bootstrap.stdout).expect("the bootstrap is written");
        let flags = ["--concurrency", "1", "--log-level", "warning"];
        let flags = [&flags[..], &["--drain-time-s", "1"]].concat();
        let process = envoy_process::spawn(&binary, &file, &folder.path().join("log"), &flags);
        let marker = leaf(&api, MARKER);
        Some(Self {
            default,
            trust_domain,
            ca,
            issuers,
            envoy: local(front),
            application,
            admin: local(admin),
            folder,
            marker,
            changes: 0,
            may_reject: false,
            _process: process,
            consul,
        })
    }

    /// A service of the mesh, with a certificate that Consul issued.
    pub(crate) fn client(&self, service: &str) -> Client {
        leaf(&self.consul.api(), service)
    }

    /// Anybody, with a certificate that Consul's CA signed.
    pub(crate) fn stranger(&self, uris: &[&str], leaf: &TestLeaf) -> Client {
        let uris = uris.iter().map(|uri| (*uri).to_owned()).collect();
        Client::new(uris, leaf.chain(), &leaf.key())
    }

    /// Sets protocol and normalisation, and waits until Envoy has them.
    pub(crate) fn set_up(&mut self, protocol: &str, normalization: &Value) {
        let api = self.consul.api();
        let defaults = json!({ "Kind": "service-defaults", "Name": TARGET, "Protocol": protocol });
        let _ = api.put("/v1/config", &defaults).good();
        let incoming = json!({ "RequestNormalization": normalization });
        let mesh = json!({ "Kind": "mesh", "HTTP": { "Incoming": incoming } });
        let _ = api.put("/v1/config", &mesh).good();
        let what = format!("Envoy with {protocol} and {normalization}");
        eventually(&what, SOON, || {
            self.has(protocol, normalization).then_some(())
        });
    }

    /// What Consul has made of the intentions: the listener that Envoy has for callers.
    pub(crate) fn listener(&self) -> Option<Value> {
        let mut dump = self.dump("dynamic_listeners", "public_listener.*")?;
        let listener = dump["active_state"]["listener"].take();
        listener.is_object().then_some(listener)
    }

    fn has(&self, protocol: &str, normalization: &Value) -> bool {
        let Some(listener) = self.listener() else {
            return false;
        };
        let filters = listener["filter_chains"][0]["filters"].as_array();
        let manager = filters.into_iter().flatten().find_map(|filter| {
            let config = &filter["typed_config"];
            config.get("http_filters").map(|_| config)
        });
        let Some(manager) = manager else {
            return protocol == "tcp";
        };
        let is_set = |name: &str| normalization[name] == json!(true);
        let action = |name: &str, none: &'static str| match normalization[name].as_str() {
            Some(action) if action != none => json!(action),
            _ => Value::Null,
        };
        let is_on = |value: &Value| *value == json!(true);
        let is_http2 = protocol != "http";
        let cluster = self.dump("dynamic_active_clusters", "local_app");
        let cluster_is_http2 =
            cluster.is_some_and(|cluster| cluster.to_string().contains("http2_protocol_options"));
        protocol != "tcp"
            && is_on(&manager["normalize_path"]) != is_set("InsecureDisablePathNormalization")
            && is_on(&manager["merge_slashes"]) == is_set("MergeSlashes")
            && manager["path_with_escaped_slashes_action"]
                == action(
                    "PathWithEscapedSlashesAction",
                    "IMPLEMENTATION_SPECIFIC_DEFAULT",
                )
            && manager["common_http_protocol_options"]["headers_with_underscores_action"]
                == action("HeadersWithUnderscoresAction", "ALLOW")
            && manager.get("http2_protocol_options").is_some() == is_http2
            && manager
                .to_string()
                .contains("envoy.filters.http.grpc_stats")
                == (protocol == "grpc")
            && cluster_is_http2 == is_http2
    }

    /// One resource of the configuration that Envoy has taken.
    fn dump(&self, resource: &str, name: &str) -> Option<Value> {
        let path = format!("/config_dump?resource={resource}&name_regex={name}");
        let dump: Value = serde_json::from_str(&self.admin(&path)?).ok()?;
        dump["configs"].get(0).cloned()
    }

    /// What Envoy's admin interface says.
    pub(crate) fn admin(&self, path: &str) -> Option<String> {
        envoy_process::get(self.admin, path)
    }

    /// Writes the intentions of the target and of everybody, with `jwt` for all sources of
    /// the target, and waits until Envoy decides by them. What is returned is what Consul
    /// says about them.
    pub(crate) fn set(
        &mut self,
        sources: &[Value],
        wildcard: &[Value],
        jwt: Option<&Value>,
    ) -> Value {
        self.changes += 1;
        let path = format!("/change-{}", self.changes);
        let action = if self.default == "allow" {
            "deny"
        } else {
            "allow"
        };
        let mut sources = sources.to_vec();
        sources.push(json!({
            "Name": MARKER, "Permissions": [{ "Action": action, "HTTP": { "PathExact": path } }],
        }));
        let mut entry = json!({ "Kind": "service-intentions", "Name": TARGET, "Sources": sources });
        if let Some(jwt) = jwt {
            entry["JWT"] = jwt.clone();
        }
        self.write(wildcard, &entry);
        self.arrived(self.envoy);
        self.list()
    }

    /// The same where the target speaks TCP: Envoy has them once they stand in its listener.
    pub(crate) fn set_connections(&mut self, sources: &[Value], wildcard: &[Value]) -> Value {
        self.changes += 1;
        let marker = format!("{MARKER}-{}", self.changes);
        // What is the default anyway Consul leaves out.
        let action = if self.default == "allow" {
            "deny"
        } else {
            "allow"
        };
        let mut sources = sources.to_vec();
        sources.push(json!({ "Name": marker, "Action": action }));
        // Nor is a later change announced by what holds already.
        sources.push(json!({ "Name": MARKER, "Action": self.default }));
        let entry = json!({ "Kind": "service-intentions", "Name": TARGET, "Sources": sources });
        self.write(wildcard, &entry);
        let principal = format!("/svc/{marker}$");
        eventually(&principal, SOON, || {
            let listener = self.listener()?.to_string();
            listener.contains(&principal).then_some(())
        });
        self.list()
    }

    fn write(&self, wildcard: &[Value], entry: &Value) {
        let api = self.consul.api();
        if wildcard.is_empty() {
            let _ = api.delete("/v1/config/service-intentions/*").good();
        } else {
            let everybody =
                json!({ "Kind": "service-intentions", "Name": "*", "Sources": wildcard });
            let reply = api.put("/v1/config", &everybody);
            assert_eq!(reply.status, 200, "{}: {everybody}", reply.body);
        }
        // Envoy gets all of them at once, so this one comes last.
        let reply = api.put("/v1/config", entry);
        assert_eq!(reply.status, 200, "{}: {entry}", reply.body);
    }

    /// What Consul says about the intentions of the target.
    fn list(&self) -> Value {
        let path = format!("/v1/connect/intentions/match?by=destination&name={TARGET}");
        let mut list = self.consul.api().get(&path).good().json()[TARGET].take();
        assert!(list.is_array(), "{list}");
        let list = list.as_array_mut().map(std::mem::take).unwrap_or_default();
        Value::Array(list)
    }

    /// Waits until the proxy at this address decides by the last change.
    pub(crate) fn arrived(&self, address: SocketAddr) {
        let path = format!("/change-{}", self.changes);
        let token = self.issuers[0].token(600, &json!({ "role": "admin" }));
        let question = Question::get(HttpVersion::Http1, &path)
            .header("authorization", &format!("Bearer {token}"));
        let changed = |answer: &Answer| match answer {
            Answer::Allow(_) => self.default == "deny",
            Answer::Deny { .. } => self.default == "allow",
            // A proxy that begins closes what it has no policy for.
            Answer::BadRequest | Answer::NoHandshake => false,
            other => panic!("an odd answer for {MARKER}: {other:?}"),
        };
        eventually(&format!("{path} at {address}"), SOON, || {
            let listens = TcpStream::connect(address).is_ok();
            if listens && changed(&self.marker.ask(address, &question)) {
                return Some(());
            }
            // A change that Envoy refuses would never arrive.
            let log = self.log();
            assert!(self.may_reject || !log.contains("rejected"), "{log}");
            None
        });
    }

    /// What Envoy has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

fn leaf(api: &Api, service: &str) -> Client {
    let leaf = api
        .get(&format!("/v1/agent/connect/ca/leaf/{service}"))
        .good()
        .json();
    let text = |name: &str| leaf[name].as_str().expect("text").to_owned();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text("CertPEM").as_bytes())
        .collect::<Result<_, _>>()
        .expect("certificates");
    let key = PrivateKeyDer::from_pem_slice(text("PrivateKeyPEM").as_bytes()).expect("a key");
    Client::new(vec![text("ServiceURI")], &chain, &key)
}
