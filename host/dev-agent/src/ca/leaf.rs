//! Leaf certificates: issuing, and when a new one is due.

use std::sync::Arc;
use std::time::Duration;

use rcgen::PublicKeyData as _;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::roots::CaState;
use super::{CaError, LeafTemplate, key, pem};
use crate::clock::rfc3339;

/// Consul dates leafs back by this much; short lives (tests) by a tenth.
const BACKDATE: Duration = Duration::from_secs(60);

/// A certificate with its key, as the agent keeps it for a service.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) service: String,
    pub(crate) uri: String,
    pub(crate) serial: u64,
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    pub(crate) index: u64,
    /// The root that signed it.
    pub(crate) root_id: String,
    /// When callers that were blocked during a rotation get its successor.
    pub(crate) replace_at: Option<tokio::time::Instant>,
    /// When it was issued, for the `Age` header.
    pub(crate) issued: OffsetDateTime,
}

impl Leaf {
    pub(crate) fn json(&self) -> Value {
        json!({
            "SerialNumber": serial_text(self.serial),
            "CertPEM": self.chain_pem,
            "PrivateKeyPEM": self.key_pem,
            "Service": self.service,
            "ServiceURI": self.uri,
            "ValidAfter": rfc3339(self.not_before),
            "ValidBefore": rfc3339(self.not_after),
            "CreateIndex": self.index,
            "ModifyIndex": self.index,
        })
    }

    /// The points of its life between which a blocked caller gets a successor.
    pub(crate) fn window(&self, share: (f64, f64)) -> (OffsetDateTime, OffsetDateTime) {
        let life = self.not_after - self.not_before;
        (
            self.not_before + life * share.0,
            self.not_before + life * share.1,
        )
    }
}

/// The serial number as the leaf endpoint prints it: hex bytes, at least one.
fn serial_text(serial: u64) -> String {
    let bytes = serial.to_be_bytes();
    let start = bytes
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(bytes.len());
    pem::colon_hex(&bytes[start..])
}

impl CaState {
    /// Makes a new key and certificate for `service` and keeps it.
    pub(crate) fn issue(
        &mut self,
        service: &str,
        datacenter: &str,
        now: OffsetDateTime,
        index: u64,
    ) -> Result<Arc<Leaf>, CaError> {
        let uri = service_uri(&self.trust_domain(), datacenter, service);
        let serial = self.serial();
        let (key, key_pem) = key::leaf_key()?;
        let not_before = now - BACKDATE.min(self.settings.leaf_ttl / 10);
        let not_after = not_before + self.settings.leaf_ttl;
        let public_key = key.subject_public_key_info();
        let der = self.authority.sign_leaf(&LeafTemplate {
            uri: &uri,
            public_key: &public_key,
            serial,
            not_before,
            not_after,
        })?;
        let mut chain_pem = pem::encode("CERTIFICATE", &der);
        let mut root_id = String::new();
        if let Some(active) = self.active() {
            active
                .intermediates
                .iter()
                .for_each(|certificate| chain_pem.push_str(certificate));
            root_id.clone_from(&active.id);
        }
        let leaf = Leaf {
            service: service.to_owned(),
            uri,
            serial,
            chain_pem,
            key_pem,
            not_before,
            not_after,
            index,
            root_id,
            replace_at: None,
            issued: now,
        };
        // Nobody has asked for these in all their life.
        self.leafs.retain(|_, kept| kept.not_after > now);
        let leaf = Arc::new(leaf);
        self.leafs.insert(service.to_owned(), Arc::clone(&leaf));
        Ok(leaf)
    }
}

/// The identity of a service, with its name escaped as Go's `url.URL` does.
pub(crate) fn service_uri(trust_domain: &str, datacenter: &str, service: &str) -> String {
    let mut escaped = String::with_capacity(service.len());
    for byte in service.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => escaped.push(char::from(byte)),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'='
            | b'@' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    format!("spiffe://{trust_domain}/ns/default/dc/{datacenter}/svc/{escaped}")
}
