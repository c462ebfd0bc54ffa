//! The roots that the agent lists, the authority's configuration, and rotation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::Digest as _;
use time::OffsetDateTime;

use super::leaf::Leaf;
use super::{BuiltinCa, CaError, CertificateAuthority, KeyType, pem};
use crate::clock::rfc3339;
use crate::duration;

/// Life of a cross-signed certificate, as in Consul.
const CROSS_SIGNED_LIFE: time::Duration = time::Duration::days(7);
const HOUR: Duration = Duration::from_secs(3600);

/// A root as the agent lists it.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    pub(crate) id: String,
    pub(crate) serial: u64,
    pub(crate) signing_key_id: String,
    pub(crate) der: Vec<u8>,
    pub(crate) intermediates: Vec<String>,
    pub(crate) key_type: KeyType,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
    /// When another root took over; `None` for the active one.
    pub(crate) rotated_out: Option<OffsetDateTime>,
}

/// The settings of the built-in authority, read from a configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) leaf_ttl: Duration,
    pub(crate) root_ttl: Duration,
    pub(crate) key_type: KeyType,
}

/// Everything about certificates: authority, roots, leafs, counters.
#[derive(Clone)]
pub(crate) struct CaState {
    pub(crate) cluster_id: String,
    pub(crate) authority: Arc<dyn CertificateAuthority>,
    pub(crate) roots: Vec<Root>,
    pub(crate) roots_index: u64,
    pub(crate) next_serial: u64,
    pub(crate) config: Value,
    pub(crate) force_without_cross_signing: bool,
    pub(crate) config_create_index: u64,
    pub(crate) config_modify_index: u64,
    pub(crate) settings: Settings,
    /// Shared: every write copies the state.
    pub(crate) leafs: BTreeMap<String, Arc<Leaf>>,
}

impl CaState {
    /// A new cluster with its first root.
    pub(crate) fn bootstrap(
        cluster_id: String,
        settings: Settings,
        now: OffsetDateTime,
    ) -> Result<Self, CaError> {
        let trust_domain = format!("{cluster_id}.consul");
        let serial = 7;
        let not_after = now + settings.root_ttl;
        let authority =
            BuiltinCa::generate(settings.key_type, &trust_domain, serial, now, not_after)?;
        let root = list(&authority, serial, now, not_after, Vec::new(), 9);
        Ok(Self {
            cluster_id,
            authority: Arc::new(authority),
            roots: vec![root],
            roots_index: 9,
            next_serial: serial + 1,
            config: json!({
                "IntermediateCertTTL": "8760h",
                "LeafCertTTL": ttl_text(settings.leaf_ttl),
                "RootCertTTL": "87600h",
            }),
            force_without_cross_signing: false,
            config_create_index: 5,
            config_modify_index: 9,
            settings,
            leafs: BTreeMap::new(),
        })
    }

    pub(crate) fn trust_domain(&self) -> String {
        format!("{}.consul", self.cluster_id)
    }

    /// The next number of the one counter that roots and leafs share.
    pub(crate) fn serial(&mut self) -> u64 {
        let serial = self.next_serial;
        self.next_serial += 1;
        serial
    }

    /// The root whose authority signs.
    pub(crate) fn active(&self) -> Option<&Root> {
        self.roots.iter().find(|root| root.rotated_out.is_none())
    }

    /// Puts `authority` in the place of the current one. The old root stays
    /// listed; unless `force`, it signs the new root's key.
    pub(crate) fn rotate(
        &mut self,
        authority: BuiltinCa,
        serial: u64,
        validity: (OffsetDateTime, OffsetDateTime),
        force: bool,
        index: u64,
    ) -> Result<(), CaError> {
        let now = validity.0;
        let mut intermediates = Vec::new();
        if !force {
            let serial = self.serial();
            let before = now - time::Duration::seconds(60);
            let after = before + CROSS_SIGNED_LIFE;
            let cross = self
                .authority
                .cross_sign(authority.root(), serial, before, after)?;
            intermediates.extend(cross.map(|der| pem::encode("CERTIFICATE", &der)));
        }
        for root in &mut self.roots {
            root.rotated_out.get_or_insert(now);
            root.modify_index = index;
        }
        self.roots.push(list(
            &authority,
            serial,
            validity.0,
            validity.1,
            intermediates,
            index,
        ));
        // Consul lists them in the order of their ids.
        self.roots.sort_by(|a, b| a.id.cmp(&b.id));
        self.authority = Arc::new(authority);
        self.roots_index = index;
        Ok(())
    }

    /// Whether a root was replaced more than two leaf lives ago.
    pub(crate) fn has_old_roots(&self, now: OffsetDateTime) -> bool {
        self.roots.iter().any(|root| self.is_old(root, now))
    }

    fn is_old(&self, root: &Root, now: OffsetDateTime) -> bool {
        root.rotated_out
            .is_some_and(|at| at + self.settings.leaf_ttl * 2 <= now)
    }

    /// Forgets roots that were replaced more than two leaf lives ago. Answers
    /// whether one was.
    pub(crate) fn forget_old_roots(&mut self, now: OffsetDateTime, index: u64) -> bool {
        if !self.has_old_roots(now) {
            return false;
        }
        let ttl = self.settings.leaf_ttl;
        self.roots
            .retain(|root| root.rotated_out.is_none_or(|at| at + ttl * 2 > now));
        self.roots_index = index;
        true
    }

    /// The body of both roots endpoints.
    pub(crate) fn roots_json(&self) -> Value {
        let roots: Vec<Value> = self.roots.iter().map(|root| self.root_json(root)).collect();
        json!({
            "ActiveRootID": self.active().map(|root| root.id.as_str()),
            "TrustDomain": self.trust_domain(),
            "Roots": roots,
        })
    }

