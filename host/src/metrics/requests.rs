//! What is counted of HTTP requests.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::connections::{DIRECTIONS, Labels, way};

/// Counters of requests. Labels are a direction, the class of a status, a reason.
#[derive(Debug)]
pub(super) struct Requests {
    total: Family<Labels, Counter>,
    active: Family<Labels, Gauge>,
    terminated: Family<Labels, Counter>,
    allow: Counter,
    deny: Family<Labels, Counter>,
    terminate: Family<Labels, Counter>,
}

impl Default for Requests {
    fn default() -> Self {
        let requests = Self {
            total: Family::default(),
            active: Family::default(),
            terminated: Family::default(),
            allow: Counter::default(),
            deny: Family::default(),
            terminate: Family::default(),
        };
        for direction in DIRECTIONS {
            let _ = requests.active.get_or_create(&way(direction));
        }
        requests
    }
}

impl Requests {
    pub(super) fn began(&self, direction: &'static str) {
        self.active.get_or_create(&way(direction)).inc();
    }

    pub(super) fn ended(&self, direction: &'static str, status: Option<u16>) {
        self.active.get_or_create(&way(direction)).dec();
        let class = match status {
            Some(100..=199) => "1xx",
            Some(200..=299) => "2xx",
            Some(300..=399) => "3xx",
            Some(400..=499) => "4xx",
            Some(_) => "5xx",
            None => "none",
        };
        let mut labels = way(direction);
        labels.push(("status", class.to_owned()));
        self.total.get_or_create(&labels).inc();
    }

    pub(super) fn allowed(&self) {
        self.allow.inc();
    }

    pub(super) fn denied(&self, reason: String) {
        self.deny.get_or_create(&vec![("reason", reason)]).inc();
    }

    pub(super) fn terminated(&self, direction: &'static str, reason: String) {
        if direction == "inbound" {
            let labels = vec![("reason", reason.clone())];
            self.terminate.get_or_create(&labels).inc();
        }
        let mut labels = way(direction);
        labels.push(("reason", reason));
        self.terminated.get_or_create(&labels).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "HTTP requests that have ended, by the class of their status",
            self.total.clone(),
        );
        registry.register(
            "http_requests_active",
            "HTTP requests right now",
            self.active.clone(),
        );
        registry.register(
            "http_requests_terminated",
            "HTTP requests under way that were cut off",
            self.terminated.clone(),
        );
        registry.register(
            "inbound_http_authz_allow",
            "HTTP requests that the policy let through",
            self.allow.clone(),
        );
        registry.register(
            "inbound_http_authz_deny",
            "HTTP requests that were refused by the policy, or could not be read",
            self.deny.clone(),
        );
        registry.register(
            "inbound_http_authz_terminate",
            "HTTP requests under way that a change of policy cut off",
            self.terminate.clone(),
        );
    }
}
