//! What machines with the filter meet: an agent that answers, and clients.

use std::collections::BTreeMap;

use portcullis_testkit::TestCa;
use portcullis_tests::proxy_wasm::{Answer, Call, Machine};
use serde_json::json;

/// A mesh that denies by default.
pub(crate) struct Mesh {
    ca: TestCa,
    leaves: BTreeMap<&'static str, Vec<u8>>,
    /// Who may reach a service.
    pub(crate) allowed: BTreeMap<&'static str, &'static str>,
    /// Rises with each change.
    pub(crate) index: u64,
    connections: u64,
}

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
                    json!({
                        "SourceName": source, "SourceNS": "default", "DestinationName": name,
                        "DestinationNS": "default", "SourceType": "consul", "Action": "allow",
                    })
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
        let mut properties = vec![
            ("connection\0id", self.connections.to_le_bytes().to_vec()),
            ("connection\0peer_certificate", self.leaves[client].clone()),
            ("connection\0peer_certificate_valid", vec![1]),
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
                let headers = [(":method", "GET"), (":path", "/"), (":authority", "db")];
                machine.world().headers = headers
                    .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
                    .to_vec();
                machine.request(context)
            }
        };
        let did = machine.did();
        assert_eq!(did.resumed, []);
        machine.delete(context);
        passes
    }
}
