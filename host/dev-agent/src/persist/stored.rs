//! The state as it is stored.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::ca::roots::Root;
use crate::ca::{KeyType, pem};
use crate::catalog::{Catalog, Check, Service, Status};
use crate::entry::Entry;

/// Everything that outlives a run.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) version: u32,
    pub(super) datacenter: String,
    pub(super) node_id: String,
    pub(super) cluster_id: String,
    pub(super) index: u64,
    pub(super) next_serial: u64,
    pub(super) entries_index: u64,
    pub(super) entries: Vec<StoredEntry>,
    pub(super) roots: Vec<StoredRoot>,
    pub(super) roots_index: u64,
    pub(super) ca_config: Value,
    pub(super) ca_config_create_index: u64,
    pub(super) ca_config_modify_index: u64,
    pub(super) force_without_cross_signing: bool,
    pub(super) leaf_ttl_seconds: u64,
    pub(super) root_ttl_seconds: u64,
    pub(super) services: Vec<Service>,
    pub(super) checks: Vec<StoredCheck>,
}

/// A check by its definition: after a restart a TTL check is critical until
/// somebody reports.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredCheck {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) notes: String,
    pub(super) service_id: String,
    pub(super) service_name: String,
    pub(super) service_tags: Vec<String>,
    #[serde(default)]
    pub(super) alias: Option<String>,
    #[serde(default)]
    pub(super) interval_ms: Option<u64>,
    pub(super) ttl_ms: u64,
    pub(super) deregister_after_ms: Option<u64>,
    pub(super) by_itself: bool,
}

/// A configuration entry.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredEntry {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) fields: Map<String, Value>,
    pub(super) create_index: u64,
    pub(super) modify_index: u64,
}

/// A root; its key has a file of its own.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredRoot {
    pub(super) id: String,
    pub(super) serial: u64,
    pub(super) signing_key_id: String,
    pub(super) certificate: String,
    pub(super) intermediates: Vec<String>,
    pub(super) key_type: String,
    pub(super) key_bits: u64,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    pub(super) create_index: u64,
    pub(super) modify_index: u64,
    pub(super) rotated_out: Option<i64>,
}

pub(super) fn stored_entry(entry: &Entry) -> StoredEntry {
    StoredEntry {
        kind: entry.kind.clone(),
        name: entry.name.clone(),
        fields: entry.fields.clone(),
        create_index: entry.create_index,
        modify_index: entry.modify_index,
    }
}

pub(super) fn stored_check(check: &Check) -> StoredCheck {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    StoredCheck {
        id: check.id.clone(),
        name: check.name.clone(),
        notes: check.notes.clone(),
        service_id: check.service_id.clone(),
        service_name: check.service_name.clone(),
        service_tags: check.service_tags.clone(),
        alias: check.alias.clone(),
        interval_ms: check.interval.map(millis),
        ttl_ms: millis(check.ttl),
        deregister_after_ms: check.deregister_after.map(millis),
        by_itself: check.by_itself,
    }
}

/// Registers again what was stored.
pub(super) fn catalog(services: Vec<Service>, checks: Vec<StoredCheck>, index: u64) -> Catalog {
    let mut catalog = Catalog::default();
    for service in services {
        catalog.register(service, Vec::new(), false, index);
    }
    let now = Instant::now();
    for stored in checks {
        let ttl = Duration::from_millis(stored.ttl_ms);
        let check = Check {
            id: stored.id,
            name: stored.name,
            notes: stored.notes,
            status: Status::Critical,
            initial: None,
            output: String::new(),
            service_id: stored.service_id,
            service_name: stored.service_name,
            service_tags: stored.service_tags,
            interval: stored.interval_ms.map(Duration::from_millis),
            ttl,
            deadline: stored.alias.is_none().then(|| now + ttl),
            alias: stored.alias,
            deregister_after: stored.deregister_after_ms.map(Duration::from_millis),
            critical_since: Some(now),
            by_itself: stored.by_itself,
            create_index: index,
            modify_index: index,
        };
        catalog.add_check(check, index);
    }
    catalog.settle_aliases(now, index);
    catalog
}

pub(super) fn stored_root(root: &Root) -> StoredRoot {
    StoredRoot {
        id: root.id.clone(),
        serial: root.serial,
        signing_key_id: root.signing_key_id.clone(),
        certificate: pem::encode("CERTIFICATE", &root.der),
        intermediates: root.intermediates.clone(),
        key_type: root.key_type.kind().to_owned(),
        key_bits: root.key_type.bits(),
        not_before: root.not_before.unix_timestamp(),
        not_after: root.not_after.unix_timestamp(),
        create_index: root.create_index,
        modify_index: root.modify_index,
        rotated_out: root.rotated_out.map(OffsetDateTime::unix_timestamp),
    }
}

pub(super) fn root(stored: StoredRoot) -> Result<Root, String> {
    let date = |seconds: i64| {
        OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| error.to_string())
    };
    Ok(Root {
        der: pem::decode("CERTIFICATE", &stored.certificate).ok_or("a root is no certificate")?,
        key_type: KeyType::parse(&stored.key_type, stored.key_bits)?,
        not_before: date(stored.not_before)?,
        not_after: date(stored.not_after)?,
        rotated_out: stored.rotated_out.map(date).transpose()?,
        id: stored.id,
        serial: stored.serial,
        signing_key_id: stored.signing_key_id,
        intermediates: stored.intermediates,
        create_index: stored.create_index,
        modify_index: stored.modify_index,
    })
}
