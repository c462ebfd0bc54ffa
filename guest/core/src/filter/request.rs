//! A request as Envoy holds it, to one as the policy reads it.

use crate::agent::ReplyHeaders;
use crate::http::{HttpVersion, Request};
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

/// Reads a header map in proxy-wasm's form: the number of headers, the lengths of all names and
/// values (four bytes each, least significant first), then names and values, each with a NUL
/// behind it.
///
/// `:authority` becomes what the version has for it, and `:scheme` is left out: clients can
/// change what Envoy says there, and whoever has a certificate came by TLS.
///
/// # Errors
/// [`RequestError`] if the map has another form; nothing of it is then known.
pub fn read(map: &[u8], version: HttpVersion) -> Result<Request, RequestError> {
    let pairs = Pairs::of(map)?;
    let mut request = Request {
        version,
        ..Request::default()
    };
    let (mut method, mut path, mut authority) = (None, None, None);
    let is_http2 = version == HttpVersion::Http2;
    // An extended CONNECT (RFC 8441) reaches filters as the upgrade that it stands for.
    let is_upgrade = is_http2 && pairs.iter().any(|(name, _)| name == b"upgrade");
    let mut block = Vec::with_capacity(map.len());
    for (name, value) in pairs.iter() {
        let place = match name {
            b":method" => &mut method,
            b":path" => &mut path,
            b":authority" => &mut authority,
            [b':', ..] => continue,
            b"upgrade" | b"connection" if is_upgrade => continue,
            _ => {
                push(&mut block, name, value)?;
                continue;
            }
        };
        if place.replace(value.to_vec()).is_some() {
            return Err(RequestError::Twice);
        }
    }
    match (authority, is_http2) {
        (Some(authority), false) => push(&mut block, b"host", &authority)?,
        (authority, _) => request.authority = authority,
    }
    request.method = method.unwrap_or_default();
    request.path = path.unwrap_or_default();
    request.headers = block;
    Ok(request)
}

/// The status and the headers that matter of a reply, from a header map in the same form.
///
/// # Errors
/// [`RequestError`] if the map has another form or no status.
pub fn read_reply(map: &[u8]) -> Result<(u16, ReplyHeaders), RequestError> {
    let pairs = Pairs::of(map)?;
    let status = pairs
        .iter()
        .find(|(name, _)| *name == b":status")
        .and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok())
        .ok_or(RequestError::Malformed)?;
    let fields = pairs
        .iter()
        .filter_map(|(name, value)| Some((std::str::from_utf8(name).ok()?, value)));
    Ok((status, ReplyHeaders::read(fields)))
}

/// What the client of a request, whose certificate is `leaf`, says in
/// `x-forwarded-client-cert`, without what the proxy has added behind it about that client
/// (`APPEND_FORWARD`); several of them as one, joined with commas, which names nobody.
#[must_use]
pub fn forwarded_client(request: &Request, leaf: &[u8]) -> Option<Vec<u8>> {
    let values: Vec<&[u8]> = headers(request)
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"x-forwarded-client-cert"))
        .map(|(_, value)| value)
        .collect();
    let joined = (!values.is_empty()).then(|| values.join(&b','))?;
    xfcc::before_own(&joined, &Digest::of(leaf).to_string()).map(<[u8]>::to_vec)
}

/// The headers of a request that [`read`] gave: names and values.
pub(super) fn headers(request: &Request) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = request.headers.as_slice();
    std::iter::from_fn(move || {
        let mut next = || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            let (part, after) = after.split_at_checked(length)?;
            rest = after;
            Some(part)
        };
        Some((next()?, next()?))
    })
}

fn push(block: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<(), RequestError> {
    for part in [name, value] {
        let length = u32::try_from(part.len()).map_err(|_| RequestError::Malformed)?;
        block.extend_from_slice(&length.to_le_bytes());
        block.extend_from_slice(part);
    }
    Ok(())
}

/// A header map, checked.
struct Pairs<'m> {
    lengths: &'m [u8],
    text: &'m [u8],
}

impl<'m> Pairs<'m> {
    fn of(map: &'m [u8]) -> Result<Self, RequestError> {
        let (count, rest) = map
            .split_first_chunk::<4>()
            .ok_or(RequestError::Malformed)?;
        let count =
            usize::try_from(u32::from_le_bytes(*count)).map_err(|_| RequestError::Malformed)?;
        if count > MAX_HEADERS {
            return Err(RequestError::TooMany);
        }
        let (lengths, text) = rest
            .split_at_checked(count.saturating_mul(8))
            .ok_or(RequestError::Malformed)?;
        let pairs = Self { lengths, text };
        let (found, whole) =
            pairs
                .iter()
                .fold((0_usize, 0_usize), |(found, sum), (name, value)| {
                    let sum = sum
                        .saturating_add(name.len())
                        .saturating_add(value.len())
                        .saturating_add(2);
                    (found.saturating_add(1), sum)
                });
        if found != count || whole != text.len() {
            return Err(RequestError::Malformed);
        }
        Ok(pairs)
    }

    fn iter(&self) -> impl Iterator<Item = (&'m [u8], &'m [u8])> + use<'m> {
        let mut text = self.text;
        let mut lengths = self.lengths;
        std::iter::from_fn(move || {
            let (name, rest) = lengths.split_first_chunk::<4>()?;
            let (value, rest) = rest.split_first_chunk::<4>()?;
            lengths = rest;
            let mut part = |length: &[u8; 4]| {
                let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
                let (part, rest) = text.split_at_checked(length)?;
                text = rest.strip_prefix(b"\0")?;
                Some(part)
            };
            Some((part(name)?, part(value)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::encode_headers;

    fn map(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut map = u32::try_from(pairs.len()).unwrap().to_le_bytes().to_vec();
        for (name, value) in pairs {
            for part in [name, value] {
                map.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes());
            }
        }
        for (name, value) in pairs {
            for part in [name, value] {
                map.extend_from_slice(part.as_bytes());
                map.push(0);
            }
        }
        map
    }

    fn headers(pairs: &[(&str, &str)]) -> Vec<u8> {
        encode_headers(pairs.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()))).unwrap()
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
        let request = read(&map(&PAIRS), HttpVersion::Http2).unwrap();
        assert_eq!(request.method, b"GET");
        assert_eq!(request.path, b"/x?y");
        assert_eq!(request.authority.as_deref(), Some(&b"db"[..]));
        assert_eq!(request.scheme, None);
        assert_eq!(request.headers, headers(&[("x-a", "1"), ("x-a", "")]));
        let request = read(&map(&PAIRS), HttpVersion::Http1).unwrap();
        assert_eq!(request.authority, None);
        assert_eq!(
            request.headers,
            headers(&[("x-a", "1"), ("x-a", ""), ("host", "db")])
        );
    }

    #[test]
    fn an_upgrade_over_http2_is_what_envoy_made_of_an_extended_connect() {
        let pairs = [
            (":method", "GET"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
        ];
        let request = read(&map(&pairs), HttpVersion::Http2).unwrap();
        assert!(request.headers.is_empty());
        let request = read(&map(&pairs), HttpVersion::Http1).unwrap();
        assert_eq!(request.headers, headers(&pairs[1..]));
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
