//! Where the agent listens, as `CONSUL_HTTP_ADDR` and `-http-addr` say it.

use std::fmt;
use std::path::PathBuf;

use super::ConfigError;

/// The address of a Consul agent's HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentAddress {
    /// Plain HTTP over TCP.
    Tcp {
        /// Name or address of the host, IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// HTTPS over TCP.
    Tls {
        /// Name or address of the host, IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// Plain HTTP over a unix socket.
    Unix(PathBuf),
}

impl AgentAddress {
    /// Reads an address and the path prefix that follows it.
    ///
    /// Accepts `host:port`, `http://...`, `https://...` and `unix:///path`; `ssl`
    /// turns plain TCP into HTTPS, as `CONSUL_HTTP_SSL` does. Without a port, HTTP
    /// means 80 and HTTPS means 443, as for Consul's own client.
    ///
    /// # Errors
    /// When the scheme is unknown, or host, port or path cannot be read.
    pub fn parse(text: &str, ssl: bool) -> Result<(Self, String), ConfigError> {
        let bad = |problem: &'static str| ConfigError::Address {
            given: text.to_owned(),
            problem,
        };
        if let Some(path) = text.strip_prefix("unix://") {
            if path.is_empty() {
                return Err(bad(
                    "a unix address needs a path: `unix:///run/consul.sock`",
                ));
            }
            return Ok((Self::Unix(PathBuf::from(path)), String::new()));
        }
        let (tls, rest) = match text.split_once("://") {
            None => (ssl, text),
            Some(("http", rest)) => (ssl, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(bad("the scheme must be http, https or unix")),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let prefix = path.trim_end_matches('/');
        if !prefix
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'))
        {
            return Err(bad(
                "the path must be plain, without query, fragment or spaces",
            ));
        }
        let (host, port) = split_port(authority)
            .ok_or_else(|| bad("the port must be a number from 1 to 65535"))?;
        if host.is_empty()
            || !host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte))
        {
            return Err(bad(
                "the host must be a name or an address, without user or password",
            ));
        }
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        let host = host.to_owned();
        let address = if tls {
            Self::Tls { host, port }
        } else {
            Self::Tcp { host, port }
        };
        Ok((address, prefix.to_owned()))
    }

    /// What goes into the request's URI and `Host` header.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port } | Self::Tls { host, port } if host.contains(':') => {
                format!("[{host}]:{port}")
            }
            Self::Tcp { host, port } | Self::Tls { host, port } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

/// `host:port`, `[v6]:port`, `host` or `[v6]`; `None` when there is a port that is none.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        (
            host,
            if after.is_empty() {
                None
            } else {
                Some(after.strip_prefix(':')?)
            },
        )
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    match port {
        None => Some((host, None)),
        Some(port) => port
            .parse()
            .ok()
            .filter(|&port| port != 0)
            .map(|port| (host, Some(port))),
    }
}

impl Default for AgentAddress {
    fn default() -> Self {
        Self::Tcp {
            host: "127.0.0.1".to_owned(),
            port: 8500,
        }
    }
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { .. } => write!(formatter, "http://{}", self.authority()),
            Self::Tls { .. } => write!(formatter, "https://{}", self.authority()),
            Self::Unix(path) => write!(formatter, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> AgentAddress {
        AgentAddress::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn every_documented_form() {
        let tls = |host: &str, port| AgentAddress::Tls {
            host: host.to_owned(),
            port,
        };
        for (text, ssl, address, prefix) in [
            ("127.0.0.1:8500", false, tcp("127.0.0.1", 8500), ""),
            ("http://consul:8500/", false, tcp("consul", 8500), ""),
            ("http://consul:8500/a/b", false, tcp("consul", 8500), "/a/b"),
            ("[::1]:8500", false, tcp("::1", 8500), ""),
            ("consul", false, tcp("consul", 80), ""),
            ("https://consul", false, tls("consul", 443), ""),
            ("http://consul:1", true, tls("consul", 1), ""),
            (
                "unix:///run/consul.sock",
                false,
                AgentAddress::Unix("/run/consul.sock".into()),
                "",
            ),
        ] {
            let (read, path) = AgentAddress::parse(text, ssl).unwrap();
            assert_eq!((read, path.as_str()), (address, prefix), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_an_address_is_refused() {
        for text in [
            "",
            "ftp://x",
            "unix://",
            "x:",
            "x:0",
            "x:70000",
            "x:http",
            "u:p@x:1",
            "x y:1",
            "http://x/?q",
            "[::1",
            "[::1]8500",
            "a\nb:1",
        ] {
            assert!(AgentAddress::parse(text, false).is_err(), "{text}");
        }
    }
}
