//! The proxy-wasm ABI 0.2.1, as far as the filter needs it.
//!
//! `host` calls Envoy and never fails otherwise than by a [`Status`]; `exports` is what Envoy
//! calls. The SDK (crate `proxy-wasm`) is not used, for four reasons: its host calls and its
//! dispatcher panic on statuses that Envoy does give, and a panic is the VM's end; it exports
//! every callback there is, and each one that is exported costs a call per request; what a
//! context is must be known when it is made, which a module for both chains cannot know; and
//! its local replies carry no response code details.

mod exports;
pub(crate) mod host;

/// Why a host call came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// There is no such thing.
    NotFound,
    /// An argument is not acceptable.
    BadArgument,
    /// Somebody else has written in between.
    CasMismatch,
    /// Another status.
    Other(u32),
}

impl Status {
    /// `Ok` for 0.
    const fn check(code: u32) -> Result<(), Self> {
        match code {
            0 => Ok(()),
            1 => Err(Self::NotFound),
            2 => Err(Self::BadArgument),
            8 => Err(Self::CasMismatch),
            other => Err(Self::Other(other)),
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound => f.write_str("not found"),
            Self::BadArgument => f.write_str("bad argument"),
            Self::CasMismatch => f.write_str("written by another"),
            Self::Other(code) => write!(f, "status {code}"),
        }
    }
}

/// What becomes of bytes or of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// They go on.
    Continue,
    /// They stay until they are let go.
    Pause,
}

impl Action {
    const fn code(self) -> u32 {
        match self {
            Self::Continue => 0,
            Self::Pause => 1,
        }
    }
}

/// A stream that can be let go or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// A request on its way to the application.
    Request,
    /// The client's side of a connection.
    Downstream,
}

impl Stream {
    const fn code(self) -> u32 {
        match self {
            Self::Request => 0,
            Self::Downstream => 2,
        }
    }
}

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// For those who look closely.
    Debug,
    /// Worth knowing.
    Info,
    /// Something does not work as it should.
    Warn,
    /// Something does not work.
    Error,
}

impl Level {
    const fn code(self) -> u32 {
        match self {
            Self::Debug => 1,
            Self::Info => 2,
            Self::Warn => 3,
            Self::Error => 4,
        }
    }
}

/// A metric's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricKind {
    /// Rises.
    Counter,
    /// Rises and falls.
    Gauge,
}

impl MetricKind {
    const fn code(self) -> u32 {
        match self {
            Self::Counter => 0,
            Self::Gauge => 1,
        }
    }
}
