//! Chains: every rule broken once, with certificates that differ from a good one in one thing.

mod support;

use portcullis_core::chain::{
    BundleError, Bundles, IssuerProblem, KeyProblem, PeerBundle, TrustBundle, Usage, VerifyError,
    VerifyErrorKind, rustcrypto, verify_peer,
};
use portcullis_core::identity::{Partition, PeerName, SpiffeId};
use portcullis_core::time::Timestamp;
use portcullis_testkit::{BadPublicKey, Draft, KeyType, SignatureAlgorithm, TestCa, TestLeaf};
use support::{bundle, bundles, check, code, now_of};

const TD: &str = "mesh.example";

/// One way to spoil a certificate.
type Change = fn(Draft) -> Draft;

/// The code for a client's leaf of a fresh CA, spoilt by `change`.
fn spoilt(change: impl FnOnce(Draft) -> Draft) -> &'static str {
    let ca = TestCa::new(TD);
    code(&ca, &ca.service("web").with(change).issue())
}

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

#[test]
fn nothing_out_of_its_time_is_accepted() {
    let ca = TestCa::new(TD);
    let error = check(&ca, &ca.service("web").with(Draft::expired).issue()).unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        ("expired", VerifyErrorKind::Expired)
    );
    assert_eq!(spoilt(Draft::not_yet_valid), "not-yet-valid");

    let old = TestCa::with(TD, Draft::expired);
    assert_eq!(code(&old, &old.service("web").issue()), "issuer-expired");
    let early = TestCa::with(TD, Draft::not_yet_valid);
    assert_eq!(
        code(&early, &early.service("web").issue()),
        "issuer-not-yet-valid"
    );
    let expired = ca.intermediate(Draft::expired);
    assert_eq!(code(&ca, &expired.service("web").issue()), "issuer-expired");
    let early = ca.intermediate(Draft::not_yet_valid);
    assert_eq!(
        code(&ca, &early.service("web").issue()),
        "issuer-not-yet-valid"
    );
}

#[test]
fn both_ends_of_the_validity_are_inside_it() {
    let ca = TestCa::new(TD);
    let leaf = ca.service("web").with(|leaf| leaf.valid(-60, 60)).issue();
    let at = |offset: i64| {
        let now = Timestamp::from_unix_secs(u64::try_from(ca.now() + offset).unwrap());
        verify_peer(
            leaf.chain(),
            Usage::Client,
            None,
            &bundles(&[&ca]),
            now,
            rustcrypto(),
        )
        .map_or_else(|error| error.code(), |_| "ok")
    };
    assert_eq!(
        [at(-61), at(-60), at(0), at(60), at(61)],
        ["not-yet-valid", "ok", "ok", "ok", "expired"]
    );
    for (now, expected) in [
        (Timestamp::from_millis(0), "not-yet-valid"),
        (Timestamp::MAX, "expired"),
    ] {
        let error = verify_peer(
            leaf.chain(),
            Usage::Client,
            None,
            &bundles(&[&ca]),
            now,
            rustcrypto(),
        )
        .unwrap_err();
        assert_eq!(error.code(), expected);
    }
}

#[test]
fn a_leaf_may_begin_before_its_root() {
    // Consul back-dates leaves by a minute, but not the new root.
    let ca = TestCa::with(TD, |root| root.valid(0, 3_600));
    check(
        &ca,
        &ca.service("web")
            .with(|leaf| leaf.valid(-60, 7_200))
            .issue(),
    )
    .unwrap();
}

#[test]
fn not_after_is_the_earliest_of_the_path_used() {
    let ends_in = |seconds: u64, ca: &TestCa| now_of(ca).saturating_add_millis(seconds * 1_000);
    let short_root = TestCa::with(TD, |root| root.valid(-60, 100));
    let peer = check(&short_root, &short_root.service("web").issue()).unwrap();
    assert_eq!(peer.not_after, ends_in(100, &short_root));

    let ca = TestCa::new(TD);
    let short = ca.intermediate(|ca| ca.valid(-60, 200));
    let peer = check(&ca, &short.service("web").issue()).unwrap();
    assert_eq!(peer.not_after, ends_in(200, &ca));

    // A short-lived certificate beside the path does not count.
    let long = ca.intermediate(|ca| ca);
    let leaf = long
        .service("web")
        .with(|leaf| leaf.valid(-60, 300))
        .issue();
    let peer = check(&ca, &leaf.presenting(&[short.certificate().clone()])).unwrap();
    assert_eq!(peer.not_after, ends_in(300, &ca));
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
    assert_ne!(code(&ca, &bad.service("web").issue()), "ok");
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
fn roots_are_chosen_by_trust_domain_and_never_pooled() {
    let (local, beta, gamma) = (
        TestCa::new(TD),
        TestCa::new("beta.example"),
        TestCa::new("gamma.example"),
    );
    let all = with_peer(bundles(&[&local]), "beta-peer", &beta, "default");
    let verify = |leaf: &TestLeaf| {
        verify_peer(
            leaf.chain(),
            Usage::Client,
            None,
            &all,
            now_of(&local),
            rustcrypto(),
        )
    };
    assert_eq!(verify(&local.service("web").issue()).unwrap().peer, None);
    let peer = verify(&beta.service("web").issue()).unwrap();
    assert_eq!(peer.peer, Some(PeerName::parse("beta-peer").unwrap()));
    let error = verify(&gamma.service("web").issue()).unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        ("foreign-trust-domain", VerifyErrorKind::Untrusted)
    );
    // Each CA tries to speak for the other.
    let forged = beta.leaf(&local.service_id("web")).issue();
    assert_eq!(verify(&forged).unwrap_err().code(), "unknown-issuer");
    let forged = local.leaf(&beta.service_id("web")).issue();
    assert_eq!(verify(&forged).unwrap_err().code(), "unknown-issuer");
    assert_eq!(spoilt(Draft::wrong_trust_domain), "foreign-trust-domain");
    // Its own root, presented as an intermediate, is worth nothing.
    let forged = beta
        .leaf(&local.service_id("web"))
        .issue()
        .presenting(&[beta.certificate().clone()]);
    assert_eq!(verify(&forged).unwrap_err().code(), "unknown-issuer");
}

