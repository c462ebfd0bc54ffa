//! Our roots and those of peers, each for its own trust domain alone.
//!
//! Envoy's own validator believes every root for every name. Its SPIFFE validator chooses the
//! roots by the trust domain that the certificate names, as the policy does, and as Consul
//! configures it in its sidecars. It has one bundle for each trust domain, and knows no
//! partitions.
//!
//! <https://www.envoyproxy.io/docs/envoy/v1.38.0/api-v3/extensions/transport_sockets/tls/v3/tls_spiffe_validator_config.proto>

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config as spiffe;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, SpiffeCertValidatorConfig,
};
use envoy_types::pb::google::protobuf::Any;
use portcullis_core::chain::TrustBundle;
use portcullis_core::identity::TrustDomain;
use prost::{Message as _, Name as _};

use super::secrets::{inline, joined};
use crate::watcher::{KnownPeer, KnownPeers, MeshRoots};

/// Name of the validation context with the roots of the mesh and those of its peers.
pub const BUNDLES: &str = "bundles";

/// The validator of Envoy that chooses roots by trust domain.
const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";

/// The validation context by what is known.
pub(super) fn context(own: &MeshRoots, peers: &KnownPeers) -> CertificateValidationContext {
    let mut bundles = BTreeMap::from([(own.trust_domain.as_str(), own.pems.clone())]);
    bundles.extend(believed(&own.trust_domain, peers));
    let trust_domains = bundles.into_iter().map(|(name, pems)| spiffe::TrustDomain {
        name: name.to_owned(),
        trust_bundle: Some(inline(joined(&pems).as_bytes())),
        ..spiffe::TrustDomain::default()
    });
    let config = SpiffeCertValidatorConfig {
        trust_domains: trust_domains.collect(),
        ..SpiffeCertValidatorConfig::default()
    };
    CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig {
            name: VALIDATOR.to_owned(),
            typed_config: Some(Any {
                type_url: SpiffeCertValidatorConfig::type_url(),
                value: config.encode_to_vec(),
            }),
        }),
        ..CertificateValidationContext::default()
    }
}

/// The roots of peers by trust domain. Where two peers share one, by partitions that Envoy
/// cannot tell apart, one could vouch for the other's services: then it gets neither.
fn believed<'p>(own: &str, peers: &'p KnownPeers) -> BTreeMap<&'p str, Vec<String>> {
    let mut found: BTreeMap<&str, Vec<(&str, &KnownPeer)>> = BTreeMap::new();
    for (name, peer) in peers {
        if let Some(trust_domain) = peer.trust_domain.as_deref().filter(|domain| *domain != own) {
            found.entry(trust_domain).or_default().push((name, peer));
        }
    }
    let alone = found.into_iter().filter_map(|(trust_domain, sharing)| {
        if let [(name, peer)] = sharing.as_slice() {
            let roots = readable(name, trust_domain, &peer.roots);
            return (!roots.is_empty()).then_some((trust_domain, roots));
        }
        let names: Vec<&str> = sharing.iter().map(|(name, _)| *name).collect();
        tracing::warn!(
            trust_domain,
            peers = names.join(","),
            "these peers have one trust domain, and Envoy cannot tell their partitions apart: it believes neither"
        );
        None
    });
    alone.collect()
}

/// The roots that the policy can use, too: for one that Envoy cannot read it would refuse the
/// whole secret, and with it our own roots.
fn readable(name: &str, trust_domain: &str, roots: &[String]) -> Vec<String> {
    let is_good = |root: &&String| {
        let Ok(trust_domain) = TrustDomain::parse(trust_domain) else {
            return false;
        };
        match TrustBundle::from_pem(trust_domain, std::slice::from_ref(*root)) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(peer = name, %error, "Envoy is not told of a root of this peer");
                false
            }
        }
    };
    roots.iter().filter(is_good).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use portcullis_testkit::TestCa;

    fn peer(trust_domain: Option<&str>, root: &str) -> KnownPeer {
        KnownPeer {
            trust_domain: trust_domain.map(str::to_owned),
            roots: vec![root.to_owned()],
            ..KnownPeer::default()
        }
    }

    #[test]
    fn each_trust_domain_has_its_own_roots() {
        let own = MeshRoots {
            trust_domain: "own.consul".to_owned(),
            active: String::new(),
            pems: vec!["own".to_owned(), "old\n".to_owned()],
            intermediates: vec!["no root".to_owned()],
        };
        let ca = TestCa::new("beta.consul").pem();
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let mut beta = peer(Some("beta.consul"), &ca);
        beta.roots.push(broken.to_owned());
        let peers = KnownPeers::from([
            ("beta".to_owned(), beta),
            ("broken".to_owned(), peer(Some("broken.consul"), broken)),
            ("unknown".to_owned(), peer(None, "unknown")),
            ("forger".to_owned(), peer(Some("own.consul"), "forger")),
            ("east".to_owned(), peer(Some("twin.consul"), "east")),
            ("west".to_owned(), peer(Some("twin.consul"), "west")),
        ]);
        let context = context(&own, &peers);
        assert_eq!(context.trusted_ca, None);
        let validator = context.custom_validator_config.unwrap();
        assert_eq!(validator.name, VALIDATOR);
        let config = validator.typed_config.unwrap();
        let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).unwrap();
        assert_eq!(config.trust_bundles, None);
        let found: Vec<_> = config
            .trust_domains
            .into_iter()
            .map(|domain| (domain.name, domain.trust_bundle))
            .collect();
        let expected = [("beta.consul", ca.as_str()), ("own.consul", "own\nold\n")]
            .map(|(name, pem)| (name.to_owned(), Some(inline(pem.as_bytes()))));
        assert_eq!(found, expected);
    }
}
