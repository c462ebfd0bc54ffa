//! Checks: a service reports, or it turns critical (TTL); or one is as well as another
//! service (alias).

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::duration;

/// The state of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    Passing,
    Warning,
    Critical,
}

impl Status {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "passing" => Some(Self::Passing),
            "warning" => Some(Self::Warning),
            "critical" => Some(Self::Critical),
            _ => None,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A TTL check, or an alias.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Check {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) notes: String,
    pub(crate) status: Status,
    /// The status that the registration asked for.
    pub(crate) initial: Option<Status>,
    pub(crate) output: String,
    /// Empty for a check of the node.
    pub(crate) service_id: String,
    pub(crate) service_name: String,
    pub(crate) service_tags: Vec<String>,
    /// The service that it is an alias of; otherwise it is a TTL check.
    pub(crate) alias: Option<String>,
    /// How often Consul would look, for an alias; only shown.
    pub(crate) interval: Option<Duration>,
    pub(crate) ttl: Duration,
    /// When it turns critical unless somebody reports.
    pub(crate) deadline: Option<Instant>,
    pub(crate) deregister_after: Option<Duration>,
    pub(crate) critical_since: Option<Instant>,
    /// Registered by itself, not with its service.
    pub(crate) by_itself: bool,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

impl Check {
    /// Takes over a report. Answers whether status or output changed.
    pub(super) fn report(
        &mut self,
        status: Status,
        output: &str,
        now: Instant,
        index: u64,
    ) -> bool {
        self.deadline = (self.alias.is_none()).then(|| now + self.ttl);
        self.critical_since = match status {
            Status::Critical => self.critical_since.or(Some(now)),
            _ => None,
        };
        let changed = self.status != status || self.output != output;
        if changed {
            self.status = status;
            output.clone_into(&mut self.output);
            self.modify_index = index;
        }
        changed
    }

    pub(super) fn deregister_at(&self) -> Option<Instant> {
        if self.service_id.is_empty() {
            return None;
        }
        Some(self.critical_since? + self.deregister_after?)
    }

    /// As `agent/checks` shows it (without indexes) and as health does (with).
    pub(crate) fn json(&self, node: &str, with_indexes: bool) -> Value {
        json!({
            "Node": node,
            "CheckID": self.id,
            "Name": self.name,
            "Status": self.status.as_str(),
            "Notes": self.notes,
            "Output": self.output,
            "ServiceID": self.service_id,
            "ServiceName": self.service_name,
            "ServiceTags": self.service_tags,
            "Type": if self.alias.is_some() { "alias" } else { "ttl" },
            "Interval": match self.interval {
                Some(interval) => duration::format(interval),
                None if self.by_itself => "0s".to_owned(),
                None => String::new(),
            },
            "Timeout": if self.by_itself { "0s" } else { "" },
            "ExposedPort": 0,
            "Definition": {},
            "CreateIndex": if with_indexes { self.create_index } else { 0 },
            "ModifyIndex": if with_indexes { self.modify_index } else { 0 },
        })
    }
}
