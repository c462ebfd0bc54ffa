//! Which servers may be asked for key sets.

use std::fmt;
use std::str::FromStr;

/// A server that may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin {
    https: bool,
    host: String,
    port: u16,
}

/// What a URI asks of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) origin: AllowedOrigin,
    pub(super) path_and_query: String,
}

impl AllowedOrigin {
    /// Whether it is asked by HTTPS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Name or address, as one connects to it.
    pub(super) fn host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What stands in the `host` header.
    pub(super) fn authority(&self) -> String {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

impl Target {
    /// Fails in words.
    pub(super) fn parse(uri: &str) -> Result<Self, String> {
        let uri: http::Uri = uri.parse().map_err(|_| "it is no URI".to_owned())?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("it is neither `https` nor `http`".to_owned()),
        };
        let authority = uri.authority().ok_or("it names no server")?;
        if authority.as_str().contains('@') {
            return Err("it holds a user".to_owned());
        }
        let port = match (authority.port(), authority.as_str().rsplit(']').next()) {
            (Some(port), _) => port.as_u16(),
            (None, Some(rest)) if rest.contains(':') => return Err("its port is none".to_owned()),
            (None, _) => match https {
                true => 443,
                false => 80,
            },
        };
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() || host.contains('*') || port == 0 {
            return Err("it names no server".to_owned());
        }
        Ok(Self {
            origin: AllowedOrigin { https, host, port },
            path_and_query: uri
                .path_and_query()
                .map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }
}

impl FromStr for AllowedOrigin {
    type Err = String;

    /// `HOST[:PORT]` by HTTPS; by HTTP only as `http://HOST[:PORT]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let shape = "write it like `login.example.com`, `login.example.com:8443` or, without TLS, `http://127.0.0.1:8080`";
        let uri = match text.contains("://") {
            true => text.to_owned(),
            false => format!("https://{text}"),
        };
        let target = Target::parse(&uri).map_err(|error| format!("{error}; {shape}"))?;
        match target.path_and_query.as_str() {
            "/" => Ok(target.origin),
            _ => Err(format!("a server has no path; {shape}")),
        }
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "" } else { "http://" };
        write!(formatter, "{scheme}{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(text: &str) -> Result<AllowedOrigin, String> {
        text.parse()
    }

    #[test]
    fn servers_are_compared_by_scheme_host_and_port() {
        let is = |text: &str, uri: &str| {
            Target::parse(uri).is_ok_and(|target| target.origin == allowed(text).unwrap())
        };
        assert!(is("a.example", "https://A.example/keys?x=1"));
        assert!(is("a.example:443", "https://a.example"));
        assert!(is("http://127.0.0.1:8080", "http://127.0.0.1:8080/k"));
        assert!(is("[::1]:8443", "https://[::1]:8443/k"));
        for uri in [
            "http://a.example/",
            "https://a.example:8443/",
            "https://b.a.example/",
            "https://a.example.evil/",
            "https://a.example./",
            "https://a.example@evil/",
            "https://evil#a.example/",
            "https://evil/?a.example",
            "file:///etc/passwd",
            "//a.example/",
            "a.example",
        ] {
            assert!(!is("a.example", uri), "{uri}");
        }
    }

    #[test]
    fn a_server_is_a_host_and_a_port() {
        for text in [
            "", "a/b", "https://", "a:b", "a:0", "u@a", "ftp://a", "a:99999", "*",
        ] {
            assert!(allowed(text).is_err(), "{text}");
        }
        assert_eq!(allowed("a:8443").unwrap().to_string(), "a:8443");
        assert_eq!(allowed("http://a").unwrap().to_string(), "http://a");
    }
}
