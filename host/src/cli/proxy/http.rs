//! The flags about HTTP: what services speak, and how requests are treated.

use std::str::FromStr;
use std::time::Duration;

use portcullis::jwks::JwksSettings;
use portcullis::proxy::{ClientCertDetails, HttpSettings};
use portcullis_core::identity::ServiceName;

use crate::cli::duration;
use crate::cli::failure::Failure;
use crate::cli::jwks::JwksArgs;

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
    /// What the application is told of the client's certificate by `x-forwarded-client-cert`: Envoy's names, SANITIZE, FORWARD_ONLY, APPEND_FORWARD, SANITIZE_SET or ALWAYS_FORWARD_ONLY
    #[arg(long, value_name = "MODE", default_value = "SANITIZE_SET")]
    forward_client_cert_details: ClientCertDetails,
    /// Pass CONNECT on, where the policy allows the method; HTTP/1.1 only
    #[arg(long)]
    allow_connect: bool,
    /// Tell clients the name of the reason by `x-portcullis-reason`; for looking into a refusal, not for strangers
    #[arg(long)]
    debug_reason_header: bool,
    /// Headers of one request at most; more are answered 431
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(8..=1000))]
    max_request_headers: u16,
    /// Bytes of a request's first line and headers at most; more are answered 431
    #[arg(long, value_name = "BYTES", default_value_t = 61_440, value_parser = clap::value_parser!(u32).range(1024..=262_144))]
    max_request_header_bytes: u32,
    /// How long the head of a request may take to arrive, in HTTP/1.1
    #[arg(long, value_name = "DURATION", value_parser = positive, default_value = "10s")]
    request_header_timeout: Duration,
    /// Requests at once on each HTTP/2 connection
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    max_concurrent_streams: u32,
    /// Requests that an HTTP/2 client may take back beyond those that end well; then its connection ends
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    max_stream_resets: u32,
    #[command(flatten)]
    jwks: JwksArgs,
}

fn positive(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        Duration::ZERO => Err("it must be more than nothing".to_owned()),
        duration => Ok(duration),
    }
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
    /// How listeners treat HTTP.
    pub(crate) fn settings(&self) -> HttpSettings {
        HttpSettings {
            client_cert: self.forward_client_cert_details,
            connect: self.allow_connect,
            debug_header: self.debug_reason_header,
            headers: usize::from(self.max_request_headers),
            header_bytes: usize::try_from(self.max_request_header_bytes).unwrap_or(usize::MAX),
            header_time: self.request_header_timeout,
            streams: self.max_concurrent_streams,
            resets: self.max_stream_resets,
        }
    }

    /// From whom key sets are fetched.
    ///
    /// Fails when the CA certificates cannot be used.
    pub(crate) fn jwks(&self) -> Result<JwksSettings, Failure> {
        self.jwks.settings()
    }

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
