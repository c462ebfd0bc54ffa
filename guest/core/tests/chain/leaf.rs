//! The leaf's rules, each broken once by a certificate that differs from a good one in one thing.

use portcullis_core::chain::{
    KeyProblem, Usage, VerifyError, VerifyErrorKind, rustcrypto, verify_peer,
};
use portcullis_core::identity::SpiffeId;
use portcullis_testkit::{BadPublicKey, Draft, SignatureAlgorithm, TestCa, TestLeaf};

use crate::support::{bundles, check, now_of, spoilt};
use crate::{Change, TD};

#[test]
fn a_good_leaf_is_verified_in_either_use() {
    let ca = TestCa::new(TD);
    let leaf = ca
        .service("web")
        .with(|leaf| leaf.serial(&[0x01, 0x2a]).dns("web.example"))
        .issue();
    for usage in [Usage::Client, Usage::Server] {
        let now = now_of(&ca);
        let peer = verify_peer(
            leaf.chain(),
            usage,
            None,
            &bundles(&[&ca]),
            now,
            rustcrypto(),
        )
        .unwrap();
        assert_eq!(peer.id.to_string(), ca.service_id("web"));
        assert_eq!(peer.peer, None);
        assert_eq!(peer.serial, "01:2a");
        assert_eq!(
            peer.not_after,
            now.saturating_add_millis((72 * 3_600 - 60) * 1_000)
        );
    }
}

#[test]
fn exactly_one_uri_name_is_an_identity() {
    let good = "spiffe://mesh.example/ns/default/dc/dc1/svc/web";
    let other = "spiffe://mesh.example/ns/default/dc/dc1/svc/db";
    assert_eq!(
        spoilt(|leaf| leaf.uris(&[good, other])),
        "several-uri-names"
    );
    assert_eq!(
        spoilt(|leaf| leaf.uris(&[other, good])),
        "several-uri-names"
    );
    assert_eq!(
        spoilt(|leaf| leaf.two_uris(good)),
        "several-uri-names",
        "the same one twice"
    );
    assert_eq!(
        spoilt(|leaf| leaf.two_uris("https://web.example")),
        "several-uri-names"
    );
    assert_eq!(
        spoilt(|leaf| leaf.second_raw_uri(&[0xff, 0xfe])),
        "several-uri-names",
        "not UTF-8"
    );
    assert_eq!(
        spoilt(|leaf| leaf.second_raw_uri(&[])),
        "several-uri-names",
        "empty"
    );
    assert_eq!(spoilt(Draft::no_uri), "no-uri-name");
    assert_eq!(spoilt(Draft::uri_in_dns), "no-uri-name");
    assert_eq!(spoilt(Draft::uri_in_email), "no-uri-name");
    assert_eq!(spoilt(Draft::uri_in_other_name), "no-uri-name");
    assert_eq!(spoilt(Draft::uri_in_common_name), "no-uri-name");
    assert_eq!(
        spoilt(Draft::uri_in_constructed_form),
        "malformed-extension"
    );
    assert_eq!(spoilt(Draft::duplicate_san), "malformed-extension");
}

#[test]
fn the_uri_name_must_be_a_spiffe_id_with_a_path() {
    for uri in [
        &b"spiffe://mesh.example/ns/default/dc/dc1/svc/w\xffb"[..],
        b"spiffe://mesh.example/ns/default/dc/dc1/svc/web\0",
        b"SPIFFE://mesh.example/ns/default/dc/dc1/svc/web",
        b"spiffe://Mesh.example/ns/default/dc/dc1/svc/web",
        b"spiffe://mesh.example:443/ns/default/dc/dc1/svc/web",
        b"spiffe://x@mesh.example/ns/default/dc/dc1/svc/web",
        b"spiffe://mesh.example/ns/default/dc/dc1/svc/w%65b",
        b"https://mesh.example/ns/default/dc/dc1/svc/web",
        b"",
        &[b'a'; 2049],
    ] {
        assert_eq!(
            spoilt(|leaf| leaf.raw_uri(uri)),
            "malformed-identity",
            "{}",
            uri.escape_ascii()
        );
    }
    assert_eq!(
        spoilt(|leaf| leaf.uris(&["spiffe://mesh.example"])),
        "identity-without-path"
    );
    let ca = TestCa::new(TD);
    let gateway = ca.leaf("spiffe://mesh.example/gateway/mesh/dc/dc1").issue();
    assert_eq!(
        check(&ca, &gateway).unwrap().id.kind().name(),
        "mesh-gateway"
    );
}

