//! Which roots vouch for whom, and when.

use portcullis_core::chain::{
    BundleError, Bundles, IssuerProblem, KeyProblem, PeerBundle, TrustBundle, Usage, VerifyError,
    VerifyErrorKind, rustcrypto, verify_peer,
};
use portcullis_core::identity::{Partition, PeerName};
use portcullis_core::time::Timestamp;
use portcullis_testkit::{BadPublicKey, Draft, TestCa, TestLeaf};

use crate::support::{self, bundle, bundles, check, code, now_of, spoilt};
use crate::{Change, TD};

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

#[test]
fn what_ended_before_1970_is_never_valid() {
    let ended = TestCa::at(TD, 0, |root| root.valid(-7_200, -3_600));
    let error = TrustBundle::from_pem(support::domain(TD), &[ended.pem()]).unwrap_err();
    assert!(
        matches!(
            error,
            BundleError::Unusable {
                problem: IssuerProblem::BadValidity,
                ..
            }
        ),
        "{error}"
    );
    let ca = TestCa::at(TD, 0, |root| root);
    let leaf = ca
        .service("web")
        .with(|leaf| leaf.valid(-7_200, -3_600))
        .issue();
    assert_eq!(code(&ca, &leaf), "bad-validity");
}
