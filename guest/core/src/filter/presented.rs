//! The certificates that a client presented beside its own, as far as Envoy tells.
//!
//! Only requests tell: in the `Chain` of `x-forwarded-client-cert`, where the connection manager
//! is configured to write it. Nobody vouches for them, and where the connection manager passes
//! the header on, clients write it themselves: they are links that a path may be built of, and
//! every path ends in a root of the agent.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::EnvoyRequest;
use super::request::client_certificates;
use crate::policy::xfcc;

/// How many are used, so that those that the agent lists have room beside them.
const MAX_PRESENTED: usize = 3;
/// The longest PEM that is read.
const MAX_PEM: usize = 24 * 1024;

/// The certificates in `Chain` but `leaf`, in order; none if anything of it cannot be read.
#[must_use]
pub fn presented(request: &EnvoyRequest, leaf: &[u8]) -> Vec<Vec<u8>> {
    client_certificates(request)
        .as_deref()
        .and_then(xfcc::chain)
        .and_then(decoded)
        .map(|pem| certificates(&pem, leaf))
        .unwrap_or_default()
}

fn certificates(pem: &[u8], leaf: &[u8]) -> Vec<Vec<u8>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem)
        .filter(|read| !matches!(read, Ok(der) if **der == *leaf))
        .take(MAX_PRESENTED)
        .map(|read| read.map(|der| der.to_vec()))
        .collect();
    read.unwrap_or_default()
}

/// Without percent-encoding; `None` if that is broken or the text too long.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len().min(MAX_PEM));
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        if out.len() >= MAX_PEM {
            return None;
        }
        rest = after;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let ([high, low], after) = after.split_first_chunk::<2>()?;
        let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
        out.push(digit(*high)?.checked_mul(16)?.checked_add(digit(*low)?)?);
        rest = after;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use portcullis_testkit::TestCa;

    use super::*;
    use crate::http::HttpVersion;

    /// A request whose header has this chain, encoded as Envoy does.
    fn request(values: &[String]) -> EnvoyRequest {
        let pairs: Vec<_> = values
            .iter()
            .map(|value| ("x-forwarded-client-cert", value.as_str()))
            .collect();
        EnvoyRequest::of(HttpVersion::Http2, &pairs)
    }

    fn encoded(pem: &str) -> String {
        let escaped = |byte: u8| match byte {
            b'\n' | b' ' | b'+' | b'/' | b'=' => format!("%{byte:02X}"),
            _ => char::from(byte).to_string(),
        };
        format!(
            "Hash=00;Chain=\"{}\"",
            pem.bytes().map(escaped).collect::<String>()
        )
    }

    #[test]
    fn what_was_presented_is_read_without_the_leaf() {
        let root = TestCa::new("t.consul");
        let between = root.intermediate(|draft| draft);
        let leaf = between.service("web").issue();
        let der = leaf.chain()[0].to_vec();
        let found = presented(&request(&[encoded(&leaf.pem())]), &der);
        assert_eq!(found, leaf.chain_der()[1..2]);
        let alone = root.service("web").issue();
        let der_alone = alone.chain()[0].to_vec();
        assert_eq!(
            presented(&request(&[encoded(&alone.pem())]), &der_alone).len(),
            0
        );
        let many = between.pem().repeat(20);
        assert_eq!(
            presented(&request(&[encoded(&many)]), &der).len(),
            MAX_PRESENTED
        );
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        let root = TestCa::new("t.consul");
        let pem = root.pem();
        for value in [
            encoded(&pem[..pem.len() / 2]),
            encoded(&format!(
                "{pem}-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"
            )),
            encoded(&pem).replace("%0A", "%0"),
            encoded(&pem).replace("%0A", "%zz"),
            encoded(&"x".repeat(MAX_PEM + 1)),
            "Hash=00".to_owned(),
        ] {
            assert_eq!(presented(&request(&[value]), b"").len(), 0);
        }
        // Two headers are nobody's.
        let twice = [encoded(&pem), encoded(&pem)];
        assert_eq!(presented(&request(&twice), b"").len(), 0);
        assert_eq!(presented(&request(&[encoded(&pem)]), b"").len(), 1);
        assert_eq!(presented(&request(&[]), b"").len(), 0);
    }
}
