//! The addresses whose PROXY headers are believed.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The addresses whose PROXY headers are believed, and required.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    networks: Vec<Network>,
    unix: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Trusted {
    /// Adds what `other` trusts.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.networks.extend(other.networks);
        self.unix |= other.unix;
        self
    }

    /// Whether a connection from there begins with a header; nowhere is a unix socket.
    pub(crate) fn contains(&self, from: Option<SocketAddr>) -> bool {
        match from {
            Some(from) => {
                let address = from.ip().to_canonical();
                self.networks
                    .iter()
                    .any(|network| network.contains(address))
            }
            None => self.unix,
        }
    }
}

impl Network {
    fn contains(self, other: IpAddr) -> bool {
        let (ours, theirs, width) = match (self.address, other) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (u128::from(ours.to_bits()), u128::from(theirs.to_bits()), 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits(), theirs.to_bits(), 128),
            _ => return false,
        };
        let differ = ours ^ theirs;
        differ
            .checked_shr(width - u32::from(self.bits))
            .unwrap_or(0)
            == 0
    }
}

/// One of `ADDRESS`, `ADDRESS/BITS`, `unix`, or several with commas between them.
impl FromStr for Trusted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut trusted = Self::default();
        for part in text.split(',') {
            if part == "unix" {
                trusted.unix = true;
                continue;
            }
            let wrong = |why: &str| {
                Err(format!(
                    "`{part}` {why}; write it like `10.0.0.7`, `10.0.0.0/8`, `2001:db8::/32` or `unix`"
                ))
            };
            let (address, bits) = match part.split_once('/') {
                Some((address, bits)) => (address, Some(bits)),
                None => (part, None),
            };
            let Ok(address) = address.parse::<IpAddr>() else {
                return wrong("is no IP address or network");
            };
            let width = if address.is_ipv4() { 32 } else { 128 };
            let bits = match bits.map(str::parse::<u8>) {
                None => width,
                Some(Ok(bits)) if bits <= width => bits,
                Some(_) => return wrong("has no good prefix length"),
            };
            let network = Network { address, bits };
            if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
                return wrong("is an IPv4 address in IPv6 form");
            }
            trusted.networks.push(network);
        }
        Ok(trusted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusts(text: &str, from: &str) -> bool {
        let from = SocketAddr::new(from.parse().unwrap(), 1);
        text.parse::<Trusted>().unwrap().contains(Some(from))
    }

    #[test]
    fn networks_contain_their_addresses_and_no_others() {
        assert!(trusts("10.0.0.7", "10.0.0.7"));
        assert!(!trusts("10.0.0.7", "10.0.0.6"));
        assert!(trusts("10.0.0.0/8", "10.255.1.2"));
        assert!(!trusts("10.0.0.0/8", "11.0.0.0"));
        assert!(trusts("0.0.0.0/0", "203.0.113.1"));
        assert!(!trusts("0.0.0.0/0", "::1"));
        assert!(trusts("::/0", "2001:db8::1"));
        assert!(trusts("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!trusts("2001:db8::/32", "2001:db9::1"));
        assert!(trusts("127.0.0.1,::1", "::1"));
        // A listener on `::` sees IPv4 so.
        assert!(trusts("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!trusts("::/0", "::ffff:10.1.2.3"));
    }

    #[test]
    fn unix_sockets_are_trusted_by_name_only() {
        assert!("unix".parse::<Trusted>().unwrap().contains(None));
        assert!(!"0.0.0.0/0,::/0".parse::<Trusted>().unwrap().contains(None));
        let both = "unix"
            .parse::<Trusted>()
            .unwrap()
            .and("10.0.0.1".parse().unwrap());
        assert!(both.contains(None) && both.contains(Some("10.0.0.1:5".parse().unwrap())));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0/8",
            "host",
            "10.0.0.1,",
            "::ffff:10.0.0.0/104",
            "10.0.0.1/-1",
            "10.0.0.1/+8x",
        ] {
            assert!(text.parse::<Trusted>().is_err(), "{text}");
        }
    }
}
