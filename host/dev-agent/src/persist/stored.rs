//! The state as it is stored.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::ca::roots::Root;
use crate::ca::{KeyType, pem};
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
