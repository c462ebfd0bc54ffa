//! The flags about HTTP: what services speak.

use std::str::FromStr;

use portcullis_core::identity::ServiceName;

/// Flags about HTTP.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct HttpArgs {
    /// What the service speaks; its service-defaults say it unless given, or proxy-defaults, and else it is tcp
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    pub(crate) protocol: Option<Protocol>,
    /// The same for an upstream: `NAME=PROTOCOL`; may be repeated
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) upstream_protocol: Vec<UpstreamProtocol>,
}

/// What a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// Bytes: connections are judged.
    Tcp,
    /// HTTP/1.1: every request is judged.
    Http,
    /// HTTP/2: the same.
    Http2,
    /// gRPC: the same.
    Grpc,
}

impl From<Protocol> for portcullis_core::intention::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Http => Self::Http,
            Protocol::Http2 => Self::Http2,
            Protocol::Grpc => Self::Grpc,
        }
    }
}

/// What an upstream speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamProtocol {
    service: ServiceName,
    protocol: portcullis_core::intention::Protocol,
}

impl FromStr for UpstreamProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = "write it like `db=http`, with `tcp`, `http`, `http2` or `grpc`";
        let (name, protocol) = text
            .split_once('=')
            .ok_or_else(|| format!("it names no protocol; {shape}"))?;
        let service = ServiceName::parse(name).map_err(|error| format!("{error}; {shape}"))?;
        let protocol = portcullis_core::intention::Protocol::from_code(protocol)
            .ok_or_else(|| format!("`{protocol}` is no protocol; {shape}"))?;
        Ok(Self { service, protocol })
    }
}

impl HttpArgs {
    /// What the flags say that an upstream speaks.
    pub(crate) fn of_upstream(&self, name: &str) -> Option<portcullis_core::intention::Protocol> {
        let mut given = self.upstream_protocol.iter();
        given
            .find(|given| given.service.as_str() == name)
            .map(|given| given.protocol)
    }

    /// An upstream that is given a protocol, and is none of `names`.
    pub(crate) fn stray<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        let mut given = self.upstream_protocol.iter();
        given
            .find(|given| !names.clone().any(|name| name == given.service.as_str()))
            .map(|given| given.service.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_have_a_name_and_a_protocol() {
        let given: UpstreamProtocol = "db=http2".parse().unwrap();
        assert_eq!(given.protocol.code(), "http2");
        for text in ["db", "db=", "=http", "db=HTTP", "db=udp", "d b=tcp"] {
            assert!(text.parse::<UpstreamProtocol>().is_err(), "{text}");
        }
    }
}
