//! A request as Envoy holds it, to one as the policy reads it.

use std::ops::Range;

use crate::agent::ReplyHeaders;
use crate::http::{HeaderMap, Headers, HttpVersion, RequestRef};
use crate::policy::xfcc;
use crate::watch::Digest;

/// The most headers that are read, pseudo headers included.
const MAX_HEADERS: usize = 1_100;

/// Why a header map is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It is not of proxy-wasm's form.
    #[error("the header map is malformed")]
    Malformed,
    /// It has too many headers.
    #[error("the request has too many headers")]
    TooMany,
    /// A pseudo header occurs twice.
    #[error("a pseudo header occurs twice")]
    Twice,
}

/// A request as Envoy gives it: its headers, in one piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvoyRequest {
    version: HttpVersion,
    map: Vec<u8>,
    method: Place,
    path: Place,
    authority: Option<Place>,
}

/// Where in the map a value is.
type Place = Range<usize>;

impl EnvoyRequest {
    /// Reads a header map in proxy-wasm's form: the number of headers, the lengths of all names
    /// and values (four bytes each, least significant first), then names and values, each with
    /// a NUL behind it.
    ///
    /// An extended CONNECT (RFC 8441) reaches filters as the upgrade of HTTP/1.1 that it stands
    /// for, and is read as that. `:authority` becomes what the version has for it, and `:scheme` is left out: clients can
    /// change what Envoy says there, and whoever has a certificate came by TLS.
    ///
    /// # Errors
    /// [`RequestError`] if the map has another form; nothing of it is then known.
    pub fn read(map: Vec<u8>, version: HttpVersion) -> Result<Self, RequestError> {
        let (lengths, text) = split(&map)?;
        // Where the next name begins.
        let mut place = map.len().saturating_sub(text.len());
        let mut pairs = HeaderMap::new(lengths, text, None).pairs();
        let (mut method, mut path, mut authority) = (None, None, None);
        let mut is_upgrade = false;
        let mut found: usize = 0;
        for (name, value) in &mut pairs {
            found = found.saturating_add(1);
            let begin = place.saturating_add(name.len()).saturating_add(1);
            let end = begin.saturating_add(value.len());
            place = end.saturating_add(1);
            let part = match name {
                b":method" => &mut method,
                b":path" => &mut path,
                b":authority" => &mut authority,
                b"upgrade" => {
                    is_upgrade = true;
                    continue;
                }
                _ => continue,
            };
            if part.replace(begin..end).is_some() {
                return Err(RequestError::Twice);
            }
        }
        if !is_whole(lengths, found) || !pairs.rest().is_empty() {
            return Err(RequestError::Malformed);
        }
        Ok(Self {
            version: if is_upgrade {
                HttpVersion::Http1
            } else {
                version
            },
            method: method.unwrap_or_default(),
            path: path.unwrap_or_default(),
            authority,
            map,
        })
    }

    /// The target, with its query.
    pub(super) fn path(&self) -> &[u8] {
        self.at(&self.path)
    }

    /// Its headers, as the version has them: names and values.
    pub(super) fn all_headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers(self.authority_and_host().1).headers()
    }

    fn authority_and_host(&self) -> (Option<&[u8]>, Option<&[u8]>) {
        let authority = self.authority.as_ref().map(|place| self.at(place));
        match self.version {
            HttpVersion::Http1 => (None, authority),
            HttpVersion::Http2 => (authority, None),
        }
    }

    fn at(&self, place: &Place) -> &[u8] {
        self.map.get(place.clone()).unwrap_or_default()
    }

    fn headers<'r>(&'r self, host: Option<&'r [u8]>) -> HeaderMap<'r> {
        // It was read before.
        let (lengths, text) = split(&self.map).unwrap_or_default();
        HeaderMap::new(lengths, text, host)
    }
}

