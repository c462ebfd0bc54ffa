//! What is counted of connections.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::reason::Reasons;
use super::requests::Requests;
use crate::proxy::Counts;

/// Label names and values.
pub(super) type Labels = Vec<(&'static str, String)>;

/// How long decisions may take, in seconds.
const DECISIONS: [f64; 10] = [
    5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 2.5e-2, 1e-1,
];

/// Both directions as label values.
pub(crate) const DIRECTIONS: [&str; 2] = ["inbound", "outbound"];

/// What is counted of a proxy's connections. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connections(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    reasons: Reasons,
    opened: Family<Labels, Counter>,
    closed: Family<Labels, Counter>,
    failed: Family<Labels, Counter>,
    terminated: Family<Labels, Counter>,
    handshakes: Family<Labels, Counter>,
    allow: Counter,
    deny: Family<Labels, Counter>,
    terminate: Family<Labels, Counter>,
    decisions: Histogram,
    requests: Requests,
    next: AtomicU64,
    bytes: Mutex<Bytes>,
}

/// Bytes of connections that have ended, and where those of the others are counted.
#[derive(Debug, Default)]
struct Bytes {
    ended: HashMap<&'static str, Passed>,
    live: HashMap<u64, (&'static str, Arc<Counts>)>,
}

/// Bytes of some connections: received from the side that opened them, and sent to it.
#[derive(Clone, Copy, Debug, Default)]
struct Passed {
    received: u64,
    sent: u64,
    connections: u64,
}

impl Passed {
    fn add(&mut self, counts: &Counts) {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        self.received = self.received.wrapping_add(get(&counts.a_to_b));
        self.sent = self.sent.wrapping_add(get(&counts.b_to_a));
        self.connections += 1;
    }
}

/// Counts the bytes of a connection while it is there.
#[derive(Debug)]
pub(crate) struct Metered {
    all: Connections,
    key: u64,
}

impl Drop for Metered {
    fn drop(&mut self) {
        let mut bytes = self.all.bytes();
        if let Some((direction, counts)) = bytes.live.remove(&self.key) {
            bytes.ended.entry(direction).or_default().add(&counts);
        }
    }
}

impl Default for Connections {
    fn default() -> Self {
        let counted = Counted {
            reasons: Reasons::default(),
            opened: Family::default(),
            closed: Family::default(),
            failed: Family::default(),
            terminated: Family::default(),
            handshakes: Family::default(),
            allow: Counter::default(),
            deny: Family::default(),
            terminate: Family::default(),
            decisions: Histogram::new(DECISIONS),
            requests: Requests::default(),
            next: AtomicU64::new(0),
            bytes: Mutex::default(),
        };
        // Series that are there from the start have a rate from the first event on.
        for direction in DIRECTIONS {
            let _ = counted.opened.get_or_create(&way(direction));
        }
        Self(Arc::new(counted))
    }
}

impl Connections {
    /// A connection has been taken; its bytes are counted in `counts`.
    pub(crate) fn taken(&self, direction: &'static str, counts: &Arc<Counts>) -> Metered {
        let key = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.bytes()
            .live
            .insert(key, (direction, Arc::clone(counts)));
        Metered {
            all: self.clone(),
            key,
        }
    }

    /// Both sides of a connection are there.
    pub(crate) fn opened(&self, direction: &'static str) {
        self.0.opened.get_or_create(&way(direction)).inc();
    }

    /// A connection that was opened has ended.
    pub(crate) fn closed(&self, direction: &'static str, reason: &str) {
        self.count(&self.0.closed, direction, reason);
    }

    /// A connection was refused, or could not be made.
    pub(crate) fn failed(&self, direction: &'static str, reason: &str) {
        self.count(&self.0.failed, direction, reason);
    }

    /// A connection that was opened has been cut off.
    pub(crate) fn terminated(&self, direction: &'static str, reason: &str) {
        self.count(&self.0.terminated, direction, reason);
    }

    /// A handshake did not lead to a verified peer.
    pub(crate) fn handshake_failed(&self, direction: &'static str, reason: &str) {
        self.count(&self.0.handshakes, direction, reason);
    }

    /// A client was let through.
    pub(crate) fn allow(&self) {
        self.0.allow.inc();
    }

    /// A client was refused by the policy.
    pub(crate) fn deny(&self, reason: &str) {
        let labels = vec![("reason", self.0.reasons.label(reason))];
        self.0.deny.get_or_create(&labels).inc();
    }

