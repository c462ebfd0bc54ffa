//! Who a connection's peer is, as Envoy's properties say it.

use portcullis_core::filter::{Peer, PeerVerification};
use portcullis_core::http::HttpVersion;
use portcullis_core::policy::Client;
use portcullis_core::time::Timestamp;

use crate::host;

/// The reasons of the filter itself.
pub(crate) const NOT_VERIFIED: &str = "certificate-not-verified";
pub(crate) const UNREADABLE: &str = "certificate-unreadable";
pub(crate) const EXPIRED: &str = "certificate-expired";
pub(crate) const REFUSED: &str = "certificate-refused";
pub(crate) const NOT_NORMALIZED: &str = "path-not-normalized";
pub(crate) const FAILED: &str = "filter-failed";

/// What is known about a connection's peer.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Who it is; without a certificate nobody.
    pub(crate) client: Client,
    /// When the certificate is valid; `None` without one.
    validity: Option<(Timestamp, Timestamp)>,
    /// It is refused for this reason whatever the policy says.
    pub(crate) refused: Option<&'static str>,
    /// Its requests may name somebody else.
    pub(crate) is_mesh_gateway: bool,
    /// The certificate, where the filter has to verify it.
    pub(crate) leaf: Vec<u8>,
    /// The number of the roots by which the filter has verified it.
    pub(crate) verified_by: Option<u64>,
    /// The HTTP that the connection speaks.
    pub(crate) version: HttpVersion,
}

impl Known {
    /// Reads the properties of the connection in effect: after the handshake, not before.
    pub(crate) fn read(verification: PeerVerification, is_http: bool) -> Self {
        let nobody = Self {
            client: Client::default(),
            validity: None,
            refused: None,
            is_mesh_gateway: false,
            leaf: Vec::new(),
            verified_by: None,
            version: if is_http {
                version()
            } else {
                HttpVersion::Http1
            },
        };
        let pem = host::property(&["connection", "peer_certificate"]).unwrap_or_default();
        if pem.is_empty() {
            return nobody;
        }
        let peer = match Peer::read(&pem) {
            Ok(peer) => peer,
            Err(_) => {
                return Self {
                    refused: Some(UNREADABLE),
                    ..nobody
                };
            }
        };
        let by_filter = verification == PeerVerification::Filter;
        let is_valid = || {
            host::property(&["connection", "peer_certificate_valid"]).as_deref() == Some(&[1][..])
        };
        Self {
            refused: (!by_filter && !is_valid()).then_some(NOT_VERIFIED),
            validity: Some((peer.not_before, peer.not_after)),
            is_mesh_gateway: peer.is_mesh_gateway,
            leaf: if by_filter { peer.leaf } else { Vec::new() },
            client: peer.client,
            ..nobody
        }
    }

    /// Whether the certificate, if there is one, is valid at `now`.
    pub(crate) fn is_current(&self, now: Timestamp) -> bool {
        self.validity.is_none_or(|(begin, end)| {
            (begin.as_unix_secs()..=end.as_unix_secs()).contains(&now.as_unix_secs())
        })
    }

    /// The last moment at which the certificate is valid.
    pub(crate) fn not_after(&self) -> Timestamp {
        self.validity.map_or(Timestamp::MAX, |(_, end)| end)
    }
}

/// The number of the connection in effect.
pub(crate) fn connection_id() -> Option<u64> {
    let bytes =
        host::property(&["connection", "id"]).or_else(|| host::property(&["connection_id"]))?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn version() -> HttpVersion {
    match host::property(&["request", "protocol"]).as_deref() {
        Some(b"HTTP/2" | b"HTTP/3") => HttpVersion::Http2,
        _ => HttpVersion::Http1,
    }
}
