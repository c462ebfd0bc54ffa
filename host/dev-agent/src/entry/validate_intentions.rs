//! What Consul refuses in intentions, in its words, and what it fills in.

use serde_json::{Value, json};

use super::precedence::{precedence, text};
use super::validate::{Fields, Result};
use crate::problems;

const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE",
];

fn partial_wildcard(name: &str) -> bool {
    name != "*" && name.contains('*')
}

/// Checks a service-intentions entry and fills in types and precedence.
pub(super) fn intentions(fields: &mut Fields) -> Result<()> {
    let destination = text(fields, "Name").to_owned();
    if destination.is_empty() {
        return Err("Name is required".to_owned());
    }
    if partial_wildcard(&destination) {
        return Err("Name: wildcard character '*' cannot be used with partial values".to_owned());
    }
    let mut sources = match fields.remove("Sources") {
        Some(Value::Array(sources)) if !sources.is_empty() => sources,
        _ => return Err("At least one source is required".to_owned()),
    };
    let mut seen = Vec::new();
    for (number, source) in sources.iter_mut().enumerate() {
        let at = format!("Sources[{number}]");
        let Some(source) = source.as_object_mut() else {
            return Err(format!("{at} is not an object"));
        };
        source_fields(source, &at, &destination)?;
        let key = (
            text(source, "Peer").to_owned(),
            text(source, "Name").to_owned(),
        );
        if seen.contains(&key) {
            return Err(match key.0.as_str() {
                "" => format!("{at} defines {:?} more than once", key.1),
                peer => format!("{at} defines peer({peer:?}) {:?} more than once", key.1),
            });
        }
        seen.push(key);
    }
    sources.sort_by_key(|source| {
        std::cmp::Reverse(
            source
                .get("Precedence")
                .and_then(Value::as_u64)
                .unwrap_or_default(),
        )
    });
    fields.insert("Sources".to_owned(), Value::Array(sources));
    if let Some(jwt) = fields.get("JWT") {
        providers_named(jwt)?;
    }
    Ok(())
}

fn source_fields(source: &mut Fields, at: &str, destination: &str) -> Result<()> {
    source.remove("LegacyID");
    source.remove("LegacyCreateTime");
    source.remove("LegacyUpdateTime");
    let name = text(source, "Name").to_owned();
    if name.is_empty() {
        return Err(format!("{at}.Name is required"));
    }
    if partial_wildcard(&name) {
        return Err(format!(
            "{at}.Name: wildcard character '*' cannot be used with partial values"
        ));
    }
    if text(source, "Peer") == "*" {
        return Err(format!("{at}.Peer: cannot use wildcard '*' in peer"));
    }
    if source.contains_key("SamenessGroup") {
        return Err(format!(
            "{at}.SamenessGroup: Sameness groups are a Consul Enterprise feature. "
        ));
    }
    if source.contains_key("LegacyMeta") {
        return Err(format!("{at}.LegacyMeta must be omitted"));
    }
    if text(source, "Description").len() > 512 {
        return Err(format!("{at}.Description exceeds maximum length 512"));
    }
    match text(source, "Type") {
        "" => {
            source.insert("Type".to_owned(), json!("consul"));
        }
        "consul" => {}
        _ => return Err(format!("{at}.Type must be set to 'consul'")),
    }
    let action = text(source, "Action").to_owned();
    match source.get_mut("Permissions").and_then(Value::as_array_mut) {
        None => {
            if !matches!(action.as_str(), "allow" | "deny") {
                return Err(format!("{at}.Action must be set to 'allow' or 'deny'"));
            }
        }
        Some(permissions) => {
            if !action.is_empty() {
                return Err(format!(
                    "{at}.Action must be omitted if Permissions are specified"
                ));
            }
            if destination == "*" {
                return Err(format!(
                    "{at}.Permissions cannot be specified on intentions with wildcarded destinations"
                ));
            }
            for (number, one) in permissions.iter_mut().enumerate() {
                permission(one, &format!("{at}.Permissions[{number}]"))?;
            }
        }
    }
    source.insert(
        "Precedence".to_owned(),
        json!(precedence(&name, destination)),
    );
    Ok(())
}

