//! Services and checks that are registered with the agent.

mod check;
mod definition;
mod proxy;
mod register;
mod show;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::Instant;

pub(crate) use check::{Check, Status};
pub(crate) use definition::check_definition;
pub(crate) use register::{Registration, registration};
pub(crate) use show::Node;

/// A registered service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Service {
    pub(crate) id: String,
    pub(crate) name: String,
    /// `connect-proxy`, another kind, or empty.
    pub(crate) kind: String,
    pub(crate) tags: Vec<String>,
    pub(crate) meta: Map<String, Value>,
    pub(crate) address: String,
    pub(crate) port: i64,
    pub(crate) socket_path: String,
    pub(crate) tagged_addresses: Map<String, Value>,
    pub(crate) weights: (i64, i64),
    pub(crate) enable_tag_override: bool,
    pub(crate) native: bool,
    /// The proxy's settings as they were sent, with Consul's defaults.
    pub(crate) proxy: Option<Map<String, Value>>,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

impl Service {
    /// The service that an instance stands for in the mesh.
    pub(crate) fn mesh_name(&self) -> Option<&str> {
        if self.native {
            return Some(&self.name);
        }
        if self.kind != "connect-proxy" {
            return None;
        }
        self.proxy.as_ref()?.get("DestinationServiceName")?.as_str()
    }
}

/// All services and checks, with the indexes of their changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) checks: BTreeMap<String, Check>,
    /// The last change to anything.
    pub(crate) index: u64,
    /// The last change to instances of a service, by lower-case name; removals
    /// stay here.
    changed: BTreeMap<String, u64>,
    virtual_ips: BTreeMap<String, u32>,
}

impl Catalog {
    /// Adds or replaces a service and its checks. With `replace_checks`, checks
    /// that are not in the registration go.
    pub(crate) fn register(
        &mut self,
        mut service: Service,
        checks: Vec<Check>,
        replace_checks: bool,
        index: u64,
    ) {
        let known = self.services.get(&service.id).cloned();
        service.create_index = known.as_ref().map_or(index, |known| known.create_index);
        service.modify_index = index;
        if let Some(name) = service.mesh_name().map(str::to_owned) {
            let next = u32::try_from(self.virtual_ips.len()).unwrap_or(0) + 1;
            self.virtual_ips.entry(name).or_insert(next);
        }
        if let Some(known) = known {
            self.touch(&known, index);
        }
        self.touch(&service, index);
        if replace_checks {
            let given: Vec<&str> = checks.iter().map(|check| check.id.as_str()).collect();
            self.checks
                .retain(|id, check| check.service_id != service.id || given.contains(&id.as_str()));
        }
        self.services.insert(service.id.clone(), service);
        for check in checks {
            self.add_check(check, index);
        }
    }

    /// Adds or replaces a check. One that is known keeps its status.
    pub(crate) fn add_check(&mut self, mut check: Check, index: u64) {
        if let Some(known) = self.checks.get(&check.id) {
            check.create_index = known.create_index;
            if check.service_id == known.service_id && check.initial.is_none() {
                check.status = known.status;
                check.output.clone_from(&known.output);
                check.critical_since = known.critical_since;
            }
        } else {
            check.create_index = index;
        }
        check.modify_index = index;
        self.touch_by_id(&check.service_id.clone(), index);
        self.checks.insert(check.id.clone(), check);
    }

    /// Removes a service with its checks, and its sidecar if it was registered with one.
    pub(crate) fn deregister(&mut self, id: &str, index: u64) -> bool {
        let Some(service) = self.services.remove(id) else {
            return false;
        };
        self.touch(&service, index);
        self.checks.retain(|_, check| check.service_id != id);
        self.deregister(&register::sidecar_id(id), index);
        true
    }

    pub(crate) fn remove_check(&mut self, id: &str, index: u64) -> bool {
        let Some(check) = self.checks.remove(id) else {
            return false;
        };
        self.touch_by_id(&check.service_id, index);
        true
    }

    /// Takes over what a TTL check reports.
    pub(crate) fn report(
        &mut self,
        id: &str,
        status: Status,
        output: &str,
        now: Instant,
        index: u64,
    ) -> bool {
        let Some(check) = self.checks.get_mut(id) else {
            return false;
        };
        let changed = check.report(status, output, now, index);
        let service = check.service_id.clone();
        if changed {
            self.touch_by_id(&service, index);
        }
        true
    }

