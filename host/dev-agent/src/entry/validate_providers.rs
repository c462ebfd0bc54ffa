//! What Consul refuses to store of a `jwt-provider` entry, and what it fills in.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, PAD, STANDARD};
use serde_json::{Map, Value, json};

use super::precedence::text;
use super::validate::{Fields, Result};
use crate::problems;

/// Fills in defaults and checks an entry by itself.
pub(super) fn jwt_provider(fields: &mut Fields) -> Result<()> {
    if text(fields, "Name").is_empty() {
        return Err("Name is required".to_owned());
    }
    let set = object(fields, "JSONWebKeySet").ok_or("JSONWebKeySet is required")?;
    match (set.contains_key("Local"), set.contains_key("Remote")) {
        (true, false) => object(set, "Local").map_or(Ok(()), |local| local_keys(local))?,
        (false, true) => object(set, "Remote").map_or(Ok(()), remote_keys)?,
        _ => return Err("must specify exactly one of Local or Remote JSON Web key set".to_owned()),
    }
    let locations = fields.get("Locations").and_then(Value::as_array);
    let problems = locations.into_iter().flatten().filter_map(location);
    problems::none(&problems.collect::<Vec<_>>())?;
    if let Some(forwarding) = object(fields, "Forwarding") {
        if text(forwarding, "HeaderName").is_empty() {
            return Err("Header name required for forwarding config".to_owned());
        }
        forwarding
            .entry("PadForwardPayloadHeader".to_owned())
            .or_insert(json!(false));
    }
    if !fields.contains_key("ClockSkewSeconds") {
        fields.insert("ClockSkewSeconds".to_owned(), json!(30));
    }
    Ok(())
}

fn object<'f>(fields: &'f mut Fields, name: &str) -> Option<&'f mut Map<String, Value>> {
    fields.get_mut(name).and_then(Value::as_object_mut)
}

fn local_keys(local: &Fields) -> Result<()> {
    let (keys, file) = (text(local, "JWKS"), text(local, "Filename"));
    if keys.is_empty() == file.is_empty() {
        return Err("must specify exactly one of String or filename for local keyset".to_owned());
    }
    // As in Go: ends of lines are no part of it, and what the last bits say does not matter.
    let keys = keys.replace(['\r', '\n'], "");
    let go = GeneralPurpose::new(
        &alphabet::STANDARD,
        PAD.with_decode_allow_trailing_bits(true),
    );
    match go.decode(keys) {
        Ok(_) => Ok(()),
        Err(_) => Err("JWKS must be valid base64 encoded string".to_owned()),
    }
}

fn remote_keys(remote: &mut Map<String, Value>) -> Result<()> {
    let uri = text(remote, "URI");
    if uri.is_empty() {
        return Err("Remote JWKS URI is required".to_owned());
    }
    if let Some(problem) = why_no_uri(uri) {
        return Err(format!(
            "Remote JWKS URI is invalid: parse {}: {problem}, uri: {uri}",
            quoted(uri)
        ));
    }
    if let Some(cluster) = object(remote, "JWKSCluster") {
        jwks_cluster(cluster)?;
    }
    let waits = remote
        .get("RetryPolicy")
        .and_then(|retry| retry.get("RetryPolicyBackOff"));
    let wait = |name: &str| {
        let wait = waits.and_then(|waits| waits.get(name));
        wait.and_then(Value::as_i64).unwrap_or_default()
    };
    match wait("MaxInterval") != 0 && wait("BaseInterval") > wait("MaxInterval") {
        true => Err(
            "retry policy backoff's MaxInterval should be greater or equal to BaseInterval"
                .to_owned(),
        ),
        false => Ok(()),
    }
}

/// Settings of Envoy for the server that has the keys.
fn jwks_cluster(cluster: &mut Map<String, Value>) -> Result<()> {
    let kind = text(cluster, "DiscoveryType");
    let known = [
        "",
        "STRICT_DNS",
        "STATIC",
        "LOGICAL_DNS",
        "EDS",
        "ORIGINAL_DST",
    ];
    if !known.contains(&kind) {
        return Err(format!(
            "unsupported jwks cluster discovery type: {}",
            quoted(kind)
        ));
    }
    let Some(tls) = object(cluster, "TLSCertificates") else {
        return Ok(());
    };
    if tls.contains_key("CaCertificateProviderInstance") == tls.contains_key("TrustedCA") {
        return Err("must specify exactly one of: CaCertificateProviderInstance or TrustedCA for JKWS' TLSCertificates".to_owned());
    }
    let Some(ca) = object(tls, "TrustedCA") else {
        return Ok(());
    };
    if ca.len() != 1 {
        return Err("must specify exactly one of: Filename, EnvironmentVariable, InlineString or InlineBytes for JWKS' TrustedCA".to_owned());
    }
    // Text becomes bytes, and bytes are told in base64.
    if let Some(Value::String(bytes)) = ca.get_mut("InlineBytes") {
        *bytes = STANDARD.encode(bytes.as_bytes());
    }
    Ok(())
}

fn location(location: &Value) -> Option<String> {
    let found: Vec<_> = [
        ("Header", "header"),
        ("QueryParam", "query param"),
        ("Cookie", "cookie"),
    ]
    .into_iter()
    .filter_map(|(name, shown)| Some((location.get(name)?.as_object()?, shown)))
    .collect();
    match found[..] {
        [(place, shown)] => text(place, "Name")
            .is_empty()
            .then(|| format!("JWT location {shown} name must be specified")),
        _ => Some("must set exactly one of: JWT location header, query param or cookie".to_owned()),
    }
}

/// Why Go takes this for no URI of a request, if so.
fn why_no_uri(uri: &str) -> Option<String> {
    if uri.chars().any(|c| c.is_ascii_control()) {
        return Some("net/url: invalid control character in URL".to_owned());
    }
    if uri == "*" {
        return None;
    }
    let starts = |c: char| c.is_ascii_alphabetic();
    let goes_on = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let rest = match uri.split_once(':') {
        Some((scheme, rest)) if scheme.starts_with(starts) && scheme.chars().all(goes_on) => rest,
        _ if uri.starts_with('/') => uri,
        _ => return Some("invalid URI for request".to_owned()),
    };
    let rest = rest.split('?').next().unwrap_or_default();
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    let host = authority.rsplit('@').next().unwrap_or_default();
    let port = match host.strip_prefix('[') {
        Some(host) => match host.rsplit_once(']') {
            Some((_, port)) => port,
            None => return Some("missing ']' in host".to_owned()),
        },
        None => host.find(':').map_or("", |colon| &host[colon..]),
    };
    let is_port = |port: &str| {
        port.strip_prefix(':')
            .is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
    };
    if !port.is_empty() && !is_port(port) {
        return Some(format!("invalid port {} after host", quoted(port)));
    }
    if host.contains(' ') {
        return Some("invalid character \" \" in host name".to_owned());
    }
    let escapes = path.match_indices('%').map(|(at, _)| &path[at..]);
    let bad = escapes.chain(host.find('%').map(|at| &host[at..]));
    bad.map(|from| from.chars().take(3).collect::<String>())
        .find(|escape| {
            host.contains('%')
                || escape.len() != 3
                || !escape[1..].bytes().all(|digit| digit.is_ascii_hexdigit())
        })
        .map(|escape| format!("invalid URL escape {}", quoted(&escape)))
}

/// As Go quotes ASCII text.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
