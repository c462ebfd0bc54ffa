//! HTTP through real proxies: every request judged, passed on as it is, and ended when the
//! policy changes.

mod application;
mod bodies;
mod client;
mod conformance;
mod decisions;
mod expiry;
mod frames;
mod gateway;
mod informational;
mod jwt;
mod jwt_check;
mod limits;
mod live;
mod outbound;
mod protocol;
mod reasons;
mod requests;
mod scene;
mod shadow;
mod smuggling;
mod tokens;
mod upgrade;
mod written;
