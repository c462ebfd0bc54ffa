//! Requests instead of bytes: the same question to contenders that judge HTTP.

pub mod application;
pub mod client;
pub mod envoy;
pub mod policy;

/// What is spoken on both sides of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1, one request after another on each connection.
    Http1,
    /// HTTP/2, one stream after another on each connection.
    Http2,
}

impl Version {
    /// As `service-defaults` names it.
    #[must_use]
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Http1 => "http",
            Self::Http2 => "http2",
        }
    }

    /// As ALPN names it.
    #[must_use]
    pub const fn alpn(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}