impl<'r> From<&'r EnvoyRequest> for RequestRef<'r> {
    fn from(request: &'r EnvoyRequest) -> Self {
        let (authority, host) = request.authority_and_host();
        Self {
            version: request.version,
            method: request.at(&request.method),
            path: request.path(),
            authority,
            scheme: None,
            headers: Headers::Map(request.headers(host)),
        }
    }
}

/// The lengths and the texts of a map.
fn split(map: &[u8]) -> Result<(&[u8], &[u8]), RequestError> {
    let (count, rest) = map
        .split_first_chunk::<4>()
        .ok_or(RequestError::Malformed)?;
    let count = usize::try_from(u32::from_le_bytes(*count)).map_err(|_| RequestError::Malformed)?;
    if count > MAX_HEADERS {
        return Err(RequestError::TooMany);
    }
    rest.split_at_checked(count.saturating_mul(8))
        .ok_or(RequestError::Malformed)
}

/// Whether so many pairs are all of them.
const fn is_whole(lengths: &[u8], found: usize) -> bool {
    lengths.len() == found.saturating_mul(8)
}

/// The status and the headers that matter of a reply, from a header map in the same form.
///
/// # Errors
/// [`RequestError`] if the map has another form or no status.
pub fn read_reply(map: &[u8]) -> Result<(u16, ReplyHeaders), RequestError> {
    let (lengths, text) = split(map)?;
    let map = HeaderMap::new(lengths, text, None);
    let mut pairs = map.pairs();
    if !is_whole(lengths, pairs.by_ref().count()) || !pairs.rest().is_empty() {
        return Err(RequestError::Malformed);
    }
    let status = map
        .pairs()
        .find(|(name, _)| *name == b":status")
        .and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok())
        .ok_or(RequestError::Malformed)?;
    let fields = map
        .pairs()
        .filter_map(|(name, value)| Some((std::str::from_utf8(name).ok()?, value)));
    Ok((status, ReplyHeaders::read(fields)))
}

/// What the client of a request, whose certificate is `leaf`, says in
/// `x-forwarded-client-cert`, without what the proxy has added behind it about that client
/// (`APPEND_FORWARD`); several of them as one, joined with commas, which names nobody.
#[must_use]
pub fn forwarded_client(request: &EnvoyRequest, leaf: &[u8]) -> Option<Vec<u8>> {
    let joined = client_certificates(request)?;
    xfcc::before_own(&joined, &Digest::of(leaf).to_string()).map(<[u8]>::to_vec)
}

/// All that a request has in `x-forwarded-client-cert`.
pub(super) fn client_certificates(request: &EnvoyRequest) -> Option<Vec<u8>> {
    let values: Vec<&[u8]> = request
        .headers(None)
        .headers()
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"x-forwarded-client-cert"))
        .map(|(_, value)| value)
        .collect();
    (!values.is_empty()).then(|| values.join(&b','))
}

#[cfg(test)]
impl EnvoyRequest {
    /// A request with these headers.
    pub(super) fn of(version: HttpVersion, pairs: &[(&str, &str)]) -> Self {
        Self::read(map(pairs), version).unwrap()
    }
}

