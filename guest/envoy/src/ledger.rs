//! What is counted: added up here, and told to Envoy on the tick.

use std::collections::BTreeMap;

use proxy_wasm::types::{LogLevel, MetricType};

use crate::host;

/// What is counted under a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Count {
    /// Let pass.
    Allowed,
    /// Refused.
    Denied,
    /// Let pass by shadow mode, and refused otherwise.
    Shadow,
    /// Ended because the policy changed.
    Closed,
}

impl Count {
    fn name(self, service: &str, reason: &str) -> String {
        match self {
            Self::Allowed => format!("portcullis.{service}.allowed"),
            Self::Denied => format!("portcullis.{service}.denied.{reason}"),
            Self::Shadow => format!("portcullis.{service}.shadow.{reason}"),
            Self::Closed => format!("portcullis.{service}.closed.{reason}"),
        }
    }
}

/// The counts of one filter in one VM.
#[derive(Debug)]
pub(crate) struct Ledger {
    service: String,
    /// By kind and reason: Envoy's number of the metric, and what it has not been told.
    counts: BTreeMap<(Count, &'static str), (Option<u32>, i64)>,
    /// Envoy's numbers of the gauges, by name.
    gauges: BTreeMap<&'static str, Option<u32>>,
}

impl Ledger {
    pub(crate) fn new(service: &str) -> Self {
        Self {
            service: service.to_owned(),
            counts: BTreeMap::from([((Count::Allowed, ""), (None, 0))]),
            gauges: BTreeMap::new(),
        }
    }

    /// Counts one.
    pub(crate) fn add(&mut self, count: Count, reason: &'static str) {
        let reason = if count == Count::Allowed { "" } else { reason };
        let (_, waiting) = self.counts.entry((count, reason)).or_default();
        *waiting = waiting.saturating_add(1);
    }

    /// Tells Envoy what was counted.
    pub(crate) fn flush(&mut self) {
        for ((count, reason), (id, waiting)) in &mut self.counts {
            if id.is_none() {
                *id = define(MetricType::Counter, &count.name(&self.service, reason));
            }
            if let (Some(id), true) = (*id, *waiting != 0)
                && host::increment_metric(id, *waiting).is_ok()
            {
                *waiting = 0;
            }
        }
    }

    /// Tells Envoy the value of a gauge; without one there is only the gauge.
    pub(crate) fn tell(&mut self, gauge: &'static str, value: Option<u64>) {
        let id = self.gauges.entry(gauge).or_default();
        if id.is_none() {
            let name = format!("portcullis.{}.{gauge}", self.service);
            *id = define(MetricType::Gauge, &name);
        }
        if let (Some(id), Some(value)) = (*id, value) {
            let _ = host::record_metric(id, value);
        }
    }
}

fn define(kind: MetricType, name: &str) -> Option<u32> {
    let defined = host::define_metric(kind, name);
    if let Err(status) = &defined {
        host::log(
            LogLevel::Debug,
            &format!("portcullis: the metric `{name}`: {status}"),
        );
    }
    defined.ok()
}
