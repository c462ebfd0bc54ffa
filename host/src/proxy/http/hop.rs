//! Headers that are about one connection and go no further (RFC 9110, 7.6.1).

use http::header::{
    CONNECTION, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_core::intention::HeaderChange;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What nobody can have removed by naming it in `Connection`.
const KEPT: [&str; 8] = [
    "authorization",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "traceparent",
    "tracestate",
    "x-request-id",
];

/// Removes what `Connection` names, but for what that must not name: identity, tracing,
/// the length. To be done before anybody judges the headers.
pub(super) fn remove_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in named {
        let text = name.as_str();
        let stays = KEPT.contains(&text) || text.starts_with("x-forwarded-");
        let ours = [CONNECTION, UPGRADE, TE, TRAILER, TRANSFER_ENCODING].contains(&name);
        if !stays && !ours {
            headers.remove(name);
        }
    }
}

/// Makes the changes that a decision asks for. A name that cannot be one is not there.
pub(super) fn change(headers: &mut HeaderMap, changes: &[HeaderChange]) {
    for change in changes {
        let Ok(name) = HeaderName::try_from(change.name.as_str()) else {
            continue;
        };
        headers.remove(&name);
        if let Some(Ok(value)) = change.value.as_deref().map(HeaderValue::from_bytes) {
            headers.insert(name, value);
        }
    }
}

/// The protocol that a request asks to upgrade to, if it does; `h2c` is none of them.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    let mut values = headers.get_all(UPGRADE).iter();
    match (values.next(), values.next()) {
        (Some(one), None) if asked && !one.as_bytes().eq_ignore_ascii_case(b"h2c") => {
            Some(one.clone())
        }
        _ => None,
    }
}

/// Whether a request says that it reads trailers.
pub(super) fn wants_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// Removes all headers about the connection. `te: trailers` is about the message and stays.
pub(super) fn remove(headers: &mut HeaderMap) {
    let trailers = wants_trailers(headers);
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        HTTP2_SETTINGS,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Says who is called, in the header that HTTP/1.1 has for it.
pub(super) fn set_host(headers: &mut HeaderMap, authority: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(authority) {
        headers.insert(HOST, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_decision_takes_headers_out_and_puts_others_in() {
        let mut all = headers(&[
            ("authorization", "Bearer x"),
            ("x-payload", "forged"),
            ("X-Payload", "forged again"),
            ("x-other", "stays"),
        ]);
        let changed = |name: &str, value: Option<&[u8]>| HeaderChange {
            name: name.to_owned(),
            value: value.map(<[u8]>::to_vec),
        };
        let changes = [
            changed("authorization", None),
            changed("x-payload", Some(b"e30")),
            changed("not a name", Some(b"x")),
        ];
        change(&mut all, &changes);
        assert_eq!(all, headers(&[("x-payload", "e30"), ("x-other", "stays")]));
    }

    #[test]
    fn named_headers_go_unless_they_say_who_it_is() {
        let mut all = headers(&[
            ("connection", "close, X-Mine, x-forwarded-client-cert"),
            ("connection", "traceparent, authorization,host , upgrade"),
            ("x-mine", "1"),
            ("x-forwarded-client-cert", "2"),
            ("x-forwarded-for", "3"),
            ("traceparent", "4"),
            ("authorization", "5"),
            ("host", "6"),
            ("upgrade", "7"),
        ]);
        remove_named(&mut all);
        assert!(!all.contains_key("x-mine"));
        for kept in [
            "x-forwarded-client-cert",
            "traceparent",
            "authorization",
            "host",
            "upgrade",
        ] {
            assert!(all.contains_key(kept), "{kept}");
        }
        remove(&mut all);
        assert!(!all.contains_key("connection") && !all.contains_key("upgrade"));
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn only_trailers_stay_of_te() {
        for (te, stays) in [
            ("trailers", true),
            ("gzip, Trailers", true),
            ("gzip", false),
        ] {
            let mut all = headers(&[("te", te)]);
            remove(&mut all);
            assert_eq!(
                all.get(TE).is_some_and(|te| te == "trailers"),
                stays,
                "{te}"
            );
        }
    }

    #[test]
    fn an_upgrade_is_asked_for_in_two_headers() {
        let ask = |lines: &[(&'static str, &'static str)]| upgrade(&headers(lines)).is_some();
        assert!(ask(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket")
        ]));
        assert!(!ask(&[("upgrade", "websocket")]));
        assert!(!ask(&[("connection", "upgrade"), ("upgrade", "h2c")]));
        assert!(!ask(&[
            ("connection", "upgrade"),
            ("upgrade", "a"),
            ("upgrade", "b")
        ]));
    }
}
