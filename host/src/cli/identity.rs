//! A SPIFFE ID as commands show it.

use portcullis_core::identity::{Kind, SpiffeId};
use serde::Serialize;

/// A SPIFFE ID taken apart; parts that its kind does not have are absent.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Identity {
    uri: String,
    kind: &'static str,
    trust_domain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacenter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
}

impl From<&SpiffeId> for Identity {
    fn from(id: &SpiffeId) -> Self {
        let mut shown = Self {
            uri: id.to_string(),
            kind: id.kind().name(),
            trust_domain: id.trust_domain().to_string(),
            ..Self::default()
        };
        match id.kind() {
            Kind::Service(path) => {
                shown.partition = Some(path.partition.to_string());
                shown.namespace = Some(path.namespace.to_string());
                shown.datacenter = Some(path.datacenter.to_string());
                shown.service = Some(path.service.to_string());
            }
            Kind::Agent {
                partition,
                datacenter,
                node,
            } => {
                shown.partition = Some(partition.to_string());
                shown.datacenter = Some(datacenter.to_string());
                shown.agent = Some(node.to_string());
            }
            Kind::Server { datacenter } => shown.datacenter = Some(datacenter.to_string()),
            Kind::MeshGateway {
                partition,
                datacenter,
            } => {
                shown.partition = Some(partition.to_string());
                shown.datacenter = Some(datacenter.to_string());
            }
            Kind::Signing | Kind::Other { .. } => {}
        }
        shown
    }
}

impl Identity {
    /// Its trust domain.
    pub(crate) fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Names and values for people; names are checked by parsing, so they are printable.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        let optional = [
            ("service", &self.service),
            ("agent", &self.agent),
            ("namespace", &self.namespace),
            ("partition", &self.partition),
            ("datacenter", &self.datacenter),
        ];
        let mut rows = vec![
            ("identity", self.uri.clone()),
            ("kind", self.kind.to_owned()),
        ];
        rows.extend(
            optional
                .into_iter()
                .filter_map(|(name, value)| Some((name, value.clone()?))),
        );
        rows.push(("trust domain", self.trust_domain.clone()));
        rows
    }
}
