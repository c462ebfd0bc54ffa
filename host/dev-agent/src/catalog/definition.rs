//! Check definitions as they are sent: TTL checks and aliases of services.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{Check, Service, Status};
use crate::duration;
use crate::http::json::Object;

const CHECK: [&str; 33] = [
    "Name",
    "Notes",
    "ServiceID",
    "Status",
    "TTL",
    "HTTP",
    "H2PING",
    "H2PingUseTLS",
    "Header",
    "Method",
    "Body",
    "DisableRedirects",
    "TCP",
    "TCPUseTLS",
    "UDP",
    "GRPC",
    "GRPCUseTLS",
    "OSService",
    "ScriptArgs",
    "Args",
    "Shell",
    "DockerContainerID",
    "AliasNode",
    "AliasService",
    "TLSServerName",
    "TLSSkipVerify",
    "Interval",
    "Timeout",
    "SuccessBeforePassing",
    "FailuresBeforeCritical",
    "FailuresBeforeWarning",
    "OutputMaxSize",
    "DeregisterCriticalServiceAfter",
];

/// What makes the agent itself connect or run something: refused, so that
/// nobody can aim it at another program.
const ACTIVE: [&str; 11] = [
    "HTTP",
    "H2PING",
    "TCP",
    "UDP",
    "GRPC",
    "OSService",
    "ScriptArgs",
    "Args",
    "Shell",
    "DockerContainerID",
    "AliasNode",
];

/// A check as it was sent.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    id: String,
    name: String,
    notes: String,
    pub(crate) service_id: String,
    status: String,
    ttl: Duration,
    alias: String,
    deregister_after: Option<Duration>,
    interval: Option<Duration>,
    active: Option<&'static str>,
    pub(super) empty: bool,
}

/// Reads a check that is registered with its service.
pub(super) fn definition(value: &Value) -> Result<Definition, String> {
    read(value, &["CheckID"])
}

/// Reads one check, whose first `own` field is its ID.
fn read(value: &Value, own: &[&str]) -> Result<Definition, String> {
    let known: Vec<&str> = own.iter().chain(&CHECK).copied().collect();
    let object = Object::new(value, ".Alias", "structs.CheckType", &known)?;
    let id = match own.first() {
        Some(name) => object.text(name)?,
        None => String::new(),
    };
    let time = |name: &str| -> Result<Option<Duration>, String> {
        let nanos = match object.get(name) {
            None => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => duration::parse(text)?,
            Some(value) => value.as_i64().unwrap_or(0),
        };
        Ok(u64::try_from(nanos)
            .ok()
            .filter(|nanos| *nanos > 0)
            .map(Duration::from_nanos))
    };
    let given = |name: &&&str| match object.get(name) {
        None => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
    };
    Ok(Definition {
        id,
        name: object.text("Name")?,
        notes: object.text("Notes")?,
        service_id: object.text("ServiceID")?,
        status: object.text("Status")?,
        ttl: time("TTL")?.unwrap_or_default(),
        deregister_after: time("DeregisterCriticalServiceAfter")?,
        alias: object.text("AliasService")?,
        interval: time("Interval")?,
        active: ACTIVE.iter().find(given).copied(),
        empty: value.as_object().is_some_and(Map::is_empty),
    })
}

impl Definition {
    /// The check that a sidecar gets beside one by TCP, which we leave out: it is as well as
    /// its service.
    pub(super) fn alias_of(service: &Service, sidecar: &Service) -> Self {
        Self {
            // The other one would be the first.
            id: format!("service:{}:2", sidecar.id),
            name: format!("Connect Sidecar Aliasing {}", service.id),
            notes: String::new(),
            service_id: String::new(),
            status: String::new(),
            ttl: Duration::ZERO,
            alias: service.id.clone(),
            deregister_after: None,
            interval: None,
            active: None,
            empty: false,
        }
    }

    fn validate(&self) -> Result<(), String> {
        if let Some(kind) = self.active {
            return Err(format!(
                "Invalid check: `{kind}` checks are refused by this development agent; use a TTL check"
            ));
        }
        if !self.alias.is_empty() {
            return if self.ttl.is_zero() {
                Ok(())
            } else {
                Err("Invalid check: TTL must be not be set for Alias checks".to_owned())
            };
        }
        if self.interval.is_some() && !self.ttl.is_zero() {
            return Err("Invalid check: Interval and TTL cannot both be specified".to_owned());
        }
        if self.ttl.is_zero() {
            return Err("Invalid check: TTL must be > 0 for TTL checks".to_owned());
        }
        if !self.status.is_empty() && Status::parse(&self.status).is_none() {
            return Err("Status for checks must 'passing', 'warning', 'critical'".to_owned());
        }
        Ok(())
    }

    /// The check of `service`, or of the node.
    fn into_check(self, service: Option<&Service>, id: String, name: String) -> Check {
        let initial = Status::parse(&self.status);
        let now = Instant::now();
        Check {
            id,
            name,
            notes: self.notes,
            status: initial.unwrap_or(Status::Critical),
            initial,
            output: String::new(),
            service_id: service
                .map(|service| service.id.clone())
                .unwrap_or_default(),
            service_name: service
                .map(|service| service.name.clone())
                .unwrap_or_default(),
            service_tags: service
                .map(|service| service.tags.clone())
                .unwrap_or_default(),
            interval: self.interval.filter(|_| !self.alias.is_empty()),
            deadline: self.alias.is_empty().then(|| now + self.ttl),
            alias: Some(self.alias).filter(|service| !service.is_empty()),
            ttl: self.ttl,
            // Consul looks at intervals below a minute as a minute.
            deregister_after: self
                .deregister_after
                .map(|after| after.max(Duration::from_secs(60))),
            critical_since: (initial.unwrap_or(Status::Critical) == Status::Critical)
                .then_some(now),
            by_itself: false,
            create_index: 0,
            modify_index: 0,
        }
    }
}

/// The checks of a service, with the IDs that they get.
pub(super) fn checks_of(
    service: &Service,
    definitions: &[Definition],
) -> Result<Vec<Check>, String> {
    let several = definitions.len() > 1;
    let mut checks = Vec::new();
    for (number, definition) in definitions.iter().enumerate() {
        definition.validate()?;
        let id = match definition.id.as_str() {
            "" if several => format!("service:{}:{}", service.id, number + 1),
            "" => format!("service:{}", service.id),
            given => given.to_owned(),
        };
        let name = match definition.name.as_str() {
            "" => format!("Service '{}' check", service.name),
            given => given.to_owned(),
        };
        checks.push(definition.clone().into_check(Some(service), id, name));
    }
    Ok(checks)
}

/// Reads `/v1/agent/check/register`; the answer's service still has to be looked up.
///
/// # Errors
/// The body of the 400 reply.
pub(crate) fn check_definition(body: &Value) -> Result<(Definition, CheckBuilder), String> {
    let read =
        read(body, &["ID", "Token"]).map_err(|error| format!("Request decode failed: {error}"))?;
    if read.name.is_empty() {
        return Err("Missing check name".to_owned());
    }
    read.validate()?;
    Ok((read, CheckBuilder))
}

/// Turns a definition into a check once its service is known.
pub(crate) struct CheckBuilder;

impl CheckBuilder {
    pub(crate) fn build(self, definition: Definition, service: Option<&Service>) -> Check {
        let id = match definition.id.as_str() {
            "" => definition.name.clone(),
            given => given.to_owned(),
        };
        let name = definition.name.clone();
        Check {
            by_itself: true,
            ..definition.into_check(service, id, name)
        }
    }
}