    fn root_json(&self, root: &Root) -> Value {
        json!({
            "ID": root.id,
            "Name": "Portcullis DEV CA Primary Cert",
            "SerialNumber": root.serial,
            "SigningKeyID": root.signing_key_id,
            "ExternalTrustDomain": self.cluster_id,
            "NotBefore": rfc3339(root.not_before),
            "NotAfter": rfc3339(root.not_after),
            "RootCert": pem::encode("CERTIFICATE", &root.der),
            "IntermediateCerts": if root.intermediates.is_empty() { Value::Null } else { json!(root.intermediates) },
            "Active": root.rotated_out.is_none(),
            "PrivateKeyType": root.key_type.kind(),
            "PrivateKeyBits": root.key_type.bits(),
            "CreateIndex": root.create_index,
            "ModifyIndex": root.modify_index,
        })
    }

    /// Every root, then its intermediates, as one text.
    pub(crate) fn roots_pem(&self) -> String {
        let mut text = String::new();
        for root in &self.roots {
            text.push_str(&pem::encode("CERTIFICATE", &root.der));
            root.intermediates
                .iter()
                .for_each(|certificate| text.push_str(certificate));
        }
        text
    }

    /// The body of the configuration endpoint.
    pub(crate) fn config_json(&self) -> Value {
        json!({
            "Provider": "consul",
            "Config": self.config,
            "State": null,
            "ForceWithoutCrossSigning": self.force_without_cross_signing,
            "CreateIndex": self.config_create_index,
            "ModifyIndex": self.config_modify_index,
        })
    }
}

/// What is listed about an authority's root.
pub(crate) fn list(
    authority: &dyn CertificateAuthority,
    serial: u64,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    mut intermediates: Vec<String>,
    index: u64,
) -> Root {
    intermediates.extend(authority.intermediates());
    let der = authority.root().to_vec();
    Root {
        id: root_id(&der),
        serial,
        signing_key_id: pem::colon_hex(&authority.signing_key_id()),
        der,
        intermediates,
        key_type: authority.key_type(),
        not_before,
        not_after,
        create_index: index,
        modify_index: index,
        rotated_out: None,
    }
}

/// An identifier of a root. Consul takes SHA-1 of the certificate, which is 20
/// bytes; these are 20 bytes of SHA-256: callers treat it as opaque.
fn root_id(der: &[u8]) -> String {
    let digest = sha2::Sha256::digest(der);
    pem::colon_hex(&digest[..20])
}

/// Whole hours as `72h`, everything else as Go prints it.
fn ttl_text(ttl: Duration) -> String {
    let seconds = ttl.as_secs();
    if seconds > 0 && seconds.is_multiple_of(3600) && ttl.subsec_nanos() == 0 {
        format!("{}h", seconds / 3600)
    } else {
        duration::format(ttl)
    }
}

/// Reads and checks the `Config` of a configuration request.
///
/// # Errors
/// Consul's words, without the leading `error configuring provider: `.
pub(crate) fn settings(config: &Value, default_leaf: Duration) -> Result<Settings, String> {
    let empty = Map::new();
    let config = config.as_object().unwrap_or(&empty);
    let leaf = ttl(config, "LeafCertTTL")?;
    let intermediate = ttl(config, "IntermediateCertTTL")?.unwrap_or(8760 * HOUR);
    let root_ttl = ttl(config, "RootCertTTL")?.unwrap_or(87600 * HOUR);
    if let Some(leaf) = leaf {
        if leaf < HOUR {
            return Err("leaf cert TTL must be greater or equal than 1h0m0s".to_owned());
        }
        if leaf > 8760 * HOUR {
            return Err("leaf cert TTL must be less than 8760h0m0s".to_owned());
        }
    }
    let leaf_ttl = leaf.unwrap_or(default_leaf);
    if intermediate < 3 * HOUR {
        return Err("Intermediate Cert TTL must be greater or equal than 3h".to_owned());
    }
    if intermediate < 3 * leaf_ttl {
        let least = duration::format(3 * leaf_ttl);
        return Err(format!(
            "Intermediate Cert TTL must be greater or equal than 3 * LeafCertTTL (>={least})."
        ));
    }
    if root_ttl < intermediate {
        return Err(format!(
            "root cert TTL is set and is not greater than intermediate cert ttl. root cert ttl: {}, intermediate cert ttl: {}",
            duration::format(root_ttl),
            duration::format(intermediate),
        ));
    }
    let kind = field(config, "PrivateKeyType")
        .and_then(Value::as_str)
        .unwrap_or("ec");
    let bits = match field(config, "PrivateKeyBits") {
        None | Some(Value::Null) => 256,
        Some(Value::String(text)) => text.parse().unwrap_or(0),
        Some(number) => number.as_u64().unwrap_or(0),
    };
    let key_type = KeyType::parse(kind, bits)?;
    Ok(Settings {
        leaf_ttl,
        root_ttl,
        key_type,
    })
}

fn field<'a>(config: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    config
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

fn ttl(config: &Map<String, Value>, name: &str) -> Result<Option<Duration>, String> {
    let nanos = match field(config, name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => duration::parse(text).map_err(|error| {
            format!(
                "error decoding config: decoding failed due to the following error(s):\n\n'{name}' {error}"
            )
        })?,
        Some(Value::Number(number)) => number.as_i64().unwrap_or(0),
        Some(_) => return Err(format!("error decoding config: '{name}' is not a duration")),
    };
    Ok(Some(Duration::from_nanos(
        u64::try_from(nanos).unwrap_or(0),
    )))
}
