//! Configuration entries: decoding, validation, and the table that holds them.

mod decode;
mod fields;
pub(crate) mod intentions;
pub(crate) mod precedence;
mod validate;
mod validate_intentions;
mod validate_providers;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

pub(crate) use decode::{decode, decode_intention};

/// The kinds that this agent keeps.
pub(crate) const KINDS: [&str; 5] = [
    "jwt-provider",
    "mesh",
    "proxy-defaults",
    "service-defaults",
    "service-intentions",
];
/// Kinds that Consul knows besides.
pub(crate) const OTHER_KINDS: [&str; 14] = [
    "api-gateway",
    "bound-api-gateway",
    "control-plane-request-limit",
    "exported-services",
    "file-system-certificate",
    "http-route",
    "ingress-gateway",
    "inline-certificate",
    "sameness-group",
    "service-resolver",
    "service-router",
    "service-splitter",
    "tcp-route",
    "terminating-gateway",
];

/// A stored entry: its fields without hash and indexes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) fields: Map<String, Value>,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

impl Entry {
    /// As the API shows it.
    pub(crate) fn json(&self) -> Value {
        let mut fields = self.fields.clone();
        fields.insert("Hash".to_owned(), self.hash().into());
        fields.insert("CreateIndex".to_owned(), self.create_index.into());
        fields.insert("ModifyIndex".to_owned(), self.modify_index.into());
        Value::Object(fields)
    }

    fn hash(&self) -> u64 {
        let text = Value::Object(self.fields.clone()).to_string();
        let digest = Sha256::digest(text.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(first)
    }
}

/// All entries, and the index of the last change to any.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Entries {
    /// By kind and lower-case name, as Consul looks them up.
    /// Shared, for every write copies the state.
    table: BTreeMap<(String, String), Arc<Entry>>,
    pub(crate) index: u64,
}

impl Entries {
    pub(crate) fn get(&self, kind: &str, name: &str) -> Option<&Entry> {
        self.table.get(&key(kind, name)).map(Arc::as_ref)
    }

    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.all().filter(move |entry| entry.kind == kind)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Entry> {
        self.table.values().map(Arc::as_ref)
    }

    /// Checks and stores an entry. `Ok(false)`: an identical one is there.
    ///
    /// # Errors
    /// Consul's words for what is invalid.
    pub(crate) fn put(
        &mut self,
        kind: &str,
        mut fields: Map<String, Value>,
        index: u64,
    ) -> Result<bool, String> {
        let name = validate::complete(kind, &mut fields)?;
        let known = self.get(kind, &name);
        if known.is_some_and(|known| known.fields == fields) {
            return Ok(false);
        }
        let create_index = known.map_or(index, |known| known.create_index);
        let entry = Entry {
            kind: kind.to_owned(),
            name: name.clone(),
            fields,
            create_index,
            modify_index: index,
        };
        self.change(|table| {
            table.insert(key(kind, &name), Arc::new(entry));
        })?;
        self.index = index;
        Ok(true)
    }

    /// Removes an entry, if the others allow it. `Ok(false)`: there was none.
    ///
    /// # Errors
    /// Consul's words for why the others need it.
    pub(crate) fn delete(&mut self, kind: &str, name: &str, index: u64) -> Result<bool, String> {
        if self.get(kind, name).is_none() {
            return Ok(false);
        }
        if kind == "jwt-provider" {
            validate::provider_is_unused(self, name)?;
        }
        self.change(|table| {
            table.remove(&key(kind, name));
        })?;
        self.index = index;
        Ok(true)
    }

    /// Applies a change if the table as a whole stays valid.
    fn change(
        &mut self,
        change: impl FnOnce(&mut BTreeMap<(String, String), Arc<Entry>>),
    ) -> Result<(), String> {
        let mut next = self.clone();
        change(&mut next.table);
        validate::whole(&next)?;
        *self = next;
        Ok(())
    }

    /// The protocol of a service: its own, else the one of proxy-defaults, else tcp.
    pub(crate) fn protocol(&self, service: &str) -> String {
        let own = self.get("service-defaults", service).and_then(|entry| {
            entry
                .fields
                .get("Protocol")
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        });
        let global = self.get("proxy-defaults", "global").and_then(|entry| {
            entry
                .fields
                .get("Config")?
                .get("protocol")?
                .as_str()
                .filter(|text| !text.is_empty())
        });
        own.or(global).unwrap_or("tcp").to_ascii_lowercase()
    }

    /// Puts a stored entry back without checking it again.
    pub(crate) fn restore(&mut self, entry: Entry) {
        self.table
            .insert(key(&entry.kind, &entry.name), Arc::new(entry));
    }
}

/// Checks an entry by itself.
///
/// # Errors
/// Consul's words for what is invalid.
pub(crate) fn check(kind: &str, fields: &Map<String, Value>) -> Result<(), String> {
    validate::complete(kind, &mut fields.clone()).map(|_| ())
}

fn key(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_lowercase())
}
