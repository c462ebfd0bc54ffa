//! `-upstream NAME:[ADDRESS:]PORT`, as `consul connect proxy` reads it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// A local listener for one upstream service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// The service: `name`, `namespace/name` or `partition/namespace/name`.
    pub(crate) service: String,
    /// Where our application connects to reach it.
    pub(crate) listen: SocketAddr,
}

impl FromStr for Upstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SHAPE: &str = "write it like `db:9191` or `db:127.0.0.1:9191`";
        let (name, place) = text
            .split_once(':')
            .ok_or_else(|| format!("it has no port; {SHAPE}"))?;
        let service = match name.rsplit_once('.') {
            Some((_, "query")) => {
                return Err(
                    "prepared queries are not supported; name the service itself".to_owned(),
                );
            }
            Some((service, "service")) => service,
            _ => name,
        };
        if service.is_empty() {
            return Err(format!("it names no service; {SHAPE}"));
        }
        let (address, port) = match place.rsplit_once(':') {
            Some((address, port)) => {
                let inner = address
                    .strip_prefix('[')
                    .and_then(|rest| rest.strip_suffix(']'));
                let address: IpAddr = inner.unwrap_or(address).parse().map_err(|_| {
                    format!("`{address}` is not an IP address to listen on; {SHAPE}")
                })?;
                (address, port)
            }
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), place),
        };
        let port = port
            .parse()
            .map_err(|_| format!("`{port}` is not a port from 0 to 65535; {SHAPE}"))?;
        Ok(Self {
            service: service.to_owned(),
            listen: SocketAddr::new(address, port),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_consul_takes() {
        for (text, service, listen) in [
            ("db:9191", "db", "127.0.0.1:9191"),
            ("db:127.0.0.2:9191", "db", "127.0.0.2:9191"),
            ("db:[::1]:9191", "db", "[::1]:9191"),
            ("db:::1:9191", "db", "[::1]:9191"),
            ("db.service:1", "db", "127.0.0.1:1"),
            ("billing/db:9191", "billing/db", "127.0.0.1:9191"),
            ("db.v1:9191", "db.v1", "127.0.0.1:9191"),
        ] {
            let upstream = Upstream {
                service: service.to_owned(),
                listen: listen.parse().unwrap(),
            };
            assert_eq!(text.parse(), Ok(upstream), "{text}");
        }
    }

    #[test]
    fn what_is_impossible_is_named() {
        for (text, part) in [
            ("db", "no port"),
            ("", "no port"),
            (":9191", "no service"),
            ("db:", "``"),
            ("db:port", "`port`"),
            ("db:65536", "`65536`"),
            ("db:-1", "`-1`"),
            ("db:host:9191", "`host`"),
            ("db.query:9191", "prepared queries"),
            ("db:127.0.0.1:", "``"),
        ] {
            let error = text.parse::<Upstream>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
