//! Services as the agent, health and catalog endpoints show them.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Catalog, Service, Status};

/// The node that everything is registered on.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) datacenter: String,
}

/// The index of the node's own records.
const NODE_INDEX: u64 = 13;

impl Node {
    fn fields(&self) -> Map<String, Value> {
        let fields = json!({
            "ID": self.id,
            "Node": self.name,
            "Address": self.address,
            "Datacenter": self.datacenter,
            "TaggedAddresses": {
                "lan": self.address, "lan_ipv4": self.address,
                "wan": self.address, "wan_ipv4": self.address,
            },
        });
        fields.as_object().cloned().unwrap_or_default()
    }

    fn meta() -> Value {
        json!({"consul-network-segment": "", "consul-version": crate::CONSUL_VERSION})
    }

    pub(crate) fn json(&self) -> Value {
        let mut node = self.fields();
        node.insert("Meta".to_owned(), Self::meta());
        node.insert("CreateIndex".to_owned(), NODE_INDEX.into());
        node.insert("ModifyIndex".to_owned(), (NODE_INDEX + 1).into());
        Value::Object(node)
    }

    fn serf_check(&self) -> Value {
        json!({
            "Node": self.name, "CheckID": "serfHealth", "Name": "Serf Health Status",
            "Status": "passing", "Notes": "", "Output": "Agent alive and reachable",
            "ServiceID": "", "ServiceName": "", "ServiceTags": [], "Type": "", "Interval": "",
            "Timeout": "", "ExposedPort": 0, "Definition": {},
            "CreateIndex": NODE_INDEX, "ModifyIndex": NODE_INDEX,
        })
    }
}

impl Service {
    /// As `/v1/agent/services` shows it.
    pub(crate) fn agent_json(&self, datacenter: &str) -> Map<String, Value> {
        let mut shown = Map::new();
        let mut set = |name: &str, value: Value| {
            shown.insert(name.to_owned(), value);
        };
        if !self.kind.is_empty() {
            set("Kind", json!(self.kind));
        }
        set("ID", json!(self.id));
        set("Service", json!(self.name));
        set("Tags", json!(self.tags));
        set("Meta", json!(self.meta));
        set("Port", json!(self.port));
        set("Address", json!(self.address));
        if !self.socket_path.is_empty() {
            set("SocketPath", json!(self.socket_path));
        }
        let addresses = self.addresses();
        if !addresses.is_empty() {
            set("TaggedAddresses", Value::Object(addresses));
        }
        set("Weights", self.weights_json());
        set("EnableTagOverride", json!(self.enable_tag_override));
        if self.native {
            set("Connect", json!({"Native": true}));
        }
        if let Some(proxy) = &self.proxy {
            set("Proxy", Value::Object(proxy.clone()));
        }
        set("Datacenter", json!(datacenter));
        shown
    }

    /// As `/v1/agent/service/:id` shows it: with a hash of itself.
    pub(crate) fn agent_json_with_hash(&self, datacenter: &str) -> (Value, String) {
        let mut shown = self.agent_json(datacenter);
        let digest = Sha256::digest(Value::Object(shown.clone()).to_string().as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        let hash = format!("{:x}", u64::from_be_bytes(first));
        shown.insert("ContentHash".to_owned(), json!(hash));
        (Value::Object(shown), hash)
    }

    fn weights_json(&self) -> Value {
        json!({"Passing": self.weights.0, "Warning": self.weights.1})
    }

    /// The addresses that were given, and those that follow from the address.
    fn addresses(&self) -> Map<String, Value> {
        let mut addresses = self.tagged_addresses.clone();
        let family = match self.address.parse() {
            Ok(std::net::IpAddr::V4(_)) => "ipv4",
            Ok(std::net::IpAddr::V6(_)) => "ipv6",
            Err(_) => return addresses,
        };
        for side in ["lan", "wan"] {
            addresses
                .entry(format!("{side}_{family}"))
                .or_insert_with(|| json!({"Address": self.address, "Port": self.port}));
        }
        addresses
    }

    /// The proxy part of health and catalog replies, which is always there.
    fn full_proxy(&self) -> Value {
        let mut proxy = self.proxy.clone().unwrap_or_default();
        proxy.entry("Mode".to_owned()).or_insert(json!(""));
        for name in ["MeshGateway", "Expose"] {
            proxy.entry(name.to_owned()).or_insert_with(|| json!({}));
        }
        let upstreams = proxy.get_mut("Upstreams").and_then(Value::as_array_mut);
        for upstream in upstreams
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            upstream.entry("Datacenter".to_owned()).or_insert(json!(""));
        }
        Value::Object(proxy)
    }