#[test]
fn the_leaf_keeps_spiffes_rules() {
    assert_eq!(spoilt(Draft::ca_leaf), "leaf-is-ca");
    assert_eq!(spoilt(Draft::without_key_usage), "no-key-usage");
    assert_eq!(
        spoilt(Draft::without_digital_signature),
        "no-digital-signature"
    );
    assert_eq!(spoilt(Draft::with_cert_sign), "leaf-signs-certificates");
    assert_eq!(spoilt(Draft::with_crl_sign), "leaf-signs-certificates");
    assert_eq!(spoilt(Draft::negative_serial), "negative-serial");
    assert_eq!(spoilt(|leaf| leaf.serial(&[1; 22])), "long-serial");
    assert_eq!(
        spoilt(Draft::unknown_critical_extension),
        "critical-extension"
    );
    assert_eq!(spoilt(|leaf| leaf.valid(60, -60)), "bad-validity");
}

#[test]
fn the_leaf_must_be_for_the_use_asked_for() {
    let ca = TestCa::new(TD);
    let verify = |leaf: &TestLeaf, usage| {
        verify_peer(
            leaf.chain(),
            usage,
            None,
            &bundles(&[&ca]),
            now_of(&ca),
            rustcrypto(),
        )
        .map_or_else(|error| error.code(), |_| "ok")
    };
    let cases: [(Change, &str, &str); 5] = [
        (Draft::client_only, "ok", "wrong-extended-key-usage"),
        (Draft::server_only, "wrong-extended-key-usage", "ok"),
        (
            Draft::any_eku,
            "wrong-extended-key-usage",
            "wrong-extended-key-usage",
        ),
        (
            Draft::without_eku,
            "no-extended-key-usage",
            "no-extended-key-usage",
        ),
        (
            Draft::empty_eku,
            "malformed-extension",
            "malformed-extension",
        ),
    ];
    for (change, client, server) in cases {
        let leaf = ca.service("web").with(change).issue();
        assert_eq!(verify(&leaf, Usage::Client), client);
        assert_eq!(verify(&leaf, Usage::Server), server);
    }
}

#[test]
fn weak_keys_and_signatures_are_refused() {
    for key in [
        BadPublicKey::P224,
        BadPublicKey::Rsa1024,
        BadPublicKey::RsaExponentOne,
        BadPublicKey::X25519,
    ] {
        assert_eq!(
            spoilt(|leaf| leaf.public_key(key)),
            "unsupported-key",
            "{key:?}"
        );
    }
    for algorithm in [
        SignatureAlgorithm::EcdsaSha1,
        SignatureAlgorithm::RsaSha1,
        SignatureAlgorithm::RsaMd5,
    ] {
        let code = spoilt(|leaf| leaf.signature_algorithm(algorithm));
        assert_eq!(code, "unsupported-signature", "{algorithm:?}");
    }
    let ca = TestCa::new(TD);
    let leaf = ca
        .service("web")
        .with(|leaf| leaf.public_key(BadPublicKey::P224))
        .issue();
    let error = check(&ca, &leaf).unwrap_err();
    assert_eq!(
        error,
        VerifyError::UnsupportedKey(KeyProblem::Curve("P-224"))
    );
    // An algorithm that is supported, but is not that of the CA's key.
    assert_eq!(
        spoilt(|leaf| leaf.signature_algorithm(SignatureAlgorithm::RsaSha256)),
        "bad-signature"
    );
    assert_eq!(
        spoilt(|leaf| leaf.signature_algorithm(SignatureAlgorithm::EcdsaSha384)),
        "bad-signature"
    );
}

#[test]
fn the_expected_identity_is_compared_as_an_id() {
    let ca = TestCa::new(TD);
    let leaf = ca.service("db").issue();
    let verify = |expected: &str| {
        let expected = SpiffeId::parse(expected).unwrap();
        verify_peer(
            leaf.chain(),
            Usage::Server,
            Some(&expected),
            &bundles(&[&ca]),
            now_of(&ca),
            rustcrypto(),
        )
    };
    verify("spiffe://mesh.example/ns/default/dc/dc1/svc/db").unwrap();
    verify("spiffe://mesh.example/ap/default/ns/default/dc/dc1/svc/db").unwrap();
    for (expected, part) in [
        (
            "spiffe://other.example/ns/default/dc/dc1/svc/db",
            "trust domain",
        ),
        (
            "spiffe://mesh.example/ap/east/ns/default/dc/dc1/svc/db",
            "partition",
        ),
        ("spiffe://mesh.example/ns/other/dc/dc1/svc/db", "namespace"),
        (
            "spiffe://mesh.example/ns/default/dc/dc2/svc/db",
            "datacenter",
        ),
        ("spiffe://mesh.example/ns/default/dc/dc1/svc/DB", "service"),
        ("spiffe://mesh.example/gateway/mesh/dc/dc1", "kind"),
    ] {
        let error = verify(expected).unwrap_err();
        assert_eq!(
            (error.code(), error.kind()),
            ("unexpected-identity", VerifyErrorKind::Identity)
        );
        assert!(
            error.to_string().ends_with(&format!("the {part} differs")),
            "{error}"
        );
    }
}
