//! `-listen` and `-service-addr`.

use std::net::ToSocketAddrs as _;
use std::path::PathBuf;

use portcullis::proxy::{Application, ListenAddress};

use crate::cli::failure::Failure;

/// Where to accept connections: `host:port`, `:port` for every address, `unix:path` or
/// `unix:///path`.
///
/// Fails when it is none of these, or the host is unknown.
pub(crate) fn listen(text: &str) -> Result<ListenAddress, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format_args!(
            "-listen `{text}` {why}; write it like `127.0.0.1:8443`, `:8443` or `unix:/run/mesh.sock`"
        ))
    };
    if let Some(path) = unix(text) {
        return path
            .map(ListenAddress::Unix)
            .ok_or_else(|| wrong("has no path"));
    }
    let (host, port) = split(text).ok_or_else(|| wrong("is not `host:port`"))?;
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    (host, port)
        .to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .map(ListenAddress::Tcp)
        .ok_or_else(|| wrong("names an unknown host"))
}

/// Where the application listens: `host:port`, `unix:path` or `unix:///path`.
///
/// Fails when it is none of these. A host is looked up for each connection.
pub(crate) fn application(text: &str) -> Result<Application, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format_args!(
            "-service-addr `{text}` {why}; write it like `127.0.0.1:8080` or `unix:/run/app.sock`"
        ))
    };
    if let Some(path) = unix(text) {
        return path
            .map(Application::Unix)
            .ok_or_else(|| wrong("has no path"));
    }
    let (host, port) = split(text).ok_or_else(|| wrong("is not `host:port`"))?;
    match (host, port) {
        ("", _) => Err(wrong("has no host")),
        (_, 0) => Err(wrong("has no port")),
        (host, port) if host.contains(':') => Ok(Application::Tcp(format!("[{host}]:{port}"))),
        (host, port) => Ok(Application::Tcp(format!("{host}:{port}"))),
    }
}

/// Host and port of an application that listens on TCP, for the registration.
pub(crate) fn tcp(application: &Application) -> Option<(String, u16)> {
    match application {
        Application::Tcp(text) => split(text).map(|(host, port)| (host.to_owned(), port)),
        Application::Unix(_) => None,
    }
}

/// The path of a unix socket, if it is meant to be one; absent when it is empty.
fn unix(text: &str) -> Option<Option<PathBuf>> {
    let path = text.strip_prefix("unix:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    Some((!path.is_empty()).then(|| PathBuf::from(path)))
}

/// `host:port`; an IPv6 host stands in brackets.
fn split(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let plain = |host: &str| {
        host.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let good = match inner {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => plain(host),
    };
    good.then(|| Some((inner.unwrap_or(host), port.parse().ok()?)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        for (text, address) in [
            (":8443", "0.0.0.0:8443"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:8443", "[::1]:8443"),
        ] {
            let address = ListenAddress::Tcp(address.parse().unwrap());
            assert_eq!(listen(text).unwrap(), address, "{text}");
        }
        for text in ["unix:/run/mesh.sock", "unix:///run/mesh.sock"] {
            let address = ListenAddress::Unix("/run/mesh.sock".into());
            assert_eq!(listen(text).unwrap(), address, "{text}");
        }
        for text in [
            "",
            "8443",
            ":",
            ":x",
            ":70000",
            "::1:8443",
            "[::1:8443",
            "a b:1",
            "no-such-host.invalid:1",
            "unix:",
            "unix://",
        ] {
            assert!(listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn applications() {
        for (text, shown) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("app.local:8080", "app.local:8080"),
            ("[::1]:8080", "[::1]:8080"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:///run/app.sock", "unix:/run/app.sock"),
            ("unix:app.sock", "unix:app.sock"),
        ] {
            assert_eq!(application(text).unwrap().to_string(), shown, "{text}");
        }
        for text in [
            "", "8080", "unix:", "unix://", ":8080", "host:", "host:0", "a/b:1",
        ] {
            assert!(application(text).is_err(), "{text}");
        }
    }
}
