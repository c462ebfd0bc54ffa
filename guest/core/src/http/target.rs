//! The request target: which form it has, and what is path and authority in it.

use std::borrow::Cow;

use super::bad::BadRequest;
use super::request::HttpVersion;

/// The longest target that is judged.
const MAX_TARGET: usize = 64 * 1024;

/// Methods that HTTP/1.1 servers take: all others are answered 400, as Envoy does.
const METHODS: [&[u8]; 34] = [
    b"GET",
    b"POST",
    b"PUT",
    b"DELETE",
    b"HEAD",
    b"PATCH",
    b"OPTIONS",
    b"CONNECT",
    b"TRACE",
    b"ACL",
    b"BIND",
    b"CHECKOUT",
    b"COPY",
    b"LINK",
    b"LOCK",
    b"MERGE",
    b"MKACTIVITY",
    b"MKCALENDAR",
    b"MKCOL",
    b"MOVE",
    b"MSEARCH",
    b"NOTIFY",
    b"PROPFIND",
    b"PROPPATCH",
    b"PURGE",
    b"REBIND",
    b"REPORT",
    b"SEARCH",
    b"SOURCE",
    b"SUBSCRIBE",
    b"UNBIND",
    b"UNLINK",
    b"UNLOCK",
    b"UNSUBSCRIBE",
];

/// Whether the method can be asked for. HTTP/2 lets any token through.
pub(super) fn check_method(method: &[u8], version: HttpVersion) -> Result<(), BadRequest> {
    let is_one = match version {
        HttpVersion::Http1 => METHODS.contains(&method),
        HttpVersion::Http2 => {
            !method.is_empty() && method.iter().all(|byte| super::headers::is_token(*byte))
        }
    };
    is_one.then_some(()).ok_or(BadRequest::Method)
}

/// A target taken apart.
#[derive(Debug)]
pub(super) struct Target<'r> {
    /// The path and its query; none of CONNECT to an authority.
    pub(super) path: Option<Cow<'r, [u8]>>,
    /// The authority, where the target has one.
    pub(super) authority: Option<&'r [u8]>,
}

impl<'r> Target<'r> {
    /// Takes a target apart.
    pub(super) fn read(
        method: &[u8],
        target: &'r [u8],
        version: HttpVersion,
    ) -> Result<Self, BadRequest> {
        if target.len() > MAX_TARGET {
            return Err(BadRequest::TooLarge);
        }
        // In HTTP/2, whose paths are percent-encoded later, bytes from 0x80 may come.
        let is_allowed = |byte: &u8| match *byte {
            0..=0x20 | 0x7f => false,
            0x80..=0xff => version == HttpVersion::Http2,
            _ => true,
        };
        if !target.iter().all(is_allowed) {
            return Err(BadRequest::TargetCharacter);
        }
        if target.contains(&b'#') {
            return Err(BadRequest::Fragment);
        }
        let whole = |path| Self {
            path,
            authority: None,
        };
        match (target, method, version) {
            ([], b"CONNECT", HttpVersion::Http2) => Ok(whole(None)),
            ([b'/', ..], b"CONNECT", HttpVersion::Http1) => Err(BadRequest::Target),
            ([b'/', ..], ..) => Ok(whole(Some(Cow::Borrowed(target)))),
            (b"*", b"OPTIONS", _) => Ok(whole(Some(Cow::Borrowed(target)))),
            (_, b"CONNECT", HttpVersion::Http1) => {
                check_connect(target)?;
                Ok(Self {
                    path: None,
                    authority: Some(target),
                })
            }
            (_, _, HttpVersion::Http1) => absolute(target),
            (_, _, HttpVersion::Http2) => Err(BadRequest::Target),
        }
    }
}

/// `host:port`
fn check_connect(target: &[u8]) -> Result<(), BadRequest> {
    check_authority(target)?;
    let colon = target.iter().rposition(|byte| *byte == b':');
    let port = colon.and_then(|place| target.get(place.saturating_add(1)..));
    match port {
        Some(port @ [_, ..]) if port.iter().all(u8::is_ascii_digit) && colon != Some(0) => Ok(()),
        _ => Err(BadRequest::Target),
    }
}

/// `http://host/path?query`
fn absolute(target: &[u8]) -> Result<Target<'_>, BadRequest> {
    let rest = [&b"http://"[..], b"https://"]
        .into_iter()
        .find_map(|scheme| {
            let (start, rest) = target.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some(rest)
        })
        .ok_or(BadRequest::Target)?;
    let place = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
    let (authority, path) = rest
        .split_at_checked(place.unwrap_or(rest.len()))
        .ok_or(BadRequest::Target)?;
    // Envoy drops the user; who is called is what counts.
    let authority = match authority.iter().rposition(|byte| *byte == b'@') {
        Some(place) => authority.get(place.saturating_add(1)..).unwrap_or_default(),
        None => authority,
    };
    if authority.is_empty() {
        return Err(BadRequest::Target);
    }
    check_authority(authority)?;
    // A port is a number; the colons of an address stand in brackets.
    let after = authority
        .rsplit(|byte| *byte == b']')
        .next()
        .unwrap_or_default();
    let port = after
        .splitn(2, |byte| *byte == b':')
        .nth(1)
        .unwrap_or_default();
    if !port.iter().all(u8::is_ascii_digit) {
        return Err(BadRequest::Authority);
    }
    let path = match path {
        [b'/', ..] => Cow::Borrowed(path),
        other => Cow::Owned([b"/", other].concat()),
    };
    Ok(Target {
        path: Some(path),
        authority: Some(authority),
    })
}

/// Whether an authority has only characters that one can have.
pub(super) fn check_authority(authority: &[u8]) -> Result<(), BadRequest> {
    let is_allowed =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@[]".contains(byte);
    if authority.iter().all(is_allowed) {
        Ok(())
    } else {
        Err(BadRequest::Authority)
    }
}
