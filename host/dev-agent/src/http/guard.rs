//! What keeps a browser from using a server for local programs on somebody's behalf.
//!
//! A page on any site can make a browser send requests to loopback. Three
//! things tell them from a client's: the `Host` (a name that was rebound to
//! loopback is not one of ours), the `Origin` or `Sec-Fetch-Site` that a
//! browser adds when another site is behind a request, and a body type that
//! forms and scripts may send without asking first. All are checked before
//! anything else is looked at.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Method, StatusCode};

/// Why a request is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// 400 or 403.
    pub status: StatusCode,
    /// In words, for the reply.
    pub text: String,
}

impl Refused {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }
}

/// Refuses what a browser may have been tricked into sending to a listener bound to
/// `bound`; further names that are ours are `allowed`.
///
/// # Errors
/// 403, or 400 without a usable `Host`.
pub fn check(
    method: &Method,
    authority: Option<&str>,
    headers: &HeaderMap,
    bound: SocketAddr,
    allowed: &[String],
) -> Result<(), Refused> {
    let forbidden = |text: &str| Refused::new(StatusCode::FORBIDDEN, text);
    let mut hosts = headers.get_all(http::header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or("?"),
        (None, _) => {
            return Err(Refused::new(
                StatusCode::BAD_REQUEST,
                "missing required Host header",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(Refused::new(
                StatusCode::BAD_REQUEST,
                "too many Host headers",
            ));
        }
    };
    for name in [Some(host), authority].into_iter().flatten() {
        if !is_ours(name, bound, allowed) {
            return Err(forbidden(
                "the Host is not a loopback name: only local programs are answered",
            ));
        }
    }
    let cross_site = forbidden(
        "the request comes from a page of another site: only local programs are answered",
    );
    for origin in headers.get_all(http::header::ORIGIN) {
        if origin.to_str().ok() != Some(&format!("http://{host}")) {
            return Err(cross_site);
        }
    }
    for site in headers.get_all("sec-fetch-site") {
        if !matches!(site.as_bytes(), b"same-origin" | b"none") {
            return Err(cross_site);
        }
    }
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    for kind in headers.get_all(http::header::CONTENT_TYPE) {
        let kind = kind
            .to_str()
            .unwrap_or("?")
            .split(';')
            .next()
            .unwrap_or_default();
        let kind = kind.trim().to_ascii_lowercase();
        // `curl -d` says that its body is a form. A browser that sends one
        // names its origin, which was refused above unless it is ours.
        let form = kind == "application/x-www-form-urlencoded" && !is_browser(headers);
        if !(kind.is_empty() || kind == "application/json" || form) {
            return Err(forbidden(&format!(
                "a body of type {kind:?} is refused; send application/json"
            )));
        }
    }
    Ok(())
}

/// Whether a browser sent it: curl and Consul's clients add none of these.
fn is_browser(headers: &HeaderMap) -> bool {
    let names = [
        "origin",
        "referer",
        "cookie",
        "sec-fetch-mode",
        "sec-fetch-dest",
        "sec-fetch-site",
    ];
    let mozilla = headers
        .get(http::header::USER_AGENT)
        .is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"));
    mozilla || names.iter().any(|name| headers.contains_key(*name))
}

/// Whether a `Host` names loopback or the address that we listen on. The port
/// is free: a tunnel or a port mapping changes it, and no rebinding needs it.
fn is_ours(host: &str, bound: SocketAddr, allowed: &[String]) -> bool {
    let (name, port) = split(host);
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    let is_name = |known: &str| name.eq_ignore_ascii_case(known);
    if is_name("localhost") || allowed.iter().any(|known| is_name(known)) {
        return true;
    }
    match name.parse::<IpAddr>() {
        Ok(address) => {
            let address = address.to_canonical();
            // With an unspecified address any literal may be ours; a literal
            // cannot be rebound, which is what this check is about.
            address.is_loopback()
                || address == bound.ip().to_canonical()
                || bound.ip().is_unspecified()
        }
        Err(_) => false,
    }
}

/// Name and port; brackets around an IPv6 address are taken off.
fn split(host: &str) -> (&str, Option<&str>) {
    if let Some(rest) = host.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((name, "")) => (name, None),
            Some((name, port)) => (name, port.strip_prefix(':').or(Some("?"))),
            None => ("?", None),
        };
    }
    match host.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: Method, bound: &str, pairs: &[(&'static str, &str)]) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a header value"));
        }
        let bound = bound.parse().expect("an address");
        match check(&method, None, &headers, bound, &["agent.test".to_owned()]) {
            Ok(()) => 200,
            Err(refused) => refused.status.as_u16(),
        }
    }

    const V4: &str = "127.0.0.1:8500";

    #[test]
    fn hosts() {
        for ours in [
            "127.0.0.1:8500",
            "localhost:8500",
            "LOCALHOST:8500",
            "[::1]:8500",
            "127.0.0.1",
            "127.9.9.9:8500",
            "agent.test:8500",
        ] {
            assert_eq!(status(Method::GET, V4, &[("host", ours)]), 200, "{ours}");
            assert_eq!(
                status(Method::GET, "[::1]:8500", &[("host", ours)]),
                200,
                "{ours}"
            );
        }
        for foreign in [
            "evil.example",
            "evil.example:8500",
            "localhost.evil.example",
            "127.0.0.1.nip.io:8500",
            "localhost:x",
            "127.0.0.1:",
            "10.0.0.1:8500",
            "",
            "[::1",
            "[::1]x",
            "localhost.:8500",
            "2130706433:8500",
            "0.0.0.0:8500",
        ] {
            assert_eq!(
                status(Method::GET, V4, &[("host", foreign)]),
                403,
                "{foreign}"
            );
        }
        assert_eq!(status(Method::GET, V4, &[]), 400);
        assert_eq!(
            status(Method::GET, V4, &[("host", V4), ("host", "evil.example")]),
            400
        );
    }

    #[test]
    fn origins() {
        let host = ("host", V4);
        for origin in [
            "http://evil.example",
            "null",
            "https://127.0.0.1:8500",
            "http://localhost:3000",
            "http://127.0.0.1:8501",
        ] {
            for method in [Method::GET, Method::PUT, Method::POST, Method::OPTIONS] {
                assert_eq!(
                    status(method, V4, &[host, ("origin", origin)]),
                    403,
                    "{origin}"
                );
            }
        }
        assert_eq!(
            status(
                Method::GET,
                V4,
                &[host, ("origin", "http://127.0.0.1:8500")]
            ),
            200
        );
        assert_eq!(
            status(Method::GET, V4, &[host, ("sec-fetch-site", "cross-site")]),
            403
        );
        assert_eq!(
            status(Method::GET, V4, &[host, ("sec-fetch-site", "same-site")]),
            403
        );
        assert_eq!(
            status(Method::GET, V4, &[host, ("sec-fetch-site", "none")]),
            200
        );
    }

    #[test]
    fn body_types() {
        let host = ("host", V4);
        for method in [Method::PUT, Method::POST, Method::DELETE] {
            for kind in [
                "text/plain",
                "TEXT/PLAIN;charset=utf-8",
                "multipart/form-data; boundary=x",
                "text/html",
            ] {
                assert_eq!(
                    status(method.clone(), V4, &[host, ("content-type", kind)]),
                    403,
                    "{kind}"
                );
            }
            assert_eq!(status(method.clone(), V4, &[host]), 200);
            assert_eq!(
                status(
                    method.clone(),
                    V4,
                    &[host, ("content-type", "application/json")]
                ),
                200
            );
            // what `curl -X PUT -d` says
            let form = ("content-type", "application/x-www-form-urlencoded");
            assert_eq!(status(method.clone(), V4, &[host, form]), 200);
            assert_eq!(
                status(
                    method.clone(),
                    V4,
                    &[host, form, ("user-agent", "Mozilla/5.0")]
                ),
                403
            );
            assert_eq!(
                status(
                    method,
                    V4,
                    &[host, form, ("referer", "http://evil.example/")]
                ),
                403
            );
        }
    }
}
