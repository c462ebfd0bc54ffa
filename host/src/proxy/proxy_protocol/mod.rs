//! The PROXY protocol of HAProxy, versions 1 and 2: who the client is, told by the load
//! balancer before us, and told by us to the application.
//!
//! Read only from [`Trusted`] addresses, where it is then required: whoever could choose
//! whether to send one could choose its address. See
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>.

mod receive;
mod send;
mod trusted;

use std::net::SocketAddr;

pub(super) use receive::{ReceiveError, receive};
pub(super) use send::{About, header};
pub use trusted::Trusted;

/// Which form of header is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text with the addresses.
    V1,
    /// Binary, with the addresses, the client's identity and the version of TLS.
    V2,
}

/// From where to where a connection goes, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) from: Option<SocketAddr>,
    pub(super) to: Option<SocketAddr>,
}

/// The type of the checksum's field.
const CRC32C: u8 = 0x03;
