//! What Consul refuses to store, in its words, and what it fills in.

use serde_json::{Map, Value, json};

use super::Entries;
use super::precedence::text;
use super::validate_intentions::{intentions, referenced};
use super::validate_providers::jwt_provider;
use crate::problems;

pub(super) type Fields = Map<String, Value>;
pub(super) type Result<T> = std::result::Result<T, String>;

/// Fills in defaults and checks an entry by itself. Answers its name.
pub(super) fn complete(kind: &str, fields: &mut Fields) -> Result<String> {
    match kind {
        "service-intentions" => intentions(fields)?,
        "service-defaults" => {
            let name = text(fields, "Name");
            if name.is_empty() {
                return Err("Name is required".to_owned());
            }
            if name == "*" {
                return Err("service name must not be wildcard".to_owned());
            }
            empty_objects(fields, &["TransparentProxy", "MeshGateway", "Expose"]);
        }
        "proxy-defaults" => {
            let name = text(fields, "Name");
            if name != "global" {
                return Err(format!(
                    "invalid name ({name:?}), only \"global\" is supported"
                ));
            }
            empty_objects(
                fields,
                &["TransparentProxy", "MeshGateway", "Expose", "AccessLogs"],
            );
        }
        "mesh" => mesh(fields)?,
        "jwt-provider" => jwt_provider(fields)?,
        other => return Err(format!("invalid config entry kind: {other}")),
    }
    meta(fields)?;
    fields.insert("Kind".to_owned(), json!(kind));
    Ok(if kind == "mesh" {
        "mesh".to_owned()
    } else {
        text(fields, "Name").to_owned()
    })
}

fn empty_objects(fields: &mut Fields, names: &[&str]) {
    for name in names {
        fields
            .entry((*name).to_owned())
            .or_insert_with(|| json!({}));
    }
}

fn meta(fields: &Fields) -> Result<()> {
    let Some(pairs) = fields.get("Meta").and_then(Value::as_object) else {
        return Ok(());
    };
    let mut problems = Vec::new();
    if pairs.len() > 64 {
        problems.push("Meta exceeds maximum element count 64".to_owned());
    }
    for (key, value) in pairs {
        if key.len() > 128 {
            problems.push(format!("Meta key {key:?} exceeds maximum length 128"));
        }
        if value.as_str().is_some_and(|value| value.len() > 512) {
            problems.push(format!(
                "Meta value for key {key:?} exceeds maximum length 512"
            ));
        }
    }
    problems::none(&problems)
}

fn mesh(fields: &mut Fields) -> Result<()> {
    fields
        .entry("TransparentProxy".to_owned())
        .or_insert_with(|| json!({}));
    if let Some(proxy) = fields
        .get_mut("TransparentProxy")
        .and_then(Value::as_object_mut)
    {
        proxy
            .entry("MeshDestinationsOnly".to_owned())
            .or_insert(json!(false));
    }
    let Some(http) = fields.get_mut("HTTP").and_then(Value::as_object_mut) else {
        return Ok(());
    };
    http.entry("SanitizeXForwardedClientCert".to_owned())
        .or_insert(json!(false));
    let normalization = http
        .get_mut("Incoming")
        .and_then(|incoming| incoming.get_mut("RequestNormalization"))
        .and_then(Value::as_object_mut);
    let Some(normalization) = normalization else {
        return Ok(());
    };
    for flag in ["InsecureDisablePathNormalization", "MergeSlashes"] {
        normalization.entry(flag.to_owned()).or_insert(json!(false));
    }
    one_of(
        normalization,
        "PathWithEscapedSlashesAction",
        &[
            "IMPLEMENTATION_SPECIFIC_DEFAULT",
            "KEEP_UNCHANGED",
            "REJECT_REQUEST",
            "UNESCAPE_AND_REDIRECT",
            "UNESCAPE_AND_FORWARD",
        ],
    )?;
    one_of(
        normalization,
        "HeadersWithUnderscoresAction",
        &["ALLOW", "REJECT_REQUEST", "DROP_HEADER"],
    )
}

fn one_of(fields: &mut Fields, name: &str, allowed: &[&str]) -> Result<()> {
    let value = text(fields, name).to_owned();
    if !value.is_empty() && !allowed.contains(&value.as_str()) {
        return Err(format!(
            "error in HTTP incoming request normalization configuration: no matching {name} value found for {value}, please specify one of [{}]",
            allowed.join(", ")
        ));
    }
    fields.insert(name.to_owned(), json!(value));
    Ok(())
}

/// Whether an intentions entry has a source with permissions.
fn is_l7(entry: &Fields) -> bool {
    let sources = entry.get("Sources").and_then(Value::as_array);
    sources
        .into_iter()
        .flatten()
        .any(|source| source.get("Permissions").is_some())
}

/// What must hold between entries.
pub(super) fn whole(entries: &Entries) -> Result<()> {
    for entry in entries.of_kind("service-intentions") {
        let protocol = entries.protocol(&entry.name);
        if is_l7(&entry.fields) && !matches!(protocol.as_str(), "http" | "http2" | "grpc") {
            return Err(format!(
                "service {:?} has protocol {protocol:?}, which is incompatible with L7 intentions permissions",
                entry.name
            ));
        }
        for provider in referenced(&entry.fields) {
            if entries.get("jwt-provider", &provider).is_none() {
                problems::none(&[format!(
                    "Referenced JWT Provider does not exist. Provider Name: {provider}"
                )])?;
            }
        }
    }
    Ok(())
}

/// Refuses the removal of a provider that an intention names.
pub(super) fn provider_is_unused(entries: &Entries, name: &str) -> Result<()> {
    for entry in entries.of_kind("service-intentions") {
        if referenced(&entry.fields)
            .iter()
            .any(|provider| provider.eq_ignore_ascii_case(name))
        {
            return Err(format!(
                "cannot delete jwt provider config entry referenced by an intention. Provider name: {name}, intention name: {}",
                entry.name
            ));
        }
    }
    Ok(())
}
