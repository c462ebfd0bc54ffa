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
mod state;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

pub(crate) use connections::{Connections, Metered};

use crate::proxy::Observer;
use state::State;

/// The media type of [`encoded`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that there is to know about this process and its proxy, at this moment.
/// Without a proxy, which may not have started yet, that is little.
#[must_use]
pub fn encoded(proxy: Option<&Observer>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(process::Process));
    let ours = registry.sub_registry_with_prefix("portcullis");
    if let Some(proxy) = proxy {
        proxy.meters().register(ours);
    }
    ours.register_collector(Box::new(State(proxy.cloned())));
    let mut text = String::new();
    // Writing into a string cannot fail.
    let written = encode(&mut text, &registry);
    debug_assert!(written.is_ok());
    text
}