#[test]
fn a_peer_cannot_take_the_local_trust_domain_or_another_partition() {
    let (local, evil) = (TestCa::new(TD), TestCa::new(TD));
    let all = with_peer(bundles(&[&local]), "evil", &evil, "default");
    let error = verify_peer(
        evil.service("web").issue().chain(),
        Usage::Client,
        None,
        &all,
        now_of(&local),
        rustcrypto(),
    );
    assert_eq!(error.unwrap_err().code(), "unknown-issuer");

    let beta = TestCa::new("beta.example");
    let all = with_peer(bundles(&[&local]), "east", &beta, "east");
    let all = with_peer(all, "west", &beta, "west");
    let verify = |path: &str| {
        let leaf = beta.leaf(&format!("spiffe://beta.example{path}")).issue();
        verify_peer(
            leaf.chain(),
            Usage::Client,
            None,
            &all,
            now_of(&local),
            rustcrypto(),
        )
    };
    let name = |path: &str| verify(path).unwrap().peer.unwrap().to_string();
    assert_eq!(name("/ap/east/ns/default/dc/dc1/svc/web"), "east");
    assert_eq!(name("/ap/WEST/ns/default/dc/dc1/svc/web"), "west");
    assert_eq!(name("/ap/west/gateway/mesh/dc/dc1"), "west");
    let error = verify("/ns/default/dc/dc1/svc/web").unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        ("foreign-partition", VerifyErrorKind::Untrusted)
    );
    assert_eq!(
        verify("/agent/server/dc/dc1").unwrap_err().code(),
        "foreign-partition"
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

#[test]
fn without_roots_nobody_is_let_in() {
    let ca = TestCa::new(TD);
    let error = verify_peer(
        ca.service("web").issue().chain(),
        Usage::Client,
        None,
        &bundles_of_domain(TD),
        now_of(&ca),
        rustcrypto(),
    );
    let error = error.unwrap_err();
    assert_eq!(
        (error.code(), error.kind()),
        ("roots-not-loaded", VerifyErrorKind::NotReady)
    );
    assert_eq!(VerifyError::RootsStale.kind(), VerifyErrorKind::NotReady);
}

#[test]
fn one_key_with_two_root_certificates_is_one_root() {
    // The root renewed with its key: the expired certificate must not count, the new one must.
    let ca = TestCa::new(TD);
    let renewed = ca.cross_sign_with(&ca, |root| root.valid(-60, 500));
    let pem = [ca.pem(), support::pem(&renewed)].concat();
    let both = Bundles::new(TrustBundle::from_pem(support::domain(TD), &[pem]).unwrap());
    let leaf = ca.service("web").issue();
    let peer = verify_peer(
        leaf.chain(),
        Usage::Client,
        None,
        &both,
        now_of(&ca),
        rustcrypto(),
    )
    .unwrap();
    assert_eq!(
        peer.not_after,
        now_of(&ca).saturating_add_millis((72 * 3_600 - 60) * 1_000)
    );
}

#[test]
fn bundles_take_only_what_can_be_a_root() {
    let ca = TestCa::new(TD);
    let read = |pem: &str| TrustBundle::from_pem(support::domain(TD), &[ca.pem().as_str(), pem]);
    assert_eq!(read(&ca.pem()).unwrap().len(), 1, "the same root twice");
    assert_eq!(
        read(&[ca.pem(), TestCa::new(TD).pem()].concat())
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        read("").unwrap_err(),
        BundleError::NoCertificate { index: 1 }
    );
    assert_eq!(
        read(&ca.key_pem()).unwrap_err(),
        BundleError::NoCertificate { index: 1 }
    );
    let broken = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
    assert_eq!(
        read(broken).unwrap_err(),
        BundleError::Malformed { index: 1 }
    );
    let cut = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    assert_eq!(read(cut).unwrap_err(), BundleError::Pem { index: 1 });
    let problem = |change: Change| match read(&TestCa::with(TD, change).pem()) {
        Err(BundleError::Unusable {
            index: 1, problem, ..
        }) => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(Draft::not_ca), IssuerProblem::NotCa);
    assert_eq!(problem(Draft::without_cert_sign), IssuerProblem::NoCertSign);
    assert_eq!(
        problem(|ca| ca.uri_name_constraints("x")),
        IssuerProblem::UriNameConstraints
    );
    assert_eq!(
        problem(|ca| ca.public_key(BadPublicKey::P224)),
        IssuerProblem::Key(KeyProblem::Curve("P-224"))
    );
    let weak = problem(|ca| ca.public_key(BadPublicKey::RsaExponentOne));
    assert_eq!(weak, IssuerProblem::Key(KeyProblem::RsaExponent));
    assert_eq!(bundle(&[&ca]).trust_domain().as_str(), TD);
}

fn bundles_of_domain(trust_domain: &str) -> Bundles {
    Bundles::new(TrustBundle::from_pem::<&str>(support::domain(trust_domain), &[]).unwrap())
}

fn with_peer(mut all: Bundles, name: &str, ca: &TestCa, partition: &str) -> Bundles {
    let peer = PeerBundle {
        bundle: bundle(&[ca]),
        exported_partition: Partition::parse(partition).unwrap(),
    };
    all.peers.insert(PeerName::parse(name).unwrap(), peer);
    all
}
