//! Metrics in the OpenMetrics text format, for Prometheus.
//!
//! Names follow those that meshes use already; every one begins with `portcullis_`,
//! but for `process_*`. Labels have few values: a direction, a reason of a closed list,
//! a kind of watch. Peers, addresses and what a component says never become labels.

mod connections;
mod decisions;
mod process;
mod reason;
mod requests;
#[cfg(feature = "envoy")]
mod servers;
mod state;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

pub(crate) use connections::{Connections, Metered};
#[cfg(feature = "envoy")]
pub(crate) use servers::Checks;

use crate::admin::Subject;
use state::State;

/// The media type of [`encoded`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that there is to know about this process and what runs in it, at this moment.
/// Without a proxy or server, which may not have started yet, that is little.
#[must_use]
pub fn encoded(subject: Option<Subject>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(process::Process));
    let ours = registry.sub_registry_with_prefix("portcullis");
    match &subject {
        Some(Subject::Proxy(proxy)) => proxy.meters().register(ours),
        #[cfg(feature = "envoy")]
        Some(Subject::Server(server)) => servers::register(ours, server),
        None => {}
    }
    ours.register_collector(Box::new(State(subject)));
    let mut text = String::new();
    // Writing into a string cannot fail.
    let written = encode(&mut text, &registry);
    debug_assert!(written.is_ok());
    text
}
