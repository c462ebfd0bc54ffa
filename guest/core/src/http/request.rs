//! A request as it arrived.

use super::headers::Headers;

/// Version of HTTP; some rules differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.0 and HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2.
    Http2,
}

/// An HTTP request as it arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Version.
    pub version: HttpVersion,
    /// Method, verbatim.
    pub method: Vec<u8>,
    /// Request target (HTTP/1.1) or `:path` (HTTP/2), verbatim, with its query.
    pub path: Vec<u8>,
    /// `:authority`, for HTTP/2.
    pub authority: Option<Vec<u8>>,
    /// The scheme of the connection, `http` or `https`; `https` if absent, because
    /// whoever has a client certificate came by TLS.
    pub scheme: Option<String>,
    /// All headers in order: for each its name and then its value, both preceded
    /// by their length as four bytes, least significant first. [`encode_headers`] makes it.
    pub headers: Vec<u8>,
}

/// A request as it arrived, wherever its parts are kept.
#[derive(Clone, Copy, Debug)]
pub struct RequestRef<'r> {
    pub(crate) version: HttpVersion,
    pub(crate) method: &'r [u8],
    pub(crate) path: &'r [u8],
    pub(crate) authority: Option<&'r [u8]>,
    pub(crate) scheme: Option<&'r str>,
    pub(crate) headers: Headers<'r>,
}

impl<'r> From<&'r Request> for RequestRef<'r> {
    fn from(request: &'r Request) -> Self {
        Self {
            version: request.version,
            method: &request.method,
            path: &request.path,
            authority: request.authority.as_deref(),
            scheme: request.scheme.as_deref(),
            headers: Headers::Block(&request.headers),
        }
    }
}

/// Writes headers in the form of [`Request::headers`]; `None` if one is longer than 4 GiB.
#[must_use]
pub fn encode_headers<'a>(
    headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Option<Vec<u8>> {
    let mut encoded = Vec::new();
    for (name, value) in headers {
        for part in [name, value] {
            encoded.extend_from_slice(&u32::try_from(part.len()).ok()?.to_le_bytes());
            encoded.extend_from_slice(part);
        }
    }
    Some(encoded)
}
