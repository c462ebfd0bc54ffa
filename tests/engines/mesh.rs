//! What machines with the filter meet: an agent that answers, and clients.

use std::collections::BTreeMap;

use portcullis_testkit::TestCa;
use portcullis_tests::proxy_wasm::{Answer, Call, Machine};
use serde_json::{Value, json};

/// A mesh that denies by default.
pub(crate) struct Mesh {
    ca: TestCa,
    leaves: BTreeMap<&'static str, Vec<u8>>,
    /// Who may reach a service.
    pub(crate) allowed: BTreeMap<&'static str, &'static str>,
    /// What they may ask for; anything, if there is nothing here.
    pub(crate) permissions: Option<Value>,
    /// Rises with each change.
    pub(crate) index: u64,
    connections: u64,
}

/// What a client of today sends, and what Envoy adds.
const HEADERS: [(&str, &str); 16] = [
    (":authority", "db"),
    (":path", "/items/42?sort=name"),
    (":method", "GET"),
    (":scheme", "https"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip, br"),
    ("accept-language", "en-GB,en;q=0.9"),
    ("user-agent", "portcullis-bench/1"),
    ("cache-control", "no-cache"),
    ("cookie", "session=0123456789abcdef; theme=dark"),
    ("referer", "https://shop.example/items"),
    ("x-request-id", "4f1c2b7e-7f57-4c1b-9f6e-5f0e8f0f3c11"),
    ("x-tenant", "blue"),
    ("x-forwarded-proto", "https"),
    ("x-envoy-expected-rq-timeout-ms", "15000"),
    (
        "x-forwarded-client-cert",
        "URI=spiffe://t.consul/ns/default/dc/dc1/svc/web",
    ),
];

/// Kinds of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Connection,
    Request,
}

impl Mesh {
    /// Whose `web` and `evil` have certificates that are always valid.
    pub(crate) fn new(allowed: &[(&'static str, &'static str)]) -> Self {
        let ca = TestCa::new("t.consul");
        let leaves = ["web", "evil"].map(|service| {
            let leaf = ca.service(service);
            let leaf = leaf.with(|draft| draft.valid(-2_000_000_000, 2_000_000_000));
            (service, leaf.issue().pem().into_bytes())
        });
        Self {
            leaves: leaves.into_iter().collect(),
            allowed: allowed.iter().copied().collect(),
            permissions: None,
            index: 7,
            connections: 0,
            ca,
        }
    }

    /// The plugin configuration of a service.
    pub(crate) fn configuration(service: &str, start_wait_ms: u32) -> String {
        json!({
            "service": service, "agent": { "cluster": "agent" }, "default_policy": "deny",
            "start_wait_ms": start_wait_ms, "max_stale_ms": 0, "request_normalization": {},
        })
        .to_string()
    }

    /// The agent's answer.
    pub(crate) fn answer(&self, call: &Call) -> Option<Answer> {
        let path = call.path();
        let body = if path.starts_with("/v1/agent/connect/ca/roots") {
            json!({ "ActiveRootID": "1", "TrustDomain": "t.consul", "Roots": [
                { "ID": "1", "Name": "", "RootCert": self.ca.pem(), "Active": true }] })
        } else if let Some(query) = path.strip_prefix("/v1/connect/intentions/match?") {
            let name = query.split('&').find_map(|part| part.strip_prefix("name="));
            let name = name.expect("a name");
            let list: Vec<_> = self
                .allowed
                .get(name)
                .map(|source| {
                    let mut intention = json!({
                        "SourceName": source, "SourceNS": "default", "DestinationName": name,
                        "DestinationNS": "default", "SourceType": "consul",
                    });
                    match &self.permissions {
                        Some(permissions) => intention["Permissions"] = permissions.clone(),
                        None => intention["Action"] = json!("allow"),
                    }
                    intention
                })
                .into_iter()
                .collect();
            json!({ name: list })
        } else {
            panic!("the filter asks for {path}");
        };
        let index = ("x-consul-index".to_owned(), self.index.to_string());
        Some((200, vec![index], body.to_string().into_bytes()))
    }

    /// Half a second passes, and the agent answers what it is asked.
    pub(crate) fn tick(&self, machine: &mut Machine) {
        machine.tick();
        for _ in 0..16 {
            if !machine.answer(|call| self.answer(call)) {
                break;
            }
        }
    }

    /// Whether a client passes at the plugin with this root context, at once.
    pub(crate) fn passes(
        &mut self,
        machine: &mut Machine,
        root: u32,
        client: &str,
        kind: Kind,
    ) -> bool {
        self.connections += 1;
        self.again(machine, root, client, kind)
    }

    /// The same, for one more request on the last connection.
    pub(crate) fn again(&self, machine: &mut Machine, root: u32, client: &str, kind: Kind) -> bool {
        let digest = client.repeat(64).into_bytes();
        let mut properties = vec![
            ("connection\0id", self.connections.to_le_bytes().to_vec()),
            ("connection\0peer_certificate", self.leaves[client].clone()),
            ("connection\0peer_certificate_valid", vec![1]),
            (
                "connection\0sha256_peer_certificate_digest",
                digest[..64].to_vec(),
            ),
        ];
        if kind == Kind::Request {
            properties.push(("request\0protocol", b"HTTP/1.1".to_vec()));
        }
        let properties = properties.into_iter();
        machine.world().wall = 1_800_000_000 * 1_000_000_000;
        machine.world().properties = properties
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let context = machine.context_of(root);
        let passes = match kind {
            Kind::Connection => machine.bytes(context, true),
            Kind::Request => {
                let bytes = |(name, value): &(&str, &str)| {
                    (name.as_bytes().to_vec(), value.as_bytes().to_vec())
                };
                machine.world().headers = HEADERS.iter().map(bytes).collect();
                machine.request(context)
            }
        };
        let did = machine.did();
        assert_eq!(did.resumed, []);
        machine.delete(context);
        passes
    }
}
