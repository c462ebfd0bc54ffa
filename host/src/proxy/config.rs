//! Settings of a proxy, and why it cannot start with them.

use std::io;
use std::time::Duration;

use super::http::HttpSettings;
use super::inbound::Application;
use super::listen::ListenAddress;
use super::proxy_protocol::{Trusted, Version};
use portcullis_core::intention::Protocol;

use crate::connector::Upstream;
use crate::registration::RegistrationConfig;

/// Limits of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For a client's whole handshake, a PROXY header before it included.
    pub handshake: Duration,
    /// For the connection to the application.
    pub connect: Duration,
    /// Connections at once on each listener, those in a handshake included. More are
    /// refused at once.
    pub connections: usize,
    /// The same for all listeners together.
    pub all_connections: usize,
    /// Handshakes of clients at once. When there are as many, the oldest that has lasted
    /// for a second or more gives way to the next; until then that one waits.
    pub handshakes: usize,
    /// How long a connection may be without a byte in either direction; any time if absent.
    pub idle: Option<Duration>,
    /// From this age on, give or take a tenth, a connection ends as soon as it is quiet.
    pub age: Option<Duration>,
    /// How long after that it ends even if it is not.
    pub age_grace: Duration,
    /// Of HTTP, and how it is treated.
    pub http: HttpSettings,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            connect: Duration::from_secs(5),
            connections: 16_384,
            all_connections: 65_536,
            handshakes: 4_096,
            idle: None,
            age: None,
            age_grace: Duration::from_secs(30),
            http: HttpSettings::default(),
        }
    }
}

/// What comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundConfig {
    /// Where the mesh reaches us.
    pub listen: ListenAddress,
    /// Where the application listens.
    pub application: Application,
    /// Permissions of the socket file, for a unix socket; those of the umask if absent.
    pub socket_mode: Option<u32>,
    /// Who must begin with a PROXY header that names the client; nobody's is read if absent.
    pub accept_proxy: Option<Trusted>,
    /// The PROXY header that the application gets before all else, if any.
    pub send_proxy: Option<Version>,
}

impl InboundConfig {
    /// `application` behind `listen`, without PROXY headers.
    #[must_use]
    pub fn new(listen: impl Into<ListenAddress>, application: Application) -> Self {
        Self {
            listen: listen.into(),
            application,
            socket_mode: None,
            accept_proxy: None,
            send_proxy: None,
        }
    }
}

/// What goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// The wanted service.
    pub upstream: Upstream,
    /// Where local programs reach it; anything but loopback opens it to the network.
    pub listen: ListenAddress,
    /// Permissions of the socket file, for a unix socket; those of the umask if absent.
    pub socket_mode: Option<u32>,
    /// For a connection to an instance, with all tries; 10 seconds if absent.
    pub connect: Option<Duration>,
    /// Connections at once; as for all listeners if absent.
    pub connections: Option<usize>,
    /// What it speaks; the agent is asked if absent.
    pub protocol: Option<Protocol>,
}

impl UpstreamConfig {
    /// `upstream` at `listen`, with the usual limits.
    #[must_use]
    pub fn new(upstream: Upstream, listen: ListenAddress) -> Self {
        Self {
            upstream,
            listen,
            socket_mode: None,
            connect: None,
            connections: None,
            protocol: None,
        }
    }
}

/// What of a proxy's settings may change while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// What comes in, if anything.
    pub inbound: Option<InboundConfig>,
    /// What goes out.
    pub upstreams: Vec<UpstreamConfig>,
    /// Limits.
    pub limits: Limits,
}

/// A proxy's settings, beside those of its [`Member`](crate::member::Member).
#[derive(Clone, Debug, Default)]
pub struct ProxyConfig {
    /// What comes in, if anything.
    pub inbound: Option<InboundConfig>,
    /// What goes out.
    pub upstreams: Vec<UpstreamConfig>,
    /// Announce the service; a port of 0 stands for the inbound listener's.
    pub register: Option<RegistrationConfig>,
    /// Limits.
    pub limits: Limits,
}

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A listener cannot be bound.
    #[error("cannot listen on `{address}` for {what}: {}", why(.source))]
    Bind {
        /// Where.
        address: String,
        /// For what.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// Nothing to do.
    #[error("neither a service to guard nor an upstream is given")]
    Nothing,
    /// The registration cannot be made.
    #[error("cannot be registered: {0}")]
    Registration(String),
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the address is in use by another program".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied (ports below 1024 need privileges)".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}
