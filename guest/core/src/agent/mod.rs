//! Requests and replies of the Consul agent's HTTP API: bytes in, bytes out, no I/O.
//!
//! A request is a value ([`HttpRequest`]) that a host sends after adding its token; no token
//! is ever part of it. A reply ([`HttpReply`]) is read strictly: a field that decides must be
//! there once, in its case and of its type, or a [`ReplyError`] names it. Bodies are limited
//! in size and depth. Nothing here follows redirects or decompresses.
//!
//! Written from Consul's documented API and from what Consul 1.22 does.

pub mod authorize;
pub mod config;
pub mod default_policy;
mod error;
pub mod health;
pub mod intentions;
mod json;
pub mod leaf;
pub mod matches;
pub mod peerings;
pub mod providers;
pub mod registration;
mod reply;
pub mod request;
pub mod roots;
pub mod self_info;
pub mod service;
pub mod services;

pub(crate) use error::excerpt_bytes;
pub use error::{ReplyError, RequestError};
pub use json::MAX_DEPTH;
pub use reply::{AllowDeny, HttpReply, ReplyHeaders, accepted};
pub use request::{After, Consistency, HttpRequest, Method, Query};

#[cfg(test)]
mod testing {
    //! Replies for tests.
    use super::{HttpReply, ReplyHeaders};

    pub(crate) fn ok(body: &str) -> HttpReply<'_> {
        HttpReply {
            status: 200,
            headers: ReplyHeaders::default(),
            body: body.as_bytes(),
        }
    }

    pub(crate) fn status(status: u16) -> HttpReply<'static> {
        HttpReply {
            status,
            headers: ReplyHeaders::default(),
            body: b"",
        }
    }
}
