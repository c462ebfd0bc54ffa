//! What servers for Envoy count.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::connections::Labels;
use super::reason::Reasons;
use super::state::{Done, counter, gauge};
use crate::envoy::ServerObserver;
use crate::envoy::observer::Counted;

/// What Envoy's external authorization was told.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    reasons: Reasons,
    allow: Family<Labels, Counter>,
    deny: Family<Labels, Counter>,
    allowed: AtomicU64,
    denied: AtomicU64,
}

impl Checks {
    /// A connection, or else a request, was let through.
    pub(crate) fn allow(&self, is_http: bool) {
        self.allowed.fetch_add(1, Ordering::Relaxed);
        self.allow.get_or_create(&vec![layer(is_http)]).inc();
    }

    /// It was refused.
    pub(crate) fn deny(&self, is_http: bool, reason: &str) {
        self.denied.fetch_add(1, Ordering::Relaxed);
        let labels = vec![layer(is_http), ("reason", self.reasons.label(reason))];
        self.deny.get_or_create(&labels).inc();
    }

    /// How many were let through, and how many refused.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.allowed), read(&self.denied))
    }
}

fn layer(is_http: bool) -> (&'static str, String) {
    let layer = if is_http { "request" } else { "connection" };
    ("layer", layer.to_owned())
}

pub(super) fn register(registry: &mut Registry, server: &ServerObserver) {
    if let Counted::ExtAuthz(counted) = server.counted() {
        registry.register(
            "ext_authz_allow",
            "Connections and requests that Envoy was told to let through",
            counted.0.allow.clone(),
        );
        registry.register(
            "ext_authz_deny",
            "Connections and requests that Envoy was told to refuse",
            counted.0.deny.clone(),
        );
    }
}

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, server: &ServerObserver) -> Done {
    let Counted::Sds(counted) = server.counted() else {
        return Ok(());
    };
    let counts = counted.counts();
    let streams = i64::try_from(counts.streams).unwrap_or(i64::MAX);
    gauge(
        encoder,
        "sds_streams",
        "Streams of Envoys that are open",
        streams,
    )?;
    for (name, help, count) in [
        (
            "sds_secrets_sent",
            "Answers with secrets to Envoy",
            counts.sent,
        ),
        (
            "sds_secrets_accepted",
            "Answers that Envoy took over",
            counts.accepted,
        ),
        (
            "sds_secrets_refused",
            "Answers that Envoy refused",
            counts.refused,
        ),
    ] {
        counter(encoder, name, help, count)?;
    }
    Ok(())
}
