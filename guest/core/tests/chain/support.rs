//! Short ways to ask about a chain.

use portcullis_core::chain::{
    Bundles, TrustBundle, Usage, VerifiedPeer, VerifyError, rustcrypto, verify_peer,
};
use portcullis_core::identity::TrustDomain;
use portcullis_core::time::Timestamp;
use portcullis_testkit::{Draft, TestCa, TestLeaf};

use crate::TD;

/// Verifies a client's leaf against one CA of its own trust domain.
pub(crate) fn check(ca: &TestCa, leaf: &TestLeaf) -> Result<VerifiedPeer, VerifyError> {
    verify_peer(
        leaf.chain(),
        Usage::Client,
        None,
        &bundles(&[ca]),
        now_of(ca),
        rustcrypto(),
    )
}

/// As [`check`], but only the code: `ok` when the leaf is good.
pub(crate) fn code(ca: &TestCa, leaf: &TestLeaf) -> &'static str {
    check(ca, leaf).map_or_else(|error| error.code(), |_| "ok")
}

/// The code for a client's leaf of a fresh CA, spoilt by `change`.
pub(crate) fn spoilt(change: impl FnOnce(Draft) -> Draft) -> &'static str {
    let ca = TestCa::new(TD);
    code(&ca, &ca.service("web").with(change).issue())
}

/// The local trust domain with these roots.
pub(crate) fn bundles(cas: &[&TestCa]) -> Bundles {
    Bundles::new(bundle(cas))
}

/// The roots of these CAs, which share a trust domain.
pub(crate) fn bundle(cas: &[&TestCa]) -> TrustBundle {
    let pems: Vec<String> = cas.iter().map(|ca| ca.pem()).collect();
    TrustBundle::from_pem(domain(cas[0].trust_domain()), &pems).expect("good roots")
}

/// A trust domain.
pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).expect("a trust domain")
}

/// The time of the CA's mesh.
pub(crate) fn now_of(ca: &TestCa) -> Timestamp {
    Timestamp::from_unix_secs(u64::try_from(ca.now()).expect("a time after 1970"))
}

/// A certificate as PEM.
pub(crate) fn pem(der: &[u8]) -> String {
    portcullis_testkit::pem(der)
}
