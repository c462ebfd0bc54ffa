//! Roots as PEM. What is accepted has at least one root.

use portcullis_core::chain::TrustBundle;
use portcullis_core::identity::TrustDomain;

/// Reads the bytes as one text with roots.
pub fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let trust_domain = TrustDomain::parse("mesh.example").expect("a trust domain");
    match TrustBundle::from_pem(trust_domain, &[text]) {
        Ok(bundle) => assert!(!bundle.is_empty()),
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                "{text:?}"
            );
        }
    }
}

/// Roots of Consul and OpenSSL, good ones and refused ones.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "consul/p256-root0.pem",
        "consul/rsa-to-p521-root0.pem",
        "consul/rsa-to-p521-root1.pem",
        "openssl/ed25519-root.pem",
        "openssl/p224-sha256-root.pem",
    ]
    .map(super::data)
    .to_vec()
}
