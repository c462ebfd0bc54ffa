//! Who a connection's peer is, as Envoy's properties say it.

use std::collections::BTreeMap;
use std::rc::Rc;

use portcullis_core::filter::{Peer, PeerError, PeerVerification};
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

/// Nobody.
static NOBODY: Client = Client {
    uris: Vec::new(),
    via_gateway: None,
};

/// What is known about a connection's peer.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// What its certificate says, if it has one that can be read.
    peer: Option<Rc<Peer>>,
    /// It is refused for this reason whatever the policy says.
    pub(crate) refused: Option<&'static str>,
    /// What came of verifying it here.
    pub(crate) verified: Option<Verified>,
    /// The HTTP that the connection speaks.
    pub(crate) version: HttpVersion,
}

impl Known {
    /// Reads the properties of the connection in effect: after the handshake, not before.
    pub(crate) fn read(seen: &mut Seen, verification: PeerVerification, is_http: bool) -> Self {
        let nobody = Self {
            peer: None,
            refused: None,
            verified: None,
            version: if is_http {
                version()
            } else {
                HttpVersion::Http1
            },
        };
        let peer = match seen.peer() {
            Some(Ok(peer)) => peer,
            Some(Err(_)) => {
                return Self {
                    refused: Some(UNREADABLE),
                    ..nobody
                };
            }
            None => return nobody,
        };
        let by_filter = verification == PeerVerification::Filter;
        let is_valid =
            || host::property("connection\0peer_certificate_valid").as_deref() == Some(&[1][..]);
        Self {
            // Of this connection, whoever has shown the certificate before.
            refused: (!by_filter && !is_valid()).then_some(NOT_VERIFIED),
            peer: Some(peer),
            ..nobody
        }
    }

    /// Who it is; without a certificate nobody.
    pub(crate) fn client(&self) -> &Client {
        self.peer.as_ref().map_or(&NOBODY, |peer| &peer.client)
    }

    /// Its requests may name somebody else.
    pub(crate) fn is_mesh_gateway(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.is_mesh_gateway)
    }

    /// The certificate.
    pub(crate) fn leaf(&self) -> Option<&[u8]> {
        self.peer.as_ref().map(|peer| peer.leaf.as_slice())
    }

    /// Whether the certificate, if there is one, is valid at `now`.
    pub(crate) fn is_current(&self, now: Timestamp) -> bool {
        self.peer.as_ref().is_none_or(|peer| {
            let (begin, end) = (peer.not_before, peer.not_after);
            (begin.as_unix_secs()..=end.as_unix_secs()).contains(&now.as_unix_secs())
        })
    }

    /// The last moment at which the certificate, and the path by which it was verified, is valid.
    pub(crate) fn not_after(&self) -> Timestamp {
        let leaf = self.peer.as_ref().map(|peer| peer.not_after);
        let path = self.verified.as_ref().map(|verified| verified.until);
        leaf.into_iter().chain(path).min().unwrap_or(Timestamp::MAX)
    }
}

/// What came of verifying a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) is_good: bool,
    /// The number of the roots that were looked at.
    pub(crate) roots: u64,
    /// The certificates that were presented with it, where it was refused.
    pub(crate) presented: Vec<Vec<u8>>,
    /// From when to when it holds.
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
}

impl Verified {
    /// Whether it holds at `now` by these roots.
    pub(crate) fn holds(&self, roots: u64, now: Timestamp) -> bool {
        let (from, until) = (self.from.as_unix_secs(), self.until.as_unix_secs());
        self.roots == roots && (from..=until).contains(&now.as_unix_secs())
    }
}

/// How many certificates are remembered.
const MAX_SEEN: usize = 1_024;

/// Certificates that were read before, by the digest that Envoy has of them. What a
/// certificate says never changes; whether it is good is asked anew for each connection.
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeMap<Vec<u8>, Rc<Peer>>);

impl Seen {
    /// The peer of the connection in effect; `None` without a certificate.
    fn peer(&mut self) -> Option<Result<Rc<Peer>, PeerError>> {
        // SHA-256 in hexadecimal. It costs Envoy less than the certificate, and us nothing to read.
        let digest = host::property("connection\0sha256_peer_certificate_digest")
            .filter(|digest| digest.len() == 64);
        if let Some(peer) = digest.as_ref().and_then(|digest| self.0.get(digest)) {
            return Some(Ok(Rc::clone(peer)));
        }
        let pem = host::property("connection\0peer_certificate")?;
        if pem.is_empty() {
            return None;
        }
        let peer = match Peer::read(&pem) {
            Ok(peer) => Rc::new(peer),
            Err(error) => return Some(Err(error)),
        };
        if let Some(digest) = digest {
            if self.0.len() >= MAX_SEEN {
                // Those that are still in use are read again.
                self.0.clear();
            }
            self.0.insert(digest, Rc::clone(&peer));
        }
        Some(Ok(peer))
    }
}

/// The number of the connection in effect.
pub(crate) fn connection_id() -> Option<u64> {
    // By the first name Envoy finds it sooner.
    let bytes = host::property("connection_id").or_else(|| host::property("connection\0id"))?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn version() -> HttpVersion {
    match host::property("request\0protocol").as_deref() {
        Some(b"HTTP/2" | b"HTTP/3") => HttpVersion::Http2,
        _ => HttpVersion::Http1,
    }
}
