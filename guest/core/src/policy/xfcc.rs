//! The `x-forwarded-client-cert` header: the client behind a mesh gateway, and the chain that
//! Envoy was shown.
//!
//! A mesh gateway ends the TLS of HTTP from peers and says in this header whose
//! certificate it saw. It sends exactly one element; more of them, or a form that Envoy
//! does not write, are refused, because anybody could have written the first one.

use crate::identity::{IdentityError, SpiffeId};

/// The longest header that is read: it may carry the whole chain.
const MAX_HEADER: usize = 64 * 1024;

/// Why the header names nobody.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unnamed {
    /// It is not one element of the form that a gateway sends.
    Malformed(&'static str),
    /// It has no `URI`.
    NoUri,
    /// It has more than one `URI`.
    SeveralUris,
    /// Its `URI` is no SPIFFE ID.
    NotSpiffe(IdentityError),
}

/// The identity that the header names.
pub(super) fn identity(header: &[u8]) -> Result<SpiffeId, Unnamed> {
    if header.len() > MAX_HEADER {
        return Err(Unnamed::Malformed("the header is too long"));
    }
    let mut uri = None;
    let mut rest = header;
    loop {
        let (key, value, after) = pair(rest)?;
        if key.eq_ignore_ascii_case(b"uri") {
            if uri.is_some() {
                return Err(Unnamed::SeveralUris);
            }
            uri = Some(value);
        }
        match after {
            [] => break,
            [b';', more @ ..] => rest = more,
            _ => return Err(Unnamed::Malformed("the header has more than one element")),
        }
    }
    let uri = uri.filter(|uri| !uri.is_empty()).ok_or(Unnamed::NoUri)?;
    let uri = std::str::from_utf8(uri)
        .map_err(|_| Unnamed::Malformed("the header's `URI` is not UTF-8"))?;
    SpiffeId::parse(uri).map_err(Unnamed::NotSpiffe)
}

/// The header without the element that the proxy itself has added behind it about a client
/// whose certificate has this SHA-256, in hexadecimal; `None` where there is nothing else.
/// What cannot be read stays as it is.
pub(crate) fn before_own<'h>(header: &'h [u8], digest: &str) -> Option<&'h [u8]> {
    let (mut rest, mut last, mut is_own) = (header, header, false);
    if header.len() > MAX_HEADER {
        return Some(header);
    }
    loop {
        let Ok((key, value, after)) = pair(rest) else {
            return Some(header);
        };
        is_own |=
            key.eq_ignore_ascii_case(b"hash") && value.eq_ignore_ascii_case(digest.as_bytes());
        match after {
            [] => break,
            [b';', more @ ..] => rest = more,
            [_, more @ ..] => (rest, last, is_own) = (more, more, false),
        }
    }
    if !is_own {
        return Some(header);
    }
    let length = header.len().checked_sub(last.len())?.checked_sub(1)?;
    header.get(..length)
}

/// What the header's only element has as `Chain`: percent-encoded PEM, which nobody vouches for.
pub(crate) fn chain(header: &[u8]) -> Option<&[u8]> {
    if header.len() > MAX_HEADER {
        return None;
    }
    let mut chain = None;
    let mut rest = header;
    loop {
        let (key, value, after) = pair(rest).ok()?;
        if key.eq_ignore_ascii_case(b"chain") && chain.replace(value).is_some() {
            return None;
        }
        match after {
            [] => return chain,
            [b';', more @ ..] => rest = more,
            _ => return None,
        }
    }
}

type Pair<'h> = (&'h [u8], &'h [u8], &'h [u8]);

/// `Key=value` or `Key="value"`, and what comes after it.
fn pair(text: &[u8]) -> Result<Pair<'_>, Unnamed> {
    let malformed = Unnamed::Malformed("the header is not a list of `Key=value`");
    let Some(equals) = text.iter().position(|byte| *byte == b'=') else {
        return Err(malformed);
    };
    let (key, rest) = text.split_at_checked(equals).unwrap_or_default();
    let rest = rest.get(1..).unwrap_or_default();
    if key.is_empty() || !key.iter().all(u8::is_ascii_alphabetic) {
        return Err(malformed);
    }
    if let [b'"', quoted @ ..] = rest {
        let end = closing_quote(quoted).ok_or(malformed)?;
        let (value, after) = quoted.split_at_checked(end).unwrap_or_default();
        if key.eq_ignore_ascii_case(b"uri") {
            return Err(Unnamed::Malformed(
                "the header's `URI` is in quotes, which a gateway does not write",
            ));
        }
        return Ok((key, value, after.get(1..).unwrap_or_default()));
    }
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b';' | b','))
        .unwrap_or(rest.len());
    let (value, after) = rest.split_at_checked(end).unwrap_or_default();
    if value.contains(&b'"') {
        return Err(malformed);
    }
    Ok((key, value, after))
}

fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    text.iter().position(|byte| {
        let is_end = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        is_end
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "spiffe://beta.consul/ns/default/dc/d/svc/web";

    #[test]
    fn what_a_gateway_sends_is_read() {
        for header in [
            format!("Hash=00ff;URI={WEB}"),
            format!("By=spiffe://t/gateway/mesh/dc/d;Hash=00;Subject=\"\";URI={WEB}"),
            format!("Subject=\"CN=a;b,c=\\\"d\\\"\";URI={WEB};DNS=a;DNS=b"),
            format!("Cert=\"-----BEGIN%20CERTIFICATE\";uri={WEB}"),
            format!("URI={WEB}"),
        ] {
            let id = identity(header.as_bytes()).unwrap();
            assert_eq!(id.to_string(), WEB, "{header}");
        }
    }

    #[test]
    fn what_the_proxy_itself_has_added_is_taken_off() {
        let own = format!("By=spiffe://t/x;Hash=00FF;Subject=\"a,b\";URI={WEB}");
        let of = |header: &str| {
            let found = before_own(header.as_bytes(), "00ff");
            found.map(|found| String::from_utf8(found.to_vec()).unwrap())
        };
        assert_eq!(of(&own), None);
        assert_eq!(of(&format!("URI=a,{own}")).as_deref(), Some("URI=a"));
        let two = format!("URI=a,Hash=1;URI=b,{own}");
        assert_eq!(of(&two).as_deref(), Some("URI=a,Hash=1;URI=b"));
        for other in [
            "URI=a".to_owned(),
            "URI=a,Hash=00fe;URI=b".to_owned(),
            format!("{own},URI=a"),
            format!("URI=a;Subject=\",{own}"),
            format!("URI=a,{own},"),
            format!("URI=a, {own}"),
            "Hash=00ff,x".to_owned(),
            String::new(),
        ] {
            assert_eq!(of(&other).as_deref(), Some(other.as_str()));
        }
    }

    #[test]
    fn a_chain_is_found_in_the_only_element() {
        let of = |header: &'static str| chain(header.as_bytes());
        let found = Some(&b"%2D%2D"[..]);
        assert_eq!(of("Chain=\"%2D%2D\""), found);
        assert_eq!(of("By=a;Hash=00;Cert=\"x\";chain=\"%2D%2D\";URI=u"), found);
        for header in [
            "",
            "Hash=00",
            "Chain=\"%2D%2D\",Hash=00",
            "Hash=00,Chain=\"%2D%2D\"",
            "Chain=\"a\";Chain=\"a\"",
            "Chain=\"a",
            "Chain=\"a\"b",
            "Chain=\"a\";",
        ] {
            assert_eq!(of(header), None, "{header}");
        }
        assert_eq!(chain(&vec![b'a'; MAX_HEADER + 1]), None);
    }

    #[test]
    fn what_no_gateway_sends_names_nobody() {
        for header in [
            String::new(),
            "URI".to_owned(),
            format!("URI={WEB},URI={WEB}"),
            format!("URI={WEB},"),
            format!("URI={WEB};"),
            format!(",URI={WEB}"),
            format!(" URI={WEB}"),
            format!("Hash=0, URI={WEB}"),
            format!("URI=\"{WEB}\""),
            format!("Subject=\"a;URI={WEB}"),
            format!("Subject=\"a\"b;URI={WEB}"),
            format!("Hash=a\"b\";URI={WEB}"),
            format!("=;URI={WEB}"),
        ] {
            let read = identity(header.as_bytes());
            assert!(
                matches!(read, Err(Unnamed::Malformed(_))),
                "{header} {read:?}"
            );
        }
        for header in ["Hash=00", "URI=", "Hash=0;URI="] {
            assert_eq!(identity(header.as_bytes()), Err(Unnamed::NoUri), "{header}");
        }
        let twice = format!("URI={WEB};URI={WEB}");
        assert_eq!(identity(twice.as_bytes()), Err(Unnamed::SeveralUris));
        for header in [
            "URI=web",
            "URI=SPIFFE://b/x",
            "URI=spiffe://b/ns/default/dc/d/svc/web?x",
        ] {
            let read = identity(header.as_bytes());
            assert!(
                matches!(read, Err(Unnamed::NotSpiffe(_))),
                "{header} {read:?}"
            );
        }
        assert!(identity(b"URI=spiffe://b/\xff").is_err());
        assert!(identity(&vec![b'a'; MAX_HEADER + 1]).is_err());
    }
}
