//! The flags about connections: how many, how long, and who is behind them.

use std::time::Duration;

use portcullis::proxy::{Limits, ProxyHeader, Trusted};
use portcullis::sidecar::Usual;

use super::descriptors;
use super::http::HttpArgs;
use crate::cli::duration;

/// Flags about connections.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connections")]
pub(crate) struct LimitArgs {
    /// Connections at once in all; more are refused. As many as there are file descriptors for, at most 65536, unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,
    /// Connections at once on each listener; more are refused
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections_per_listener: u32,
    /// Handshakes of clients at once; above that the oldest that lasts for a second or more gives way
    #[arg(long, value_name = "N", default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(1..))]
    max_handshakes: u32,
    /// How long a client may take for its handshake
    #[arg(long, value_name = "DURATION", value_parser = positive, default_value = "10s")]
    handshake_timeout: Duration,
    /// End connections without a byte in either direction for so long; 0 for never
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "0")]
    idle_timeout: Duration,
    /// End connections older than this, give or take a tenth, once they are quiet for a second; 0 for never
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "0")]
    max_connection_age: Duration,
    /// How long an old connection may still wait for a quiet moment
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, default_value = "30s")]
    max_connection_age_grace: Duration,
    /// Load balancers before -listen whose connections begin with a PROXY header (v1 or v2): addresses, networks, or `unix`; may be repeated
    #[arg(long, value_name = "CIDR")]
    accept_proxy_protocol_from: Vec<Trusted>,
    /// Tell the application who the client is by a PROXY header; v2 carries the SPIFFE ID
    #[arg(long, value_enum, value_name = "VERSION")]
    send_proxy_protocol: Option<SendProxy>,
    /// Permissions of the unix sockets that are made, in octal; those of the umask unless given
    #[arg(long, value_name = "MODE", value_parser = mode)]
    socket_mode: Option<u32>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SendProxy {
    /// Text: addresses.
    V1,
    /// Binary: addresses and SPIFFE ID.
    V2,
}

impl LimitArgs {
    /// The limits, with as many connections as this process has descriptors for.
    fn limits(&self) -> Limits {
        let fitting = descriptors::connections();
        let asked = self.max_connections.map(as_usize);
        if let Some(asked) = asked.filter(|asked| *asked > fitting) {
            tracing::warn!(
                asked,
                fitting,
                "-max-connections is more than there are file descriptors for: raise the limit of open files (`ulimit -n`, LimitNOFILE=)"
            );
        }
        let usual = Limits::default();
        Limits {
            handshake: self.handshake_timeout,
            connections: as_usize(self.max_connections_per_listener),
            all_connections: asked.unwrap_or(fitting.min(usual.all_connections)),
            handshakes: as_usize(self.max_handshakes),
            idle: not_zero(self.idle_timeout),
            age: not_zero(self.max_connection_age),
            age_grace: self.max_connection_age_grace,
            ..usual
        }
    }

    /// What holds where a registration says nothing.
    pub(crate) fn usual(&self, http: &HttpArgs) -> Usual {
        let trusted = self.accept_proxy_protocol_from.iter().cloned();
        Usual {
            limits: Limits {
                http: http.settings(),
                ..self.limits()
            },
            accept_proxy: trusted.reduce(Trusted::and),
            send_proxy: self.send_proxy_protocol.map(|version| match version {
                SendProxy::V1 => ProxyHeader::V1,
                SendProxy::V2 => ProxyHeader::V2,
            }),
            socket_mode: self.socket_mode,
            protocol: http.protocol.map(Into::into),
        }
    }
}

fn as_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn not_zero(duration: Duration) -> Option<Duration> {
    Some(duration).filter(|duration| !duration.is_zero())
}

fn positive(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        Duration::ZERO => Err("it must be more than nothing".to_owned()),
        duration => Ok(duration),
    }
}

/// `0660` or `660`.
pub(crate) fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777 && text.bytes().all(|byte| byte.is_ascii_digit()))
        .ok_or_else(|| "it is no octal mode; write it like `0660`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode("0660"), Ok(0o660));
        assert_eq!(mode("600"), Ok(0o600));
        for text in ["", "888", "rw", "1777", "+600", "-1"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_handshake_takes_time() {
        assert!(positive("0").is_err() && positive("0s").is_err());
        assert_eq!(positive("1s"), Ok(Duration::from_secs(1)));
    }
}
