//! Writes the PROXY header that an application gets.
//!
//! Version 2 carries `PP2_TYPE_SSL` with the version of TLS and, as `PP2_SUBTYPE_SSL_CN`,
//! the client's SPIFFE ID: certificates of the mesh have no common name, and this is the
//! field that servers can read. It is never a common name.

use std::net::{IpAddr, SocketAddr};

use super::{Route, Version};

const PROXY: u8 = 0x21;
const TYPE_SSL: u8 = 0x20;
const SUBTYPE_VERSION: u8 = 0x21;
const SUBTYPE_CN: u8 = 0x22;

/// TLS, with a client certificate that was presented on this connection.
const CLIENT: u8 = 0x01 | 0x02 | 0x04;

/// What is told about the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) route: Route,
    /// As logs name it: `1.3`.
    pub(crate) tls: Option<&'a str>,
    /// Its SPIFFE ID, verified.
    pub(crate) identity: &'a str,
}

/// The header for a connection.
pub(crate) fn header(version: Version, about: About<'_>) -> Vec<u8> {
    let addresses = match about.route {
        Route {
            from: Some(from),
            to: Some(to),
        } => Some(same_family(from, to)),
        _ => None,
    };
    match version {
        Version::V1 => version_1(addresses),
        Version::V2 => version_2(addresses, about),
    }
}

fn version_1(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((from, to)) = addresses else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    let line = format!(
        "PROXY {family} {} {} {} {}\r\n",
        from.ip(),
        to.ip(),
        from.port(),
        to.port()
    );
    line.into_bytes()
}

fn version_2(addresses: Option<(SocketAddr, SocketAddr)>, about: About<'_>) -> Vec<u8> {
    let mut payload = Vec::with_capacity(200);
    let family = match addresses {
        None => 0x00,
        Some((from, to)) => {
            for address in [from, to] {
                match address.ip() {
                    IpAddr::V4(address) => payload.extend(address.octets()),
                    IpAddr::V6(address) => payload.extend(address.octets()),
                }
            }
            payload.extend(from.port().to_be_bytes());
            payload.extend(to.port().to_be_bytes());
            if from.is_ipv4() { 0x11 } else { 0x21 }
        }
    };
    // Whom we know, and that the certificate was verified: 0.
    let mut ssl = vec![CLIENT, 0, 0, 0, 0];
    if let Some(version) = about.tls {
        field(
            &mut ssl,
            SUBTYPE_VERSION,
            format!("TLSv{version}").as_bytes(),
        );
    }
    field(&mut ssl, SUBTYPE_CN, about.identity.as_bytes());
    field(&mut payload, TYPE_SSL, &ssl);
    let mut header = ppp::v2::PROTOCOL_PREFIX.to_vec();
    header.extend([PROXY, family]);
    header.extend(length(payload.len()));
    header.extend(payload);
    header
}

fn field(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.push(kind);
    out.extend(length(value.len()));
    out.extend(value);
}

/// SPIFFE IDs have at most 2,048 bytes, so nothing here comes near the limit.
fn length(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// Both as IPv4, or else both as IPv6.
fn same_family(from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (from, to) = (canonical(from), canonical(to));
    let wide = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    if from.is_ipv4() == to.is_ipv4() {
        (from, to)
    } else {
        (wide(from), wide(to))
    }
}

#[cfg(test)]
mod tests {
    use super::super::receive::receive;
    use super::*;

    const ID: &str = "spiffe://td.consul/ns/default/dc/dc1/svc/web";

    fn about<'a>(from: &str, to: &str) -> About<'a> {
        About {
            route: Route {
                from: from.parse().ok(),
                to: to.parse().ok(),
            },
            tls: Some("1.3"),
            identity: ID,
        }
    }

    #[tokio::test]
    async fn what_is_sent_is_what_is_received() {
        for (from, to, as_v4) in [
            ("192.0.2.1:5000", "192.0.2.2:443", true),
            ("[2001:db8::1]:5000", "[::1]:443", false),
            ("[::ffff:192.0.2.1]:5000", "192.0.2.2:443", true),
            ("192.0.2.1:5000", "[::1]:443", false),
        ] {
            for version in [Version::V1, Version::V2] {
                let sent = header(version, about(from, to));
                let route = receive(&mut sent.as_slice()).await.unwrap().unwrap();
                let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port());
                assert_eq!(route.from.map(canonical), from.parse().ok().map(canonical));
                assert_eq!(route.to.map(canonical), to.parse().ok().map(canonical));
                assert_eq!(route.from.unwrap().is_ipv4(), as_v4);
            }
        }
        for version in [Version::V1, Version::V2] {
            let sent = header(version, about("", "192.0.2.2:443"));
            assert_eq!(receive(&mut sent.as_slice()).await.unwrap(), None);
        }
    }

    #[test]
    fn version_2_carries_the_identity() {
        let sent = header(Version::V2, about("192.0.2.1:5000", "192.0.2.2:443"));
        let parsed = ppp::v2::Header::try_from(sent.as_slice()).unwrap();
        let fields: Vec<_> = parsed.tlvs().map(Result::unwrap).collect();
        assert_eq!((fields.len(), fields[0].kind), (1, TYPE_SSL));
        let mut expected = vec![7, 0, 0, 0, 0, SUBTYPE_VERSION, 0, 7];
        expected.extend(b"TLSv1.3");
        expected.extend([SUBTYPE_CN, 0, u8::try_from(ID.len()).unwrap()]);
        expected.extend(ID.as_bytes());
        assert_eq!(fields[0].value.as_ref(), expected);
    }
}
