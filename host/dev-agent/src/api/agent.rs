//! `/v1/agent/self` and what `/v1/status` needs.

use serde_json::json;

use crate::config::DefaultPolicy;
use crate::core::Core;
use crate::http::options::Options;
use crate::http::reply::{Outcome, Reply};

impl Core {
    /// The address that this agent gives as the leader's: its own.
    pub(super) fn leader(&self) -> String {
        format!("{}:8300", self.node.address)
    }

    /// `GET /v1/agent/self`: the fields that clients of the mesh read.
    pub(super) fn agent_self(&self, options: &Options) -> Outcome {
        let token = self.acl.resolve(&options.token)?;
        if !token.agent_read(&self.node.name) {
            return Err(token.denied("agent:read", Some(&self.node.name)));
        }
        let config = &self.config;
        let default = self.acl.default_policy().as_str();
        let intentions = config
            .default_intention_policy
            .map_or("", DefaultPolicy::as_str);
        Ok(Reply::json(json!({
            "Config": {
                "Datacenter": config.datacenter,
                "PrimaryDatacenter": config.datacenter,
                "NodeName": self.node.name,
                "NodeID": self.node.id,
                "Revision": "",
                "Server": true,
                "Version": crate::CONSUL_VERSION,
                "BuildDate": "1970-01-01T00:00:01Z",
            },
            "DebugConfig": {
                "ConnectEnabled": true,
                "ACLsEnabled": self.acl.enabled(),
                "ACLResolverSettings": {
                    "ACLsEnabled": self.acl.enabled(),
                    "ACLDefaultPolicy": default,
                    "Datacenter": config.datacenter,
                    "NodeName": self.node.name,
                },
                "Datacenter": config.datacenter,
                "PrimaryDatacenter": config.datacenter,
                "DefaultIntentionPolicy": intentions,
                "DNSDomain": "consul.",
                "DefaultQueryTime": "5m0s",
                "MaxQueryTime": "10m0s",
                "HTTPUseCache": true,
                "DevMode": true,
                "NodeID": self.node.id,
                "NodeName": self.node.name,
                "Version": crate::CONSUL_VERSION,
                "ServerMode": true,
            },
            "Coord": {},
            "Member": {
                "Name": self.node.name,
                "Addr": self.node.address,
                "Port": 8301,
                "Status": 1,
                "Tags": {"dc": config.datacenter, "role": "consul", "id": self.node.id},
                "ProtocolMin": 1, "ProtocolMax": 5, "ProtocolCur": 2,
                "DelegateMin": 2, "DelegateMax": 5, "DelegateCur": 4,
            },
            "Stats": {
                "agent": {"check_ttls": self.read(|state| state.catalog.checks.len()).to_string()},
            },
            "Meta": {"consul-network-segment": "", "consul-version": crate::CONSUL_VERSION},
        })))
    }
}
