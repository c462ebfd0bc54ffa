//! `-upstream NAME:[ADDRESS:]PORT`, as `consul connect proxy` reads it, and
//! `-static-upstream`, for servers that no agent knows.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use portcullis::connector;
use portcullis::proxy::{ListenAddress, UpstreamConfig};
use portcullis_core::identity::{ServiceName, SpiffeId};

/// A local listener for one upstream service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// The service.
    pub(crate) service: ServiceName,
    /// Where our application connects to reach it.
    pub(crate) listen: ListenAddress,
}

impl Upstream {
    /// `service` at a socket that is bound already.
    ///
    /// Fails when that cannot be the name of a service.
    pub(crate) fn at(service: &str, listen: ListenAddress) -> Result<Self, String> {
        let service = ServiceName::parse(service).map_err(|error| error.to_string())?;
        Ok(Self { service, listen })
    }

    /// The same for the proxy.
    pub(crate) fn config(&self) -> UpstreamConfig {
        UpstreamConfig::new(
            connector::Upstream::service(self.service.as_str()),
            self.listen.clone(),
        )
    }
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
        let service = ServiceName::parse(service).map_err(|error| format!("{error}; {SHAPE}"))?;
        Ok(Self {
            service,
            listen: listen(place).map_err(|error| format!("{error}; {SHAPE}"))?,
        })
    }
}

/// A local listener for a server at a fixed address, which must have exactly one identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StaticUpstream {
    id: SpiffeId,
    address: String,
    listen: ListenAddress,
}

impl StaticUpstream {
    /// The same for the proxy.
    pub(crate) fn config(&self) -> UpstreamConfig {
        let upstream = connector::Upstream::Static {
            address: self.address.clone(),
            id: self.id.clone(),
        };
        UpstreamConfig::new(upstream, self.listen.clone())
    }
}

impl FromStr for StaticUpstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SHAPE: &str =
            "write it like `9191=10.0.0.5:8443=spiffe://TRUST-DOMAIN/ns/default/dc/dc1/svc/db`";
        let mut parts = text.splitn(3, '=');
        let (Some(place), Some(address), Some(id)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("it has no three parts; {SHAPE}"));
        };
        let id = SpiffeId::parse(id).map_err(|error| format!("{error}; {SHAPE}"))?;
        if id.service().is_none() {
            return Err(format!("`{id}` is no service; {SHAPE}"));
        }
        let has_port = |address: &str| {
            let (host, port) = address.rsplit_once(':')?;
            (!host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(())
        };
        has_port(address).ok_or_else(|| format!("`{address}` is not `host:port`; {SHAPE}"))?;
        let listen = listen(place).map_err(|error| format!("{error}; {SHAPE}"))?;
        Ok(Self {
            id,
            address: address.to_owned(),
            listen,
        })
    }
}

/// `[address:]port` or `unix:path`; loopback unless an address says otherwise.
fn listen(place: &str) -> Result<ListenAddress, String> {
    if let Some(path) = place.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.is_empty() {
            Err("it has no path".to_owned())
        } else {
            Ok(ListenAddress::Unix(path.into()))
        };
    }
    let (address, port) = match place.rsplit_once(':') {
        Some((address, port)) => {
            let inner = address
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            let address: IpAddr = inner
                .unwrap_or(address)
                .parse()
                .map_err(|_| format!("`{address}` is not an IP address to listen on"))?;
            (address, port)
        }
        None => (IpAddr::V4(Ipv4Addr::LOCALHOST), place),
    };
    let port = port
        .parse()
        .map_err(|_| format!("`{port}` is not a port from 0 to 65535"))?;
    Ok(ListenAddress::Tcp(SocketAddr::new(address, port)))
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
            ("db.v1:9191", "db.v1", "127.0.0.1:9191"),
            ("db:unix:/run/db.sock", "db", "unix:/run/db.sock"),
        ] {
            let upstream: Upstream = text.parse().unwrap();
            assert_eq!(
                (
                    upstream.service.as_str(),
                    upstream.listen.to_string().as_str()
                ),
                (service, listen)
            );
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
            ("billing/db:9191", "/"),
            ("d b:9191", "d b"),
            ("db:unix:", "no path"),
        ] {
            let error = text.parse::<Upstream>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn fixed_servers_need_address_and_identity() {
        let id = "spiffe://td.consul/ns/default/dc/dc1/svc/db";
        let upstream: StaticUpstream = format!("9191=db.example:8443={id}").parse().unwrap();
        assert_eq!(
            (upstream.address.as_str(), upstream.id.to_string().as_str()),
            ("db.example:8443", id)
        );
        for bad in [
            String::new(),
            format!("9191={id}"),
            format!("9191=db.example={id}"),
            format!("9191=db.example:0={id}"),
            format!("9191=:8443={id}"),
            format!("x=db.example:8443={id}"),
            "9191=db.example:8443=db".to_owned(),
            "9191=db.example:8443=spiffe://td.consul".to_owned(),
        ] {
            assert!(bad.parse::<StaticUpstream>().is_err(), "{bad}");
        }
    }
}