    fn connect_json(&self) -> Value {
        if self.native {
            json!({"Native": true})
        } else {
            json!({})
        }
    }
}

impl Catalog {
    fn all_addresses(&self, service: &Service) -> Map<String, Value> {
        let mut addresses = service.addresses();
        if let Some(number) = service
            .mesh_name()
            .and_then(|name| self.virtual_ips.get(name))
        {
            let [_, high, middle, low] = number.to_be_bytes();
            let address = format!("240.{high}.{middle}.{low}");
            let value = json!({"Address": address, "Port": service.port});
            addresses.insert("consul-virtual".to_owned(), value);
        }
        addresses
    }

    /// The worst status of an instance's checks and its node's.
    pub(crate) fn status_of(&self, service: &Service) -> Status {
        self.checks_of(service)
            .map(|check| check.status)
            .max()
            .unwrap_or(Status::Passing)
    }

    fn checks_of<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a super::Check> {
        self.checks
            .values()
            .filter(|check| check.service_id == service.id || check.service_id.is_empty())
    }

    /// An entry of `/v1/health/service` and `/v1/health/connect`.
    pub(crate) fn health_json(&self, service: &Service, node: &Node) -> Value {
        let mut checks = vec![node.serf_check()];
        checks.extend(
            self.checks_of(service)
                .map(|check| check.json(&node.name, true)),
        );
        let addresses = self.all_addresses(service);
        let mut shown = json!({
            "ID": service.id,
            "Service": service.name,
            "Tags": service.tags,
            "Address": service.address,
            "TaggedAddresses": addresses,
            "Meta": if service.meta.is_empty() { Value::Null } else { json!(service.meta) },
            "Port": service.port,
            "Weights": service.weights_json(),
            "EnableTagOverride": service.enable_tag_override,
            "Proxy": service.full_proxy(),
            "Connect": service.connect_json(),
            "PeerName": "",
            "CreateIndex": service.create_index,
            "ModifyIndex": service.modify_index,
        });
        if let Some(shown) = shown.as_object_mut() {
            if !service.kind.is_empty() {
                shown.insert("Kind".to_owned(), json!(service.kind));
            }
            if !service.socket_path.is_empty() {
                shown.insert("SocketPath".to_owned(), json!(service.socket_path));
            }
            if addresses.is_empty() {
                shown.remove("TaggedAddresses");
            }
        }
        json!({"Node": node.json(), "Service": shown, "Checks": checks})
    }

    /// An entry of `/v1/catalog/service` and `/v1/catalog/connect`.
    pub(crate) fn catalog_json(&self, service: &Service, node: &Node) -> Value {
        let mut shown = node.fields();
        let fields = json!({
            "NodeMeta": Node::meta(),
            "ServiceKind": service.kind,
            "ServiceID": service.id,
            "ServiceName": service.name,
            "ServiceTags": service.tags,
            "ServiceAddress": service.address,
            "ServiceTaggedAddresses": self.all_addresses(service),
            "ServiceWeights": service.weights_json(),
            "ServiceMeta": service.meta,
            "ServicePort": service.port,
            "ServicePorts": null,
            "ServiceSocketPath": service.socket_path,
            "ServiceEnableTagOverride": service.enable_tag_override,
            "ServiceProxy": service.full_proxy(),
            "ServiceConnect": service.connect_json(),
            "ServiceLocality": null,
            "CreateIndex": service.create_index,
            "ModifyIndex": service.modify_index,
        });
        shown.extend(fields.as_object().cloned().unwrap_or_default());
        if self.all_addresses(service).is_empty() {
            shown.remove("ServiceTaggedAddresses");
        }
        Value::Object(shown)
    }
}