    /// Lets TTL checks run out, and removes services that were critical for
    /// too long. Answers whether anything changed.
    pub(crate) fn expire(&mut self, now: Instant, index: u64) -> bool {
        let due: Vec<String> = self
            .checks
            .values()
            .filter(|check| check.deadline.is_some_and(|deadline| deadline <= now))
            .map(|check| check.id.clone())
            .collect();
        for id in &due {
            self.report(id, Status::Critical, "TTL expired", now, index);
            if let Some(check) = self.checks.get_mut(id) {
                check.deadline = None;
            }
        }
        let gone: Vec<String> = self
            .checks
            .values()
            .filter(|check| check.deregister_at().is_some_and(|at| at <= now))
            .map(|check| check.service_id.clone())
            .collect();
        for id in &gone {
            self.deregister(id, index);
        }
        !due.is_empty() || !gone.is_empty()
    }

    /// Brings every alias to the state of its service. Answers whether anything changed.
    pub(crate) fn settle_aliases(&mut self, now: Instant, index: u64) -> bool {
        let aliases: Vec<(String, String)> = self
            .checks
            .values()
            .filter_map(|check| Some((check.id.clone(), check.alias.clone()?)))
            .collect();
        let mut changed = false;
        // An alias of an alias settles in the next round.
        for _ in 0..aliases.len().min(8) {
            let mut settled = true;
            for (id, service) in &aliases {
                let (status, output) = self.state_of(id, service);
                let check = self.checks.get_mut(id);
                if check.is_some_and(|check| check.report(status, &output, now, index)) {
                    let owner = self.checks.get(id).map(|check| check.service_id.clone());
                    self.touch_by_id(&owner.unwrap_or_default(), index);
                    (settled, changed) = (false, true);
                }
            }
            if settled {
                break;
            }
        }
        changed
    }

    /// What an alias says of `service`.
    fn state_of(&self, alias: &str, service: &str) -> (Status, String) {
        if !self.services.contains_key(service) {
            let text = format!("Service {service} could not be found on node ");
            return (Status::Critical, text);
        }
        let mut checks = self
            .checks
            .values()
            .filter(|check| check.service_id == service && check.id != alias)
            .peekable();
        if checks.peek().is_none() {
            return (Status::Passing, "No checks found.".to_owned());
        }
        match checks.max_by_key(|check| check.status) {
            Some(worst) if worst.status != Status::Passing => {
                let (name, output) = (&worst.name, &worst.output);
                let text = format!("Aliased check {name:?} failing: {output}");
                (worst.status, text)
            }
            _ => (Status::Passing, "All checks passing.".to_owned()),
        }
    }

    /// When [`Catalog::expire`] has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.checks
            .values()
            .flat_map(|check| [check.deadline, check.deregister_at()])
            .flatten()
            .min()
    }

    /// Instances called `name`.
    pub(crate) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Service> {
        self.services
            .values()
            .filter(move |service| service.name.eq_ignore_ascii_case(name))
    }

    /// Instances that stand for `name` in the mesh: native ones and proxies.
    pub(crate) fn in_mesh<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Service> {
        self.services.values().filter(move |service| {
            service
                .mesh_name()
                .is_some_and(|mesh| mesh.eq_ignore_ascii_case(name))
        })
    }

    /// The index of the last change to instances of `name`.
    pub(crate) fn index_of(&self, name: &str) -> u64 {
        self.changed
            .get(&name.to_lowercase())
            .copied()
            .unwrap_or(self.index)
    }

    fn touch(&mut self, service: &Service, index: u64) {
        self.index = index;
        self.changed.insert(service.name.to_lowercase(), index);
        if let Some(mesh) = service.mesh_name() {
            self.changed
                .insert(format!("mesh:{}", mesh.to_lowercase()), index);
        }
    }

    fn touch_by_id(&mut self, id: &str, index: u64) {
        self.index = index;
        if let Some(service) = self.services.get(id).cloned() {
            self.touch(&service, index);
        }
    }
}
