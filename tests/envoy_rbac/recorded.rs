//! Sets of intentions as a real Consul answered and configured them, and a static Envoy that
//! has them all: for each set a listener with Consul's own RBAC, and the same listener with our
//! filter in its place.

use std::net::{Ipv4Addr, SocketAddr};

use portcullis_tests::envoy::{Envoy, Plan, Plugin, cluster, tls};
use portcullis_tests::ports;
use portcullis_tests::replayed::{self, Said};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::ours::Setting;
use crate::scene::{Scene, TARGET};
use crate::tokens::Issuer;

/// One set of intentions.
pub(crate) struct Recorded {
    pub(crate) setting: Setting,
    /// As `match` answered.
    pub(crate) list: Value,
    /// As Consul's xDS made it of them.
    listener: Value,
}

impl Recorded {
    /// What Consul and its Envoy have now.
    pub(crate) fn of(scene: &Scene, setting: &Setting, list: Value) -> Self {
        Self {
            setting: setting.clone(),
            list,
            listener: scene.listener().expect("Envoy has a listener"),
        }
    }

    /// The listener on another port, with our certificates, and with `filter` for the RBAC.
    fn listener(&self, port: u16, tls: &Value, filter: Option<&Plugin>) -> Value {
        // The application speaks both versions; the others' clusters are by these names.
        let version = match self.setting.protocol {
            "http2" | "grpc" => "\"app-http2\"",
            _ => "\"app\"",
        };
        let text = self.listener.to_string();
        let mut listener: Value = text
            .replace("\"local_app\"", version)
            .parse()
            .expect("it was JSON");
        let fields = listener.as_object_mut().expect("a listener");
        fields.remove("@type");
        fields["name"] = json!(format!("listener-{port}"));
        fields["address"]["socket_address"]["port_value"] = json!(port);
        let chain = &mut listener["filter_chains"][0];
        chain["transport_socket"]["typed_config"] = tls.clone();
        let Some(filter) = filter else {
            return listener;
        };
        let mut replaced = 0;
        for one in chain["filters"].as_array_mut().expect("filters") {
            match one["name"].as_str() {
                Some("envoy.filters.network.rbac") => *one = filter.network(),
                Some("envoy.filters.network.tcp_proxy") => {
                    let config = &mut one["typed_config"];
                    config["upstream_connect_mode"] = json!("ON_DOWNSTREAM_TLS_HANDSHAKE");
                    config["max_early_data_bytes"] = json!(8192);
                    continue;
                }
                _ => {
                    let inner = one["typed_config"]["http_filters"].as_array_mut();
                    let Some(inner) = inner else {
                        continue;
                    };
                    // Envoy's own verification of tokens goes with its RBAC: it takes them out.
                    inner.retain(|one| one["name"] != "envoy.filters.http.jwt_authn");
                    for one in inner {
                        if one["name"] == "envoy.filters.http.rbac" {
                            *one = filter.http();
                            replaced += 1;
                        }
                    }
                    continue;
                }
            }
            replaced += 1;
        }
        assert_eq!(replaced, 1, "one RBAC: {text}");
        listener
    }
}

/// Where a set is asked.
#[derive(Clone, Copy)]
pub(crate) struct Doors {
    /// The filter with `envoy` and with `strict` matching.
    pub(crate) filter: [SocketAddr; 2],
    pub(crate) rbac: SocketAddr,
}

/// An Envoy with all sets.
pub(crate) struct Beside {
    pub(crate) doors: Vec<Doors>,
    pub(crate) envoy: Envoy,
    _runtime: Runtime,
}

impl Beside {
    /// Starts it; `None` where peers are left out on purpose.
    pub(crate) fn start(test: &str, scene: &Scene, sets: &[Recorded]) -> Option<Self> {
        let runtime = Runtime::new().expect("a runtime");
        let said = sets.iter().map(|set| Said {
            intentions: set.list.clone(),
            trust_domain: json!(scene.trust_domain),
            root: scene.ca.pem(),
            intermediates: Vec::new(),
            mesh: json!({ "Kind": "mesh", "HTTP": { "Incoming": {
                "RequestNormalization": set.setting.normalization,
            }}}),
            providers: scene.issuers.iter().map(Issuer::entry).collect(),
        });
        let agent = runtime.block_on(replayed::agent(said.collect()));
        let own = format!(
            "spiffe://{}/ns/default/dc/dc1/svc/{TARGET}",
            scene.trust_domain
        );
        let leaf = scene.ca.leaf(&own).issue();
        let application = SocketAddr::from((Ipv4Addr::LOCALHOST, scene.application.port));
        let mut http2 = cluster("app-http2", application);
        http2["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        });
        let mut plan = Plan::with(&leaf.pem(), &leaf.key_pem(), &scene.ca.pem())
            .cluster(cluster("agent", agent))
            .cluster(cluster("app", application))
            .cluster(http2);
        let tls = tls(plan.folder());
        let mut doors = Vec::new();
        for (place, set) in sets.iter().enumerate() {
            let [rbac, envoy, strict] = ports::free::<3>();
            plan = plan.listener(set.listener(rbac, &tls, None));
            for (port, matching) in [(envoy, "envoy"), (strict, "strict")] {
                let plugin = Plugin::new(json!({
                    "service": TARGET,
                    "agent": { "cluster": "agent", "datacenter": format!("g{place}") },
                    "protocol": set.setting.protocol,
                    "default_policy": scene.default,
                    "matching": matching,
                    // Nobody is refused for having come early.
                    "start_wait_ms": 60_000,
                }));
                plan = plan.listener(set.listener(port, &tls, Some(&plugin)));
            }
            let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            doors.push(Doors {
                filter: [local(envoy), local(strict)],
                rbac: local(rbac),
            });
        }
        Some(Self {
            doors,
            envoy: plan.start(test)?,
            _runtime: runtime,
        })
    }
}
