//! Paths: rotation, order, limits, and what intermediates may do.

use std::sync::atomic::{AtomicUsize, Ordering};

use portcullis_core::chain::{
    IssuerProblem, KeyProblem, Usage, VerifyError, VerifyErrorKind, rustcrypto, verify_peer,
};
use portcullis_testkit::{BadPublicKey, Draft, KeyType, SignatureAlgorithm, TestCa};
use rustls_pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};

use crate::support::{bundles, check, code, now_of};
use crate::{Change, TD};

#[test]
fn every_kind_of_ca_key_verifies() {
    for key in [
        KeyType::P256,
        KeyType::P384,
        KeyType::P521,
        KeyType::Rsa2048,
        KeyType::Rsa4096,
        KeyType::Ed25519,
    ] {
        let ca = TestCa::with_key(TD, key);
        check(&ca, &ca.service("web").issue()).unwrap_or_else(|error| panic!("{key:?}: {error}"));
        let bad = ca.service("web").with(Draft::bad_signature).issue();
        assert_eq!(code(&ca, &bad), "bad-signature", "{key:?}");
    }
    for key in [KeyType::P384, KeyType::Ed25519, KeyType::Rsa2048] {
        let ca = TestCa::new(TD);
        check(&ca, &ca.service("web").with(|leaf| leaf.key(key)).issue()).unwrap();
    }
}

#[test]
fn limits_hold_before_anything_is_read() {
    let ca = TestCa::new(TD);
    let now = now_of(&ca);
    let junk = vec![vec![0_u8; 10]; 7];
    let verify = |chain: &[Vec<u8>]| {
        verify_peer(
            chain,
            Usage::Client,
            None,
            &bundles(&[&ca]),
            now,
            rustcrypto(),
        )
        .unwrap_err()
    };
    assert_eq!(verify(&[]), VerifyError::EmptyChain);
    assert_eq!(verify(&junk), VerifyError::TooManyCertificates { count: 7 });
    assert_eq!(
        verify(&[vec![0; 16_385]]),
        VerifyError::ChainTooLarge { bytes: 16_385 }
    );
    assert_eq!(
        verify(&[vec![0; 16_384]]),
        VerifyError::MalformedCertificate { position: 0 }
    );
    let mut chain = ca.service("web").issue().chain_der();
    chain.push(vec![0x30, 0]);
    assert_eq!(
        verify(&chain),
        VerifyError::MalformedCertificate { position: 1 }
    );
    let mut trailing = ca.service("web").issue().chain_der();
    trailing[0].push(0);
    assert_eq!(
        verify(&trailing),
        VerifyError::MalformedCertificate { position: 0 }
    );
    let large = ca.service("web").with(|leaf| leaf.padding(15_000)).issue();
    check(&ca, &large).unwrap();
}

#[test]
fn at_most_eight_signatures_are_checked() {
    let ca = TestCa::new(TD);
    // Five intermediates of one name, all acceptable but for their signatures, under a
    // root that also has that name: every order of them is a path.
    let name = "twin";
    let root = TestCa::with(TD, |root| root.subject(name));
    let twins: Vec<_> = (0..5)
        .map(|_| {
            root.intermediate(|twin| twin.subject(name).bad_signature())
                .certificate()
                .clone()
        })
        .collect();
    let stranger = TestCa::with(TD, |stranger| stranger.subject(name));
    let leaf = stranger.service("web").issue().presenting(&twins);
    assert_eq!(code(&root, &leaf), "too-many-signature-checks");
    // With one of them there is room to find out what is wrong.
    let leaf = stranger.service("web").issue().presenting(&twins[..1]);
    assert_eq!(code(&root, &leaf), "bad-signature");
    assert_eq!(code(&ca, &leaf), "unknown-issuer");
}

/// P-256 with SHA-256, counting how often it is asked.
#[derive(Debug)]
struct Counting;

static ASKED: AtomicUsize = AtomicUsize::new(0);

