//! `GET /v1/peerings`: the cluster peerings of this cluster, with the roots of each peer.
//!
//! It is the only place where the HTTP API tells a peer's roots. They follow a rotation of the
//! peer's CA, old and new root together, and the question blocks on an index (Consul 1.20 and
//! 1.22, built-in CA).

mod pruned;
mod usable;

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::agent::error::ReplyError;
use crate::agent::json::Object;
use crate::agent::reply::HttpReply;
use crate::agent::request::{HttpRequest, MAX_REPLY, Method, Query, Target};
use crate::chain::{self, NoTrustDomain};
use crate::identity::{Excerpt, IdentityError, Partition, PeerName, TrustDomain};

pub use self::pruned::pruned;
pub use self::usable::{Unusable, usable};

/// One peering, as far as it says whose identities to believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peering {
    /// Its local name.
    pub name: PeerName,
    /// The peer's bundle, or why there is none.
    pub bundle: Result<Bundle, NoBundle>,
}

/// The roots of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose identities they vouch for: what the roots say of themselves.
    pub trust_domain: TrustDomain,
    /// PEM, never empty.
    pub roots: Vec<String>,
    /// The partition that the peer exports from.
    pub exported_partition: Partition,
}

/// Why a peering has no bundle that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoBundle {
    /// Nobody keeps its roots up to date.
    #[error(
        "the peering is in the state `{state}`, and only an active one keeps its roots current"
    )]
    Inactive {
        /// As the agent says it.
        state: Excerpt,
    },
    /// It is being deleted.
    #[error("the peering is being deleted")]
    Deleted,
    /// The peer has sent none yet.
    #[error("the peering has no roots yet")]
    NoRoots,
    /// Its roots do not say whose they are.
    #[error(transparent)]
    TrustDomain(#[from] NoTrustDomain),
    /// The partition that the peer exports from is none.
    #[error("the peer's partition: {0}")]
    Partition(IdentityError),
    /// Its entry cannot be read.
    #[error("{0}")]
    Unreadable(ReplyError),
}

/// The peerings that intentions name as sources: a raw list, as the agent gives it. What
/// cannot be read names none; the policy denies by it, and says so.
#[must_use]
pub fn named_by(intentions: &str) -> BTreeSet<String> {
    #[derive(Deserialize)]
    struct About {
        #[serde(rename = "SourcePeer", default)]
        peer: String,
    }
    let items: Option<Vec<&RawValue>> = serde_json::from_str(intentions).unwrap_or_default();
    let items = items.unwrap_or_default().into_iter();
    let about = items.filter_map(|item| serde_json::from_str::<About>(item.get()).ok());
    about
        .map(|about| about.peer)
        .filter(|peer| !peer.is_empty())
        .collect()
}

/// Asks for all peerings; needs `peering:read`. They belong to the agent's own datacenter.
#[must_use]
pub fn request(query: &Query) -> HttpRequest {
    let query = Query {
        datacenter: None,
        ..query.clone()
    };
    Target::new("/v1/peerings")
        .query(&query)
        .request(Method::Get)
}

/// Reads the reply: every peering has its bundle, or the reason why there is none.
///
/// # Errors
/// See [`ReplyError`]; a peering whose name cannot be one, and a name that occurs twice, are
/// refused too.
pub fn decode(reply: &HttpReply<'_>) -> Result<Vec<Peering>, ReplyError> {
    let mut peerings: Vec<Peering> = Vec::new();
    for item in reply.json(MAX_REPLY)?.list()? {
        let fields = item.object()?;
        let name = fields.required("Name")?;
        let read =
            PeerName::parse(&name.string()?).map_err(|error| name.invalid(error.to_string()))?;
        if peerings.iter().any(|other| other.name == read) {
            return Err(name.invalid("this peering is listed twice"));
        }
        peerings.push(Peering {
            name: read,
            bundle: bundle(&fields),
        });
    }
    Ok(peerings)
}

impl Bundle {
    /// As the document `mesh` describes a peer.
    #[must_use]
    pub fn document(&self) -> serde_json::Value {
        serde_json::json!({
            "trust_domain": self.trust_domain.as_str(),
            "roots": self.roots,
            "exported_partition": self.exported_partition.as_str(),
        })
    }
}