/// Headers in proxy-wasm's form.
#[cfg(test)]
fn map(pairs: &[(&str, &str)]) -> Vec<u8> {
    let number = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
    let mut map = number(pairs.len()).to_vec();
    let parts = || pairs.iter().flat_map(|(name, value)| [name, value]);
    parts().for_each(|part| map.extend(number(part.len())));
    for part in parts() {
        map.extend_from_slice(part.as_bytes());
        map.push(0);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(map: &[u8], version: HttpVersion) -> Result<EnvoyRequest, RequestError> {
        EnvoyRequest::read(map.to_vec(), version)
    }

    fn headers(request: &EnvoyRequest) -> Vec<(&str, &str)> {
        let Headers::Map(map) = RequestRef::from(request).headers else {
            panic!("another form");
        };
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        map.headers().map(|(n, v)| (text(n), text(v))).collect()
    }

    const PAIRS: [(&str, &str); 6] = [
        (":authority", "db"),
        (":path", "/x?y"),
        (":method", "GET"),
        (":scheme", "http"),
        ("x-a", "1"),
        ("x-a", ""),
    ];

    #[test]
    fn pseudo_headers_become_parts_of_the_request() {
        let whole = read(&map(&PAIRS), HttpVersion::Http2).unwrap();
        let request = RequestRef::from(&whole);
        assert_eq!(request.method, b"GET");
        assert_eq!(request.path, b"/x?y");
        assert_eq!(request.authority, Some(&b"db"[..]));
        assert_eq!(request.scheme, None);
        assert_eq!(headers(&whole), [("x-a", "1"), ("x-a", "")]);
        let whole = read(&map(&PAIRS), HttpVersion::Http1).unwrap();
        assert_eq!(RequestRef::from(&whole).authority, None);
        assert_eq!(headers(&whole), [("x-a", "1"), ("x-a", ""), ("host", "db")]);
    }

    #[test]
    fn an_upgrade_over_http2_is_what_envoy_made_of_an_extended_connect() {
        let pairs = [
            (":method", "GET"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            (":authority", "db"),
        ];
        let expected = [pairs[1], pairs[2], ("host", "db")];
        for version in [HttpVersion::Http2, HttpVersion::Http1] {
            let request = read(&map(&pairs), version).unwrap();
            assert_eq!(headers(&request), expected);
            assert_eq!(RequestRef::from(&request).version, HttpVersion::Http1);
        }
    }

    #[test]
    fn a_forwarded_client_is_found_and_several_are_one_that_names_nobody() {
        let of = |pairs: &[(&str, &str)]| {
            forwarded_client(&read(&map(pairs), HttpVersion::Http2).unwrap(), b"leaf")
        };
        assert_eq!(of(&PAIRS), None);
        let one = ("x-forwarded-client-cert", "URI=a");
        assert_eq!(of(&[("x", "y"), one]).as_deref(), Some(&b"URI=a"[..]));
        assert_eq!(of(&[one, one]).as_deref(), Some(&b"URI=a,URI=a"[..]));
        let own = format!("Hash={};URI=gateway", Digest::of(b"leaf"));
        let own = ("x-forwarded-client-cert", own.as_str());
        assert_eq!(of(&[own]), None, "the proxy alone has said it");
        assert_eq!(of(&[one, own]).as_deref(), Some(&b"URI=a"[..]));
        assert!(of(&[own, one]).is_some_and(|value| value.contains(&b',')));
    }

    #[test]
    fn a_reply_has_a_status_and_headers() {
        let (status, headers) = read_reply(&map(&[
            (":status", "200"),
            ("x-consul-index", "7"),
            ("content-type", "application/json"),
        ]))
        .unwrap();
        assert_eq!((status, headers.index), (200, Some(7)));
        for map in [map(&[]), map(&[(":status", "x")]), Vec::new()] {
            assert_eq!(read_reply(&map), Err(RequestError::Malformed));
        }
    }

    #[test]
    fn other_forms_are_refused() {
        let good = map(&PAIRS);
        for length in 0..good.len() {
            let short = read(&good[..length], HttpVersion::Http1);
            assert_eq!(short, Err(RequestError::Malformed), "{length}");
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(
            read(&long, HttpVersion::Http1),
            Err(RequestError::Malformed)
        );
        let mut huge = good;
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            read(&huge, HttpVersion::Http1),
            Err(RequestError::Malformed)
        );
        let many = vec![("a", "b"); MAX_HEADERS + 1];
        assert_eq!(
            read(&map(&many), HttpVersion::Http1),
            Err(RequestError::TooMany)
        );
        let twice = [(":path", "/a"), (":path", "/b")];
        assert_eq!(
            read(&map(&twice), HttpVersion::Http2),
            Err(RequestError::Twice)
        );
        assert!(read(&map(&[]), HttpVersion::Http1).is_ok());
    }
}
