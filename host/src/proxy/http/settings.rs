//! How a listener treats HTTP.

use std::str::FromStr;
use std::time::Duration;

/// How a listener treats HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// What becomes of `x-forwarded-client-cert`.
    pub client_cert: ClientCertDetails,
    /// Whether CONNECT is passed on, where the policy allows it.
    pub connect: bool,
    /// Whether answers say by `x-portcullis-reason` why.
    pub debug_header: bool,
    /// Headers of one request.
    pub headers: usize,
    /// Bytes of the request line and the headers.
    pub header_bytes: usize,
    /// How long these may take to arrive in HTTP/1.1.
    pub header_time: Duration,
    /// Requests at once on an HTTP/2 connection.
    pub streams: u32,
    /// Requests on an HTTP/2 connection that their client may take back, in excess of those
    /// that end well.
    pub resets: u32,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            client_cert: ClientCertDetails::default(),
            connect: false,
            debug_header: false,
            headers: 100,
            header_bytes: 60 * 1024,
            header_time: Duration::from_secs(10),
            streams: 100,
            resets: 100,
        }
    }
}

/// What becomes of `x-forwarded-client-cert`, by Envoy's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertDetails {
    /// The client's is dropped.
    Sanitize,
    /// The client's is passed on, as it came by mTLS.
    ForwardOnly,
    /// Ours is added to the client's.
    AppendForward,
    /// Ours takes the place of the client's.
    #[default]
    SanitizeSet,
    /// The client's is passed on, however it came.
    AlwaysForwardOnly,
}

impl ClientCertDetails {
    /// All of them, in Envoy's order.
    pub const ALL: [Self; 5] = [
        Self::Sanitize,
        Self::ForwardOnly,
        Self::AppendForward,
        Self::SanitizeSet,
        Self::AlwaysForwardOnly,
    ];

    /// Envoy's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sanitize => "SANITIZE",
            Self::ForwardOnly => "FORWARD_ONLY",
            Self::AppendForward => "APPEND_FORWARD",
            Self::SanitizeSet => "SANITIZE_SET",
            Self::AlwaysForwardOnly => "ALWAYS_FORWARD_ONLY",
        }
    }
}

impl FromStr for ClientCertDetails {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|mode| mode.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                "it is none of Envoy's: SANITIZE, FORWARD_ONLY, APPEND_FORWARD, SANITIZE_SET, ALWAYS_FORWARD_ONLY".to_owned()
            })
    }
}
