//! Chains that others made: a real Consul agent through three rotations, and OpenSSL
//! with every pair of CA key and hash. See `data/README.md`.

use std::path::PathBuf;

use portcullis_core::chain::{
    BundleError, Bundles, IssuerProblem, KeyProblem, TrustBundle, Usage, VerifiedPeer, VerifyError,
    rustcrypto, verify_peer,
};
use portcullis_core::identity::TrustDomain;
use portcullis_core::time::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

const CONSUL: &str = "51ed6d89-c0bc-08f4-371d-6d8bfbe0c10e.consul";
const OPENSSL: &str = "vectors.example";

fn read(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn chain(name: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(read(name).as_bytes())
        .map(|der| der.expect("PEM"))
        .collect()
}

fn bundles(trust_domain: &str, roots: &[String]) -> Result<Bundles, BundleError> {
    let pems: Vec<String> = roots.iter().map(|name| read(name)).collect();
    let trust_domain = TrustDomain::parse(trust_domain).expect("a trust domain");
    TrustBundle::from_pem(trust_domain, &pems).map(Bundles::new)
}

fn at(time: &str) -> Timestamp {
    Timestamp::parse(time).expect("a time")
}

fn consul_at(set: &str, roots: &[usize], time: &str) -> Result<VerifiedPeer, VerifyError> {
    let roots: Vec<String> = roots
        .iter()
        .map(|i| format!("consul/{set}-root{i}.pem"))
        .collect();
    let all = bundles(CONSUL, &roots).expect("Consul's roots");
    let chain = chain(&format!("consul/{set}-leaf.pem"));
    verify_peer(&chain, Usage::Client, None, &all, at(time), rustcrypto())
}

fn consul(set: &str, roots: &[usize]) -> &'static str {
    consul_at(set, roots, "2026-11-21T05:15:00Z").map_or_else(|error| error.code(), |_| "ok")
}

#[test]
fn a_leaf_of_real_consul_is_read_in_full() {
    let peer = consul_at("p256", &[0], "2026-11-21T05:15:00Z").unwrap();
    assert_eq!(
        peer.id.to_string(),
        format!("spiffe://{CONSUL}/ns/default/dc/dc1/svc/web")
    );
    assert_eq!(peer.serial, "09");
    assert_eq!(peer.not_after, at("2026-11-24T05:07:25Z"));
    let time = |time| consul_at("p256", &[0], time).map_or_else(|error| error.code(), |_| "ok");
    assert_eq!(time("2026-11-24T05:07:25Z"), "ok");
    assert_eq!(time("2026-11-24T05:07:26Z"), "expired");
    assert_eq!(time("2026-11-21T05:07:24Z"), "not-yet-valid");
    assert_eq!(
        time("2026-11-21T05:08:00Z"),
        "issuer-not-yet-valid",
        "a clock behind the server's"
    );
}

#[test]
fn rotations_of_real_consul_verify_by_every_path() {
    // The roots stand in Consul's own order, which is not by age.
    assert_eq!(consul("p256-to-p384", &[0, 1]), "ok");
    assert_eq!(consul("p256-to-p384", &[0]), "ok");
    assert_eq!(consul("p256-to-p384", &[1]), "ok");

    // RSA, P-384, P-256: the new root, and the one that cross-signed it.
    assert_eq!(consul("p384-to-rsa", &[0, 1, 2]), "ok");
    let alone = [0, 1, 2].map(|root| consul("p384-to-rsa", &[root]));
    assert_eq!(alone, ["ok", "ok", "unknown-issuer"]);

    // RSA, P-384, P-256, P-521.
    assert_eq!(consul("rsa-to-p521", &[0, 1, 2, 3]), "ok");
    let alone = [0, 1, 2, 3].map(|root| consul("rsa-to-p521", &[root]));
    assert_eq!(alone, ["ok", "unknown-issuer", "unknown-issuer", "ok"]);
}

#[test]
fn a_root_of_another_mesh_does_not_help() {
    let other = bundles(CONSUL, &["openssl/p256-sha256-root.pem".to_owned()]).unwrap();
    let chain = chain("consul/p256-leaf.pem");
    let now = at("2026-11-21T05:15:00Z");
    let error = verify_peer(&chain, Usage::Client, None, &other, now, rustcrypto()).unwrap_err();
    assert_eq!(error.code(), "unknown-issuer");
}

fn openssl(name: &str) -> Result<VerifiedPeer, VerifyError> {
    let all = bundles(OPENSSL, &[format!("openssl/{name}-root.pem")]).expect("a root");
    let chain = chain(&format!("openssl/{name}-leaf.pem"));
    verify_peer(
        &chain,
        Usage::Server,
        None,
        &all,
        at("2026-11-22T00:00:00Z"),
        rustcrypto(),
    )
}

#[test]
fn every_supported_algorithm_verifies_what_openssl_signed() {
    let mut names = vec!["ed25519".to_owned()];
    for key in ["p256", "p384", "p521", "rsa2048", "rsa3072", "rsa4096"] {
        names.extend(["256", "384", "512"].map(|hash| format!("{key}-sha{hash}")));
    }
    for name in names {
        openssl(&name).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn refused_algorithms_are_named() {
    let root = |name: &str| bundles(OPENSSL, &[format!("openssl/{name}-root.pem")]).unwrap_err();
    for hash in ["256", "384", "512"] {
        let error = root(&format!("p224-sha{hash}"));
        assert!(
            matches!(
                error,
                BundleError::Unusable {
                    problem: IssuerProblem::Key(KeyProblem::Curve("P-224")),
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("P-224"), "{error}");
    }
    for (name, bits) in [("rsa1024-sha256", 1024), ("rsa8192-sha256", 8192)] {
        let problem = IssuerProblem::Key(KeyProblem::RsaSize { bits });
        assert!(
            matches!(root(name), BundleError::Unusable { problem: p, .. } if p == problem),
            "{name}"
        );
    }
    for (name, algorithm) in [
        ("rsa2048-sha1", "RSA with SHA-1"),
        ("p256-sha1", "ECDSA with SHA-1"),
    ] {
        assert_eq!(
            openssl(name).unwrap_err(),
            VerifyError::UnsupportedSignature { algorithm }
        );
    }
}

#[test]
fn no_single_changed_byte_is_accepted() {
    let all = bundles(CONSUL, &["consul/p256-root0.pem".to_owned()]).unwrap();
    let good = chain("consul/p256-leaf.pem").remove(0).to_vec();
    let now = at("2026-11-21T05:15:00Z");
    let verify = |der: Vec<u8>| verify_peer(&[der], Usage::Client, None, &all, now, rustcrypto());
    verify(good.clone()).expect("unchanged");
    for place in 0..good.len() {
        for change in [0x01, 0x20, 0x80] {
            let mut bad = good.clone();
            bad[place] ^= change;
            assert!(
                verify(bad).is_err(),
                "byte {place} changed by {change:#x} is accepted"
            );
        }
        assert!(verify(good[..place].to_vec()).is_err(), "cut at {place}");
    }
}
