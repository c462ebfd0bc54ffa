//! Base64 as tokens and keys use it.

use base64ct::{Base64, Base64UrlUnpadded, Encoding as _};

/// Bytes of the URL-safe alphabet, and whether they were in the one form that RFC 7515
/// allows: Envoy takes padding as well.
pub(super) fn url(text: &str) -> Option<(Vec<u8>, bool)> {
    let plain = text.trim_end_matches('=');
    let bytes = Base64UrlUnpadded::decode_vec(plain).ok()?;
    Some((bytes, plain.len() == text.len()))
}

/// Bytes of the standard alphabet, as Consul's `JWKS` field has them.
pub(super) fn standard(text: &str) -> Option<Vec<u8>> {
    Base64::decode_vec(text).ok()
}
