//! Services of the agent: register, deregister, list, one with hash blocking.

use std::time::Duration;

use rand::Rng as _;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::catalog::{Registration, Service, registration};
use crate::core::{Core, Keep, MAX_WAIT};
use crate::http::options::Options;
use crate::http::reply::{CONTENT_HASH, FILTERED, Outcome, Reply};
use crate::http::{Request, json};

/// The ports that sidecars get that name none.
const SIDECAR_PORTS: std::ops::RangeInclusive<i64> = 21000..=21255;

impl Core {
    /// `PUT /v1/agent/service/register`.
    pub(super) fn register_service(&self, request: &Request, options: &Options) -> Outcome {
        let refuse = |error: String| Reply::bad_request(format!("Request decode failed: {error}"));
        let body = json::parse(&request.body).map_err(refuse)?;
        let read = registration(&body).map_err(Reply::bad_request)?;
        let token = self.acl.resolve(&options.token)?;
        let replace = request.param("replace-existing-checks").is_some();
        self.register(read, replace, |name| token.need_service_write(name))?;
        Ok(Reply::empty())
    }

    /// Registers a service, and its sidecar if it has one, for somebody who may write what
    /// `may_write` says.
    pub(crate) fn register(
        &self,
        registration: Registration,
        replace: bool,
        may_write: impl Fn(&str) -> Result<(), Reply>,
    ) -> Result<(), Reply> {
        let Registration {
            service,
            checks,
            sidecar,
        } = registration;
        let mut wanted = vec![&service];
        wanted.extend(sidecar.as_ref().map(|(sidecar, _)| sidecar));
        for service in wanted {
            may_write(&service.name)?;
            if let Some(destination) = destination(service) {
                may_write(destination)?;
            }
        }
        self.write(Keep::OnDisk, |state, index| {
            // Taking over somebody else's ID takes the right to that service too.
            if let Some(known) = state.catalog.services.get(&service.id) {
                may_write(&known.name)?;
            }
            state.catalog.register(service, checks, replace, index);
            if let Some((mut sidecar, checks)) = sidecar {
                if sidecar.port == 0 {
                    sidecar.port = sidecar_port(&state.catalog.services, &sidecar.id)?;
                }
                state.catalog.register(sidecar, checks, replace, index);
            }
            Ok(((), true))
        })
    }

    /// `PUT /v1/agent/service/deregister/:id`.
    pub(super) fn deregister_service(&self, options: &Options, id: &str) -> Outcome {
        let token = self.acl.resolve(&options.token)?;
        self.write(Keep::OnDisk, |state, index| {
            let known = state.catalog.services.get(id).ok_or_else(|| {
                Reply::not_found(format!(
                    "Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name."
                ))
            })?;
            token.need_service_write(&known.name)?;
            Ok((Reply::empty(), state.catalog.deregister(id, index)))
        })
    }

    /// `GET /v1/agent/services`.
    pub(super) fn agent_services(&self, options: &Options) -> Outcome {
        let token = self.acl.resolve(&options.token)?;
        let datacenter = &self.config.datacenter;
        let (shown, filtered) = self.read(|state| {
            let mut shown = Map::new();
            for (id, service) in &state.catalog.services {
                if token.service_read(&service.name) {
                    shown.insert(id.clone(), Value::Object(service.agent_json(datacenter)));
                }
            }
            let filtered = shown.len() != state.catalog.services.len();
            (shown, filtered)
        });
        let reply = Reply::json(Value::Object(shown));
        Ok(if filtered && !token.is_anonymous() {
            reply.with(FILTERED, "true")
        } else {
            reply
        })
    }

    /// `GET /v1/agent/service/:id[?hash=&wait=]`.
    pub(super) async fn agent_service(
        &self,
        request: &Request,
        options: &Options,
        id: &str,
    ) -> Outcome {
        let hash = request.param("hash").unwrap_or_default();
        let wait = options
            .wait
            .unwrap_or(Duration::from_secs(300))
            .min(MAX_WAIT);
        let jitter = rand::rng().random_range(Duration::ZERO..=wait / 16);
        let timeout = tokio::time::sleep_until(Instant::now() + wait + jitter);
        tokio::pin!(timeout);
        let mut changed = self.watch();
        loop {
            let token = self.acl.resolve(&options.token)?;
            let found = self.read(|state| {
                let service = state.catalog.services.get(id)?;
                let (shown, hash) = service.agent_json_with_hash(&self.config.datacenter);
                Some((service.name.clone(), shown, hash))
            });
            let unknown = || Reply::not_found(format!("unknown service ID: {id}"));
            let (name, shown, current) = found.ok_or_else(unknown)?;
            token.need_service_read(&name)?;
            let reply = || Reply::json(shown.clone()).with(CONTENT_HASH, &current);
            if hash != current {
                return Ok(reply());
            }
            tokio::select! {
                () = &mut timeout => return Ok(reply()),
                woken = changed.changed() => if woken.is_err() { return Ok(reply()) },
            }
        }
    }

    /// `GET /v1/agent/checks`.
    pub(super) fn agent_checks(&self, options: &Options) -> Outcome {
        let token = self.acl.resolve(&options.token)?;
        let (shown, filtered) = self.read(|state| {
            let mut shown = Map::new();
            for (id, check) in &state.catalog.checks {
                let allowed = match check.service_name.as_str() {
                    "" => token.node_read(&self.node.name),
                    name => token.service_read(name),
                };
                if allowed {
                    shown.insert(id.clone(), check.json(&self.node.name, false));
                }
            }
            let filtered = shown.len() != state.catalog.checks.len();
            (shown, filtered)
        });
        let reply = Reply::json(json!(shown));
        Ok(if filtered && !token.is_anonymous() {
            reply.with(FILTERED, "true")
        } else {
            reply
        })
    }
}

fn destination(service: &Service) -> Option<&str> {
    service
        .proxy
        .as_ref()?
        .get("DestinationServiceName")?
        .as_str()
}

/// The lowest free port for a sidecar; one that is registered keeps its own.
fn sidecar_port(
    services: &std::collections::BTreeMap<String, Service>,
    id: &str,
) -> Result<i64, Reply> {
    if let Some(known) = services.get(id) {
        return Ok(known.port);
    }
    let taken = |port: i64| services.values().any(|service| service.port == port);
    SIDECAR_PORTS
        .into_iter()
        .find(|port| !taken(*port))
        .ok_or_else(|| {
            Reply::server_error("none left: sidecar ports 21000 to 21255 are all in use")
        })
}