fn bundle(fields: &Object<'_>) -> Result<Bundle, NoBundle> {
    let unreadable = NoBundle::Unreadable;
    let state = fields.text("State").map_err(unreadable)?;
    let deleted = fields.text("DeletedAt").map_err(unreadable)?;
    // Go's zero time is none.
    if !deleted.is_empty() && !deleted.starts_with("0001-01-01T") {
        return Err(NoBundle::Deleted);
    }
    // A failing one has lost sight of its peer and comes back by itself; a terminated one
    // keeps the roots that it had for ever.
    if !matches!(state.as_str(), "ACTIVE" | "FAILING") {
        let state = Excerpt::of(&state);
        return Err(NoBundle::Inactive { state });
    }
    let pems = fields.list("PeerCAPems").map_err(unreadable)?;
    let roots: Result<Vec<String>, _> =
        pems.iter().map(crate::agent::json::Value::string).collect();
    let roots = roots.map_err(unreadable)?;
    if roots.is_empty() {
        return Err(NoBundle::NoRoots);
    }
    let remote = fields.optional("Remote").map_err(unreadable)?;
    let partition = match remote {
        Some(remote) => remote
            .object()
            .and_then(|remote| remote.text("Partition"))
            .map_err(unreadable)?,
        None => String::new(),
    };
    let exported_partition = match partition.as_str() {
        "" => Partition::default_partition(),
        name => Partition::parse(name).map_err(NoBundle::Partition)?,
    };
    Ok(Bundle {
        trust_domain: chain::trust_domain_of(&roots)?,
        roots,
        exported_partition,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{ok, status};

    /// The root of a Consul 1.22.2 and the trust domain that it names.
    const ROOT: &str = include_str!("../../../tests/data/consul/p256-root0.pem");
    const TRUST_DOMAIN: &str = "51ed6d89-c0bc-08f4-371d-6d8bfbe0c10e.consul";

    fn reply(change: impl FnOnce(&mut serde_json::Value)) -> Vec<Peering> {
        let mut body = serde_json::json!([{
            "ID": "7af562e1-514b-c672-3434-ae56941215a3",
            "Name": "beta-peer",
            "State": "ACTIVE",
            "PeerCAPems": [ROOT],
            "StreamStatus": { "ImportedServices": ["web"] },
            "Remote": { "Partition": "", "Datacenter": "beta" },
        }]);
        change(&mut body[0]);
        decode(&ok(&body.to_string())).unwrap()
    }

    fn lacks(change: impl FnOnce(&mut serde_json::Value)) -> String {
        reply(change)[0].bundle.clone().unwrap_err().to_string()
    }

    #[test]
    fn an_active_peering_has_the_bundle_that_its_roots_name() {
        let peerings = reply(|_| {});
        assert_eq!(peerings[0].name, "beta-peer");
        let bundle = peerings[0].bundle.as_ref().unwrap();
        assert_eq!(bundle.trust_domain, TRUST_DOMAIN);
        assert_eq!(bundle.roots, [ROOT]);
        assert_eq!(bundle.exported_partition, "default");
        assert!(
            reply(|peering| peering["State"] = "FAILING".into())[0]
                .bundle
                .is_ok()
        );
        let zero = "0001-01-01T00:00:00Z";
        assert!(
            reply(|peering| peering["DeletedAt"] = zero.into())[0]
                .bundle
                .is_ok()
        );
        let other = reply(|peering| peering["Remote"]["Partition"] = "East".into());
        assert_eq!(other[0].bundle.as_ref().unwrap().exported_partition, "east");
    }

    #[test]
    fn without_a_doubtless_bundle_there_is_none() {
        for state in [
            "PENDING",
            "ESTABLISHING",
            "TERMINATED",
            "DELETING",
            "",
            "active",
        ] {
            let text = lacks(|peering| peering["State"] = state.into());
            assert!(text.contains(&format!("state `{state}`")), "{text}");
        }
        let deleted = lacks(|peering| peering["DeletedAt"] = "2026-11-21T17:15:19Z".into());
        assert_eq!(deleted, "the peering is being deleted");
        for none in [serde_json::Value::Null, serde_json::json!([])] {
            let text = lacks(|peering| peering["PeerCAPems"] = none);
            assert_eq!(text, "the peering has no roots yet");
        }
        let text = lacks(|peering| peering["PeerCAPems"] = serde_json::json!(["rubbish"]));
        assert!(text.contains("trust domain"), "{text}");
        let text = lacks(|peering| peering["PeerCAPems"] = serde_json::json!([7]));
        assert!(text.contains("/0/PeerCAPems/0"), "{text}");
        let text = lacks(|peering| peering["Remote"]["Partition"] = "a/b".into());
        assert!(text.contains("partition"), "{text}");
    }

    #[test]
    fn a_list_that_cannot_be_read_is_none() {
        assert_eq!(decode(&ok("[]")), Ok(Vec::new()));
        assert_eq!(decode(&ok("null")), Ok(Vec::new()));
        for body in [
            "{}",
            "[7]",
            r#"[{"State":"ACTIVE"}]"#,
            r#"[{"Name":"a b"}]"#,
        ] {
            assert!(decode(&ok(body)).is_err(), "{body}");
        }
        let twice = r#"[{"Name":"a","State":"PENDING"},{"Name":"a","State":"ACTIVE"}]"#;
        assert!(decode(&ok(twice)).is_err());
        assert!(decode(&status(403)).unwrap_err().is_forbidden());
        assert!(decode(&status(404)).unwrap_err().is_not_found());
    }

    #[test]
    fn intentions_name_peers() {
        let list = r#"[{"SourceName":"web"},{"SourceName":"web","SourcePeer":"b"},7,
            {"SourcePeer":"a"},{"SourcePeer":""},{"SourcePeer":7},{"SourcePeer":"b"}]"#;
        let names = named_by(list);
        assert_eq!(names.iter().collect::<Vec<_>>(), ["a", "b"]);
        for none in ["null", "[]", "{}", ""] {
            assert!(named_by(none).is_empty(), "{none}");
        }
    }

    #[test]
    fn the_question_is_about_the_agents_own_datacenter() {
        let query = Query {
            datacenter: Some("dc2".to_owned()),
            ..Query::default()
        };
        assert_eq!(request(&query).path_and_query, "/v1/peerings");
    }
}