fn permission(permission: &mut Value, at: &str) -> Result<()> {
    let empty = || format!("{at}.HTTP is required");
    let permission = permission.as_object_mut().ok_or_else(empty)?;
    if !matches!(text(permission, "Action"), "allow" | "deny") {
        return Err(format!("{at}.Action must be set to 'allow' or 'deny'"));
    }
    if let Some(jwt) = permission.get("JWT") {
        providers_named(jwt)?;
    }
    let http = permission
        .get_mut("HTTP")
        .and_then(Value::as_object_mut)
        .ok_or_else(empty)?;
    let mut paths = 0;
    for key in ["PathExact", "PathPrefix", "PathRegex"] {
        let path = text(http, key);
        if path.is_empty() {
            continue;
        }
        if key != "PathRegex" && !path.starts_with('/') {
            return Err(format!("{at}.HTTP.{key} doesn't start with '/': {path:?}"));
        }
        paths += 1;
    }
    if paths > 1 {
        return Err(format!(
            "{at}.HTTP should only contain at most one of PathExact, PathPrefix, or PathRegex"
        ));
    }
    let headers = http
        .get("Header")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    for (number, header) in headers.iter().enumerate() {
        header_fields(header, &format!("{at}.HTTP.Header[{number}]"))?;
    }
    let has_headers = !headers.is_empty();
    let has_methods = methods(http, at)?;
    if paths == 0 && !has_headers && !has_methods {
        return Err(format!("{at}.HTTP should not be empty"));
    }
    Ok(())
}

fn methods(http: &mut Fields, at: &str) -> Result<bool> {
    let Some(methods) = http.get_mut("Methods").and_then(Value::as_array_mut) else {
        return Ok(false);
    };
    let mut seen: Vec<String> = Vec::new();
    for method in methods.iter_mut() {
        let name = method.as_str().unwrap_or_default().to_uppercase();
        if !METHODS.contains(&name.as_str()) {
            return Err(format!(
                "{at}.HTTP.Methods contains an invalid method {name:?}"
            ));
        }
        if seen.contains(&name) {
            return Err(format!(
                "{at}.HTTP.Methods contains {name:?} more than once"
            ));
        }
        *method = json!(name);
        seen.push(name);
    }
    Ok(!seen.is_empty())
}

fn header_fields(header: &Value, at: &str) -> Result<()> {
    let empty = Fields::new();
    let header = header.as_object().unwrap_or(&empty);
    if text(header, "Name").is_empty() {
        return Err(format!("{at} missing required Name field"));
    }
    let given = |name: &str| header.contains_key(name);
    let values = ["Exact", "Prefix", "Suffix", "Contains"]
        .iter()
        .filter(|name| given(name))
        .count();
    let others = ["Present", "Regex"]
        .iter()
        .filter(|name| given(name))
        .count();
    if values + others != 1 {
        return Err(format!(
            "{at} should only contain one of Present, Exact, Prefix, Suffix, Contains, or Regex"
        ));
    }
    if given("IgnoreCase") && values == 0 {
        return Err(format!(
            "{at} should set one of Exact, Prefix, Suffix, or Contains when using IgnoreCase"
        ));
    }
    Ok(())
}

/// The providers that a requirement names.
fn providers(jwt: &Value) -> impl Iterator<Item = &str> {
    let list = jwt
        .get("Providers")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    list.iter()
        .map(|one| one.get("Name").and_then(Value::as_str).unwrap_or_default())
}

fn providers_named(jwt: &Value) -> Result<()> {
    if providers(jwt).any(str::is_empty) {
        problems::none(&["JWT provider name is required"])?;
    }
    Ok(())
}

/// Every provider that an intentions entry refers to.
pub(super) fn referenced(entry: &Fields) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut add =
        |jwt: Option<&Value>| names.extend(jwt.into_iter().flat_map(providers).map(str::to_owned));
    add(entry.get("JWT"));
    let lists = entry
        .get("Sources")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    for source in lists {
        let permissions = source.get("Permissions").and_then(Value::as_array);
        permissions
            .into_iter()
            .flatten()
            .for_each(|permission| add(permission.get("JWT")));
    }
    names
}
