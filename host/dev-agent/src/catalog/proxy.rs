//! The part of a registration that describes a proxy.

use serde_json::{Map, Value, json};

use crate::http::json::Object;

/// A proxy's settings with Consul's defaults.
pub(super) fn proxy_settings(value: &Value) -> Result<Map<String, Value>, String> {
    const KNOWN: [&str; 13] = [
        "DestinationServiceName",
        "DestinationServiceID",
        "LocalServiceAddress",
        "LocalServicePort",
        "LocalServiceSocketPath",
        "Mode",
        "Config",
        "Upstreams",
        "MeshGateway",
        "Expose",
        "TransparentProxy",
        "EnvoyExtensions",
        "AccessLogs",
    ];
    let object = Object::new(value, "Proxy", "structs.ConnectProxyConfig", &KNOWN)?;
    let mut proxy = Map::new();
    let texts = [
        "DestinationServiceName",
        "DestinationServiceID",
        "LocalServiceAddress",
        "LocalServiceSocketPath",
        "Mode",
    ];
    for name in texts {
        let text = object.text(name)?;
        if !text.is_empty() {
            proxy.insert(name.to_owned(), json!(text));
        }
    }
    let port = object.number("LocalServicePort")?;
    if port != 0 {
        proxy.insert("LocalServicePort".to_owned(), json!(port));
    }
    if let Some(config) = object.get("Config").filter(|config| config.is_object()) {
        proxy.insert("Config".to_owned(), config.clone());
    }
    for name in ["MeshGateway", "Expose"] {
        let value = object.get(name).filter(|value| value.is_object()).cloned();
        proxy.insert(name.to_owned(), value.unwrap_or_else(|| json!({})));
    }
    if let Some(upstreams) = object.get("Upstreams").and_then(Value::as_array) {
        let upstreams: Result<Vec<Value>, String> = upstreams.iter().map(upstream).collect();
        proxy.insert("Upstreams".to_owned(), Value::Array(upstreams?));
    }
    Ok(proxy)
}

fn upstream(value: &Value) -> Result<Value, String> {
    const KNOWN: [&str; 14] = [
        "DestinationType",
        "DestinationNamespace",
        "DestinationPartition",
        "DestinationPeer",
        "DestinationName",
        "Datacenter",
        "LocalBindAddress",
        "LocalBindPort",
        "LocalBindSocketPath",
        "LocalBindSocketMode",
        "Config",
        "MeshGateway",
        "IngressHosts",
        "CentrallyConfigured",
    ];
    let object = Object::new(value, "Upstream", "structs.Upstream", &KNOWN)?;
    let mut upstream = Map::new();
    let kind = object.text("DestinationType")?;
    let kind = if kind.is_empty() {
        "service".to_owned()
    } else {
        kind
    };
    upstream.insert("DestinationType".to_owned(), json!(kind));
    let texts = [
        "DestinationName",
        "DestinationPeer",
        "Datacenter",
        "LocalBindAddress",
        "LocalBindSocketPath",
    ];
    for name in texts {
        let text = object.text(name)?;
        if !text.is_empty() {
            upstream.insert(name.to_owned(), json!(text));
        }
    }
    let port = object.number("LocalBindPort")?;
    if port != 0 {
        upstream.insert("LocalBindPort".to_owned(), json!(port));
    }
    if let Some(config) = object.get("Config").filter(|config| config.is_object()) {
        upstream.insert("Config".to_owned(), config.clone());
    }
    let gateway = object
        .get("MeshGateway")
        .cloned()
        .unwrap_or_else(|| json!({}));
    upstream.insert("MeshGateway".to_owned(), gateway);
    Ok(Value::Object(upstream))
}
