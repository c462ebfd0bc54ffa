//! HTTP: every request judged, and passed on with nothing changed that need not be.
//!
//! Connections of services that speak TCP never come here: what a listener speaks is
//! known before a connection's first byte.

mod admission;
mod answer;
mod conversation;
mod cutter;
mod flow;
mod gate;
mod hop;
mod inbound;
mod judge;
pub mod layer;
mod live;
mod onward;
mod outbound;
mod reading;
mod record;
mod serve;
mod settings;
mod trace;
mod trailers;
mod tunnel;
mod xfcc;

pub(crate) use judge::Judge;
#[cfg(feature = "envoy")]
pub(crate) use judge::Question;
pub use settings::{ClientCertDetails, HttpSettings};
