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
    age: Option<u32>,
    generation: Option<u32>,
    lacking: Option<u32>,
}

impl Ledger {
    pub(crate) fn new(service: &str) -> Self {
        Self {
            service: service.to_owned(),
            counts: BTreeMap::from([((Count::Allowed, ""), (None, 0))]),
            age: None,
            generation: None,
            lacking: None,
        }
    }

    /// Counts one.
    pub(crate) fn add(&mut self, count: Count, reason: &'static str) {
        let reason = if count == Count::Allowed { "" } else { reason };
        let (_, waiting) = self.counts.entry((count, reason)).or_default();
        *waiting = waiting.saturating_add(1);
    }

    /// Tells Envoy.
    pub(crate) fn flush(&mut self, age_ms: Option<u64>, generation: u64, lacking: usize) {
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
        let name = |what: &str| format!("portcullis.{}.{what}", self.service);
        if self.generation.is_none() {
            self.generation = define(MetricType::Gauge, &name("generation"));
            self.age = define(MetricType::Gauge, &name("policy_age_seconds"));
            self.lacking = define(MetricType::Gauge, &name("peers_without_bundle"));
        }
        if let Some(id) = self.generation {
            let _ = host::record_metric(id, generation);
        }
        if let (Some(id), Ok(lacking)) = (self.lacking, u64::try_from(lacking)) {
            let _ = host::record_metric(id, lacking);
        }
        if let (Some(id), Some(age)) = (self.age, age_ms) {
            let _ = host::record_metric(id, age / 1_000);
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
