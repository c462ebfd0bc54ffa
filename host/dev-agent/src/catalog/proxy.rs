//! The part of a registration that describes a proxy.

use std::collections::HashSet;

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
    for name in ["TransparentProxy", "AccessLogs"] {
        if let Some(value) = object.get(name).filter(|value| value.is_object()) {
            proxy.insert(name.to_owned(), value.clone());
        }
    }
    let gateway = object.get("MeshGateway").filter(|value| value.is_object());
    let gateway = gateway.cloned().unwrap_or_else(|| json!({}));
    proxy.insert("MeshGateway".to_owned(), gateway);
    proxy.insert("Expose".to_owned(), expose(object.get("Expose"))?);
    if let Some(upstreams) = object.get("Upstreams").and_then(Value::as_array) {
        let mut read = Vec::new();
        for one in upstreams {
            let mut upstream = upstream(one)?;
            // One that says nothing of gateways has those of the proxy.
            if let Some(own) = upstream.get_mut("MeshGateway")
                && own.as_object().is_none_or(Map::is_empty)
                && let Some(gateway) = proxy.get("MeshGateway")
            {
                own.clone_from(gateway);
            }
            read.push(upstream);
        }
        proxy.insert("Upstreams".to_owned(), Value::Array(read));
    }
    Ok(proxy)
}

/// Paths that are reached without mTLS, as Consul shows them.
fn expose(value: Option<&Value>) -> Result<Value, String> {
    let mut expose = Map::new();
    let Some(value) = value else {
        return Ok(json!({}));
    };
    let object = Object::new(
        value,
        "ExposeConfig",
        "structs.ExposeConfig",
        &["Checks", "Paths"],
    )?;
    if object.flag("Checks")? {
        expose.insert("Checks".to_owned(), json!(true));
    }
    let mut paths = Vec::new();
    for path in object
        .get("Paths")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let known = [
            "ListenerPort",
            "Path",
            "LocalPathPort",
            "Protocol",
            "ParsedFromCheck",
        ];
        let one = Object::new(path, "ExposePath", "structs.ExposePath", &known)?;
        let mut shown = Map::new();
        for name in ["ListenerPort", "LocalPathPort"] {
            let port = one.number(name)?;
            if port != 0 {
                shown.insert(name.to_owned(), json!(port));
            }
        }
        for name in ["Path", "Protocol"] {
            let text = one.text(name)?;
            if !text.is_empty() {
                shown.insert(name.to_owned(), json!(text));
            }
        }
        shown.insert(
            "ParsedFromCheck".to_owned(),
            json!(one.flag("ParsedFromCheck")?),
        );
        paths.push(Value::Object(shown));
    }
    if !paths.is_empty() {
        expose.insert("Paths".to_owned(), Value::Array(paths));
    }
    Ok(Value::Object(expose))
}

/// What Consul finds wrong with the upstreams of a proxy.
pub(super) fn upstream_problems(proxy: &Map<String, Value>) -> Vec<String> {
    let mut problems = Vec::new();
    let (mut names, mut places) = (HashSet::new(), HashSet::new());
    let upstreams = proxy.get("Upstreams").and_then(Value::as_array);
    for upstream in upstreams.into_iter().flatten() {
        let text = |name: &str| {
            upstream
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let port = upstream.get("LocalBindPort").and_then(Value::as_i64);
        let (port, socket) = (port.unwrap_or(0), text("LocalBindSocketPath"));
        let (name, kind) = (text("DestinationName"), text("DestinationType"));
        if !matches!(kind, "service" | "prepared_query") {
            problems.push(format!("unknown upstream destination type: {kind:?}"));
            continue;
        }
        match name {
            "" => problems.push("upstream destination name cannot be empty".to_owned()),
            "*" => problems.push("upstream destination name cannot be a wildcard".to_owned()),
            _ => {}
        }
        let (peer, datacenter) = (text("DestinationPeer"), text("Datacenter"));
        if !peer.is_empty() && !datacenter.is_empty() {
            problems
                .push("upstream cannot specify both destination peer and datacenter".to_owned());
        }
        if port == 0 && socket.is_empty() {
            problems.push(
                "upstream local bind port or local socket path must be defined and nonzero"
                    .to_owned(),
            );
        } else if port != 0 && !socket.is_empty() {
            problems.push(
                "only one of upstream local bind port or local socket path can be defined and nonzero"
                    .to_owned(),
            );
        }
        let place = match (socket, text("LocalBindAddress")) {
            ("", "") => format!("127.0.0.1:{port}"),
            ("", address) if address.contains(':') => format!("[{address}]:{port}"),
            ("", address) => format!("{address}:{port}"),
            (socket, _) => socket.to_owned(),
        };
        if !problems.is_empty() {
            continue;
        }
        if !places.insert(place.clone()) {
            problems.push(format!("upstreams cannot contain duplicates by local bind address and port or unix path; {place:?} is specified twice"));
        }
        let key = format!(
            "type={kind:?}, name={name:?}, partition={:?}, namespace={:?}, peer={peer:?}, datacenter={datacenter:?}",
            text("DestinationPartition"),
            text("DestinationNamespace"),
        );
        if !names.insert(key.clone()) {
            problems.push(format!("upstreams cannot contain duplicates of [{key}]"));
        }
    }
    problems
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
        "LocalBindSocketMode",
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
