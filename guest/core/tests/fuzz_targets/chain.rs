//! Presented chains. Only leaves that a CA really signed are ever accepted.

use std::sync::LazyLock;

use portcullis_core::chain::{Bundles, TrustBundle, Usage, rustcrypto, verify_peer};
use portcullis_core::identity::TrustDomain;
use portcullis_core::time::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

const TRUST_DOMAIN: &str = "51ed6d89-c0bc-08f4-371d-6d8bfbe0c10e.consul";
const CHAINS: [&str; 4] = ["p256", "p256-to-p384", "p384-to-rsa", "rsa-to-p521"];
/// 2026-11-21T05:15:00Z.
const NOW: Timestamp = Timestamp::from_unix_secs(1_795_238_100);

struct World {
    bundles: Bundles,
    leaves: Vec<Vec<u8>>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let roots: Vec<String> = (0..4)
        .map(|i| super::data(&format!("consul/rsa-to-p521-root{i}.pem")))
        .map(|pem| String::from_utf8(pem).expect("PEM"))
        .collect();
    let trust_domain = TrustDomain::parse(TRUST_DOMAIN).expect("a trust domain");
    let bundle = TrustBundle::from_pem(trust_domain, &roots).expect("roots");
    let leaves = CHAINS
        .iter()
        .filter_map(|set| certificates(set).into_iter().next())
        .collect();
    World {
        bundles: Bundles::new(bundle),
        leaves,
    }
});

/// Verifies what the bytes hold: certificates, each after its length in two bytes.
pub fn run(input: &[u8]) {
    let chain = split(input);
    let verified = verify_peer(
        &chain,
        Usage::Client,
        None,
        &WORLD.bundles,
        NOW,
        rustcrypto(),
    );
    match verified {
        Ok(peer) => {
            let leaf = chain.first().expect("a leaf");
            assert!(
                WORLD.leaves.iter().any(|known| known == leaf),
                "a forged leaf: {peer:?}"
            );
            assert!(peer.not_after >= NOW);
        }
        Err(error) => {
            let text = format!("{error} {}", error.code());
            assert!(
                text.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                "{text:?}"
            );
        }
    }
}

/// Chains of a real Consul agent.
pub fn seeds() -> Vec<Vec<u8>> {
    CHAINS.iter().map(|set| join(&certificates(set))).collect()
}

fn certificates(set: &str) -> Vec<Vec<u8>> {
    let pem = super::data(&format!("consul/{set}-leaf.pem"));
    CertificateDer::pem_slice_iter(&pem)
        .map(|der| der.expect("PEM").to_vec())
        .collect()
}

fn join(chain: &[Vec<u8>]) -> Vec<u8> {
    let length = |der: &[u8]| {
        u16::try_from(der.len())
            .expect("below 64 KiB")
            .to_be_bytes()
    };
    chain
        .iter()
        .flat_map(|der| [&length(der)[..], der].concat())
        .collect()
}

fn split(mut input: &[u8]) -> Vec<&[u8]> {
    let mut chain = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (der, rest) = rest.split_at(length);
        chain.push(der);
        input = rest;
    }
    chain
}
