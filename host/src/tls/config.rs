//! rustls configurations: TLS 1.2 and 1.3, both sides authenticated, nothing resumed.
//!
//! A resumed session would carry a verdict of yesterday, so there are no session
//! caches, tickets or early data on either side.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::{CipherSuite, ClientConfig, Error, ServerConfig};
use rustls_pki_types::{IpAddr, ServerName};

use portcullis_core::identity::{ServicePath, SpiffeId};

use super::callbacks::Callbacks;
use super::leaf::LeafStore;

/// aws-lc-rs with TLS 1.3 and, of TLS 1.2, ECDHE with an AEAD.
pub(super) fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| {
        matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS13_AES_256_GCM_SHA384
                | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
                | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        )
    });
    Arc::new(provider)
}

/// What a server of ours says in ALPN: `ours` if the client offers any of it, else
/// nothing. rustls would abort where Envoy goes on, and Consul's library offers only `h2`.
pub(super) fn alpn(hello: &ClientHello<'_>, ours: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let common = hello
        .alpn()
        .is_some_and(|mut offered| offered.any(|name| ours.iter().any(|our| our == name)));
    if common { ours.to_vec() } else { Vec::new() }
}

pub(super) fn server(
    provider: &Arc<CryptoProvider>,
    callbacks: Callbacks,
    leaf: Arc<LeafStore>,
    alpn: Vec<Vec<u8>>,
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(Arc::new(callbacks))
        .with_cert_resolver(leaf);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = alpn;
    Ok(config)
}

pub(super) fn client(
    provider: &Arc<CryptoProvider>,
    callbacks: Callbacks,
    leaf: Arc<LeafStore>,
    alpn: Vec<Vec<u8>>,
) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(callbacks))
        .with_client_cert_resolver(leaf);
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.alpn_protocols = alpn;
    Ok(config)
}

/// The server name that mesh gateways route by; plain Connect servers ignore it.
///
/// A service whose name cannot stand in a DNS name is asked without SNI.
pub(super) fn server_name(id: &SpiffeId) -> ServerName<'static> {
    let named = sni_of(id).and_then(|name| ServerName::try_from(name).ok());
    // An IP address as the server's name sends no SNI.
    named.unwrap_or_else(|| ServerName::IpAddress(IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED)))
}

/// The same as text; absent where it cannot stand in a DNS name.
pub(crate) fn sni_of(id: &SpiffeId) -> Option<String> {
    let name = sni(id.trust_domain().as_str(), id.service()?);
    ServerName::try_from(name.as_str()).is_ok().then_some(name)
}

fn sni(trust_domain: &str, path: &ServicePath) -> String {
    let ServicePath {
        partition,
        namespace,
        datacenter,
        service,
    } = path;
    let (service, namespace, partition, datacenter) = (
        service.as_str(),
        namespace.as_str(),
        partition.as_str(),
        datacenter.as_str(),
    );
    if partition == "default" {
        format!("{service}.{namespace}.{datacenter}.internal.{trust_domain}")
    } else {
        format!("{service}.{namespace}.{partition}.{datacenter}.internal-v1.{trust_domain}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_what_consul_offers_and_all_have_forward_secrecy() {
        assert_eq!(provider().cipher_suites.len(), 9);
    }

    #[test]
    fn server_names_have_consuls_form() {
        let name = |uri: &str| {
            server_name(&SpiffeId::parse(uri).unwrap())
                .to_str()
                .into_owned()
        };
        assert_eq!(
            name("spiffe://td.consul/ns/default/dc/dc1/svc/db"),
            "db.default.dc1.internal.td.consul"
        );
        assert_eq!(
            name("spiffe://td.consul/ap/one/ns/n/dc/dc1/svc/db"),
            "db.n.one.dc1.internal-v1.td.consul"
        );
        assert_eq!(
            name(&format!(
                "spiffe://td.consul/ns/default/dc/dc1/svc/{}",
                "a".repeat(64)
            )),
            "0.0.0.0"
        );
    }
}