impl SignatureVerificationAlgorithm for Counting {
    fn verify_signature(&self, _: &[u8], _: &[u8], _: &[u8]) -> Result<(), InvalidSignature> {
        ASKED.fetch_add(1, Ordering::Relaxed);
        Err(InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
}

#[test]
fn the_ninth_signature_is_not_looked_at() {
    let name = "twin";
    let root = TestCa::with(TD, |root| root.subject(name));
    let twins = [(); 5].map(|()| {
        root.intermediate(|twin| twin.subject(name))
            .certificate()
            .clone()
    });
    let leaf = root.service("web").issue().presenting(&twins);
    let all = bundles(&[&root]);
    let error = verify_peer(
        leaf.chain(),
        Usage::Client,
        None,
        &all,
        now_of(&root),
        &[&Counting],
    )
    .unwrap_err();
    assert_eq!(error, VerifyError::TooManySignatureChecks);
    assert_eq!(ASKED.load(Ordering::Relaxed), 8);
}

#[test]
fn a_root_that_nobody_asks_for_explains_nothing() {
    let (ca, old) = (TestCa::new(TD), TestCa::with(TD, Draft::expired));
    let leaf = TestCa::new(TD).service("web").issue();
    let all = bundles(&[&ca, &old]);
    let error = verify_peer(
        leaf.chain(),
        Usage::Client,
        None,
        &all,
        now_of(&ca),
        rustcrypto(),
    )
    .unwrap_err();
    assert_eq!(error.code(), "unknown-issuer");
}

#[test]
fn rotation_is_survived_from_both_sides() {
    let old = TestCa::new(TD);
    let new = TestCa::with_key(TD, KeyType::P384);
    let cross = old.cross_sign(&new);
    let leaf = new
        .service("web")
        .issue()
        .presenting(std::slice::from_ref(&cross));
    check(&new, &leaf).expect("who trusts the new root only");
    check(&old, &leaf).expect("who trusts the old root only");
    let peer = verify_peer(
        leaf.chain(),
        Usage::Client,
        None,
        &bundles(&[&new, &old]),
        now_of(&new),
        rustcrypto(),
    );
    peer.expect("who trusts both");
    assert_eq!(
        code(&old, &new.service("web").issue()),
        "unknown-issuer",
        "without the intermediate"
    );
    let old_leaf = old.service("web").issue();
    let both = bundles(&[&new, &old]);
    verify_peer(
        old_leaf.chain(),
        Usage::Client,
        None,
        &both,
        now_of(&old),
        rustcrypto(),
    )
    .expect("an old leaf");
}

#[test]
fn an_expired_cross_certificate_hurts_only_where_it_is_needed() {
    let old = TestCa::new(TD);
    let new = TestCa::new(TD);
    let cross = old.cross_sign_with(&new, Draft::expired);
    let leaf = new.service("web").issue().presenting(&[cross]);
    check(&new, &leaf).expect("the direct path is good");
    assert_eq!(code(&old, &leaf), "issuer-expired");
    let both = bundles(&[&old, &new]);
    verify_peer(
        leaf.chain(),
        Usage::Client,
        None,
        &both,
        now_of(&new),
        rustcrypto(),
    )
    .expect("a good path");
}

#[test]
fn order_and_repetition_do_not_matter() {
    let ca = TestCa::new(TD);
    let first = ca.intermediate(|ca| ca);
    let second = first.intermediate(|ca| ca);
    let third = second.intermediate(|ca| ca);
    let stranger = TestCa::new("elsewhere.example").intermediate(|ca| ca);
    let [a, b, c] = [&first, &second, &third].map(|ca| ca.certificate().clone());
    let noise = stranger.certificate().clone();
    let leaf = third.service("web").issue();
    let own = leaf.certificate().clone();
    for order in [
        vec![&c, &b, &a],
        vec![&a, &b, &c],
        vec![&b, &noise, &c, &a],
        vec![&a, &a, &c, &b, &b],
        vec![&own, &a, &c, &own, &b],
        vec![&c, ca.certificate(), &b, &a],
    ] {
        let chain: Vec<_> = std::iter::once(&own).chain(order).cloned().collect();
        verify_peer(
            &chain,
            Usage::Server,
            None,
            &bundles(&[&ca]),
            now_of(&ca),
            rustcrypto(),
        )
        .expect("a path");
    }
    let chain = [own, c, a];
    let error = verify_peer(
        &chain,
        Usage::Server,
        None,
        &bundles(&[&ca]),
        now_of(&ca),
        rustcrypto(),
    )
    .unwrap_err();
    assert_eq!(error.code(), "unknown-issuer", "a gap");
}

#[test]
fn intermediates_must_be_allowed_to_issue() {
    let ca = TestCa::new(TD);
    let cases: [(Change, IssuerProblem); 6] = [
        (Draft::not_ca, IssuerProblem::NotCa),
        (Draft::without_cert_sign, IssuerProblem::NoCertSign),
        (Draft::negative_serial, IssuerProblem::NegativeSerial),
        (|ca| ca.valid(60, -60), IssuerProblem::BadValidity),
        (
            |ca| ca.public_key(BadPublicKey::Rsa1024),
            IssuerProblem::Key(KeyProblem::RsaSize { bits: 1024 }),
        ),
        (
            |ca| ca.signature_algorithm(SignatureAlgorithm::EcdsaSha1),
            IssuerProblem::Signature("ECDSA with SHA-1"),
        ),
    ];
    for (change, expected) in cases {
        let bad = ca.intermediate(change);
        match check(&ca, &bad.service("web").issue()) {
            Err(VerifyError::UnusableIssuer { problem, .. }) => assert_eq!(problem, expected),
            other => panic!("{expected:?}: {other:?}"),
        }
    }
    let bad = ca.intermediate(Draft::bad_signature);
    assert_eq!(code(&ca, &bad.service("web").issue()), "bad-signature");
    let bad = ca.intermediate(Draft::unknown_critical_extension);
    assert_eq!(code(&ca, &bad.service("web").issue()), "no-path");
    let client_only = ca.intermediate(Draft::client_only);
    check(&ca, &client_only.service("web").issue()).expect("an issuer for clients");
    let server_only = ca.intermediate(Draft::server_only);
    assert_eq!(code(&ca, &server_only.service("web").issue()), "no-path");
    // A workload's leaf cannot issue another.
    let web = ca.service("web").issue();
    let forged = ca
        .intermediate(|ca| ca.not_ca().without_cert_sign())
        .service("db")
        .issue();
    let chain = [forged.certificate().clone(), web.certificate().clone()];
    let error = verify_peer(
        &chain,
        Usage::Client,
        None,
        &bundles(&[&ca]),
        now_of(&ca),
        rustcrypto(),
    )
    .unwrap_err();
    assert_eq!(error.code(), "unknown-issuer");
}

#[test]
fn path_length_and_name_constraints_are_kept() {
    let ca = TestCa::new(TD);
    let short = ca.intermediate(|ca| ca.path_len(0));
    check(&ca, &short.service("web").issue()).expect("no CA below");
    let below = short.intermediate(|ca| ca);
    assert_eq!(code(&ca, &below.service("web").issue()), "path-length");

    for change in [
        |ca: Draft| ca.uri_name_constraints(TD),
        |ca: Draft| ca.excluded_uri("other.example"),
    ] {
        let constrained = ca.intermediate(change);
        let error = check(&ca, &constrained.service("web").issue()).unwrap_err();
        assert_eq!(
            (error.code(), error.kind()),
            ("uri-name-constraints", VerifyErrorKind::Untrusted)
        );
    }
    let dns = ca.intermediate(|ca| ca.dns_name_constraints("mesh.example"));
    check(&ca, &dns.service("web").issue()).expect("no DNS name");
    check(
        &ca,
        &dns.service("web")
            .with(|leaf| leaf.dns("web.mesh.example"))
            .issue(),
    )
    .expect("a permitted name");
    let bad = dns
        .service("web")
        .with(|leaf| leaf.dns("web.other.example"))
        .issue();
    assert_eq!(code(&ca, &bad), "name-constraints");
}

#[test]
fn every_certificate_is_of_version_3() {
    let ca = TestCa::new(TD);
    for number in [0, 1, 3] {
        let leaf = ca.service("web").with(|leaf| leaf.version(number)).issue();
        let position = |error| matches!(error, VerifyError::MalformedCertificate { position: 0 });
        assert!(
            check(&ca, &leaf).is_err_and(position),
            "version field {number}"
        );
        let below = ca
            .intermediate(|ca| ca.version(number))
            .service("web")
            .issue();
        let position = |error| matches!(error, VerifyError::MalformedCertificate { position: 1 });
        assert!(
            check(&ca, &below).is_err_and(position),
            "version field {number}"
        );
    }
}