    /// A client was cut off by the policy.
    pub(crate) fn terminate(&self, reason: &str) {
        let labels = vec![("reason", self.0.reasons.label(reason))];
        self.0.terminate.get_or_create(&labels).inc();
    }

    /// A request has begun.
    pub(crate) fn request_began(&self, direction: &'static str) {
        self.0.requests.began(direction);
    }

    /// A request has ended, with this status if it was answered.
    pub(crate) fn request_ended(&self, direction: &'static str, status: Option<u16>) {
        self.0.requests.ended(direction, status);
    }

    /// The policy let a request through.
    pub(crate) fn request_allowed(&self) {
        self.0.requests.allowed();
    }

    /// The policy refused a request, or it could not be read.
    pub(crate) fn request_denied(&self, reason: &str) {
        self.0.requests.denied(self.0.reasons.label(reason));
    }

    /// A request under way was cut off.
    pub(crate) fn request_terminated(&self, direction: &'static str, reason: &str) {
        let reason = self.0.reasons.label(reason);
        self.0.requests.terminated(direction, reason);
    }

    /// A decision took so long.
    pub(crate) fn decided(&self, took: Duration) {
        self.0.decisions.observe(took.as_secs_f64());
    }

    fn count(&self, family: &Family<Labels, Counter>, direction: &'static str, reason: &str) {
        let mut labels = way(direction);
        labels.push(("reason", self.0.reasons.label(reason)));
        family.get_or_create(&labels).inc();
    }

    fn bytes(&self) -> std::sync::MutexGuard<'_, Bytes> {
        self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let all = &self.0;
        registry.register(
            "tcp_connections_opened",
            "Connections of which both sides were there",
            all.opened.clone(),
        );
        registry.register(
            "tcp_connections_closed",
            "Connections that were opened and have ended",
            all.closed.clone(),
        );
        registry.register(
            "tcp_connections_failed",
            "Connections that were refused or could not be made",
            all.failed.clone(),
        );
        registry.register(
            "connections_terminated",
            "Open connections that were cut off",
            all.terminated.clone(),
        );
        registry.register(
            "handshake_failures",
            "Handshakes without a verified peer",
            all.handshakes.clone(),
        );
        registry.register(
            "inbound_tcp_authz_allow",
            "Clients that the policy let through",
            all.allow.clone(),
        );
        registry.register(
            "inbound_tcp_authz_deny",
            "Clients that the policy refused",
            all.deny.clone(),
        );
        registry.register(
            "inbound_tcp_authz_terminate",
            "Clients with an open connection that a change of policy cut off",
            all.terminate.clone(),
        );
        all.requests.register(registry);
        registry.register_with_unit(
            "decision_duration",
            "How long the policy took to decide about a connection or a request",
            Unit::Seconds,
            all.decisions.clone(),
        );
        registry.register_collector(Box::new(self.clone()));
    }
}

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (mut total, mut live) = (HashMap::new(), HashMap::new());
        {
            let bytes = self.bytes();
            total.extend(bytes.ended.iter().map(|(way, passed)| (*way, *passed)));
            for (way, counts) in bytes.live.values() {
                total
                    .entry(*way)
                    .or_insert_with(Passed::default)
                    .add(counts);
                *live.entry(*way).or_insert(0_u64) += 1;
            }
        }
        let of = |direction: &str| total.get(direction).copied().unwrap_or_default();
        let mut active = encoder.encode_descriptor(
            "tcp_connections_active",
            "Connections right now, those in a handshake included",
            None,
            MetricType::Gauge,
        )?;
        for direction in DIRECTIONS {
            let count = live.get(direction).copied().unwrap_or_default();
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            gauge.encode(active.encode_family(&way(direction))?)?;
        }
        type Number = fn(Passed) -> u64;
        let counters: [(&str, &str, Number); 3] = [
            (
                "tcp_connections_taken",
                "Connections that were accepted from the network or local programs",
                |passed| passed.connections,
            ),
            (
                "tcp_received_bytes",
                "Bytes from the sides that opened connections",
                |passed| passed.received,
            ),
            (
                "tcp_sent_bytes",
                "Bytes to the sides that opened connections",
                |passed| passed.sent,
            ),
        ];
        for (name, help, number) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for direction in DIRECTIONS {
                let counter = ConstCounter::new(number(of(direction)));
                counter.encode(family.encode_family(&way(direction))?)?;
            }
        }
        Ok(())
    }
}

pub(super) fn way(direction: &'static str) -> Labels {
    vec![("direction", direction.to_owned())]
}
