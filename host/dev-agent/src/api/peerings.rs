//! `/v1/peerings` and `/v1/peering/:name`: peerings that a test has made up. Nothing is
//! replicated; what others want to know is whose roots they are.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::core::Core;
use crate::http::options::Options;
use crate::http::reply::{Outcome, Reply};

/// All peerings, and when they changed last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peerings {
    pub(crate) index: u64,
    pub(crate) by_name: BTreeMap<String, Peering>,
}

/// One peering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peering {
    pub(crate) id: String,
    pub(crate) roots: Vec<String>,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

impl Peering {
    fn json(&self, name: &str) -> Value {
        let mut shown = json!({
            "ID": self.id,
            "Name": name,
            "State": if self.roots.is_empty() { "PENDING" } else { "ACTIVE" },
            "StreamStatus": {
                "ImportedServices": null,
                "ExportedServices": null,
                "LastHeartbeat": null,
                "LastReceive": null,
                "LastSend": null,
            },
            "CreateIndex": self.create_index,
            "ModifyIndex": self.modify_index,
            "Remote": { "Partition": "", "Datacenter": "" },
        });
        if !self.roots.is_empty() {
            shown["PeerCAPems"] = json!(self.roots);
        }
        shown
    }
}

impl Core {
    /// `GET /v1/peerings`.
    pub(super) async fn peerings(&self, options: &Options) -> Outcome {
        self.acl.resolve(&options.token)?.need_peering_read()?;
        let (index, list) = self
            .blocking(options, |state| {
                let peerings = state.peerings.by_name.iter();
                let list: Vec<Value> = peerings.map(|(name, peering)| peering.json(name)).collect();
                (state.peerings.index.max(1), list)
            })
            .await;
        Ok(Reply::json(json!(list)).query_meta(index))
    }

    /// `GET /v1/peering/:name`.
    pub(super) async fn peering(&self, options: &Options, name: &str) -> Outcome {
        if name.is_empty() {
            return Err(Reply::bad_request("Must specify a name to fetch."));
        }
        self.acl.resolve(&options.token)?.need_peering_read()?;
        let (index, found) = self
            .blocking(options, |state| {
                let found = state.peerings.by_name.get(name);
                (
                    state.peerings.index.max(1),
                    found.map(|peering| peering.json(name)),
                )
            })
            .await;
        let missing = || Reply::not_found(format!("Peering not found for {name:?}"));
        Ok(Reply::json(found.ok_or_else(missing)?).query_meta(index))
    }
}
