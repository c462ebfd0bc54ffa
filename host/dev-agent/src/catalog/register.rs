//! Reading a registration, with Consul's refusals.

use serde_json::{Map, Value, json};

use super::definition::{Definition, checks_of, definition};
use super::proxy::{proxy_settings, upstream_problems};
use super::{Check, Service};
use crate::http::json::Object;
use crate::problems;

const GO_TYPE: &str = "struct { EnableTagOverrideSnake bool \"json:\\\"enable_tag_override\\\"\"; TaggedAddressesSnake map[string]structs.ServiceAddress \"json:\\\"tagged_addresses\\\"\"; *structs.Alias }";

const SERVICE: [&str; 18] = [
    "Kind",
    "ID",
    "Name",
    "Tags",
    "Address",
    "TaggedAddresses",
    "Meta",
    "Port",
    "Ports",
    "SocketPath",
    "Check",
    "Checks",
    "Weights",
    "Token",
    "EnableTagOverride",
    "Proxy",
    "Connect",
    "Locality",
];

/// A registration that was read.
pub(crate) struct Registration {
    pub(crate) service: Service,
    pub(crate) checks: Vec<Check>,
    /// The sidecar that it asks for; its port may still be 0.
    pub(crate) sidecar: Option<(Service, Vec<Check>)>,
}

pub(super) fn sidecar_id(id: &str) -> String {
    format!("{id}-sidecar-proxy")
}

/// Reads `/v1/agent/service/register`.
///
/// # Errors
/// The body of the 400 reply.
pub(crate) fn registration(body: &Value) -> Result<Registration, String> {
    let decode = |error: String| format!("Request decode failed: {error}");
    let object = Object::new(body, ".Alias", GO_TYPE, &SERVICE).map_err(decode)?;
    let mut service = service(object).map_err(decode)?;
    let checks = check_objects(object).map_err(decode)?;
    let sidecar = sidecar_object(object).map_err(decode)?;
    if service.name.is_empty() {
        return Err("Missing service name".to_owned());
    }
    if service.id.is_empty() {
        service.id.clone_from(&service.name);
    }
    validate(&service)?;
    let checks = checks_of(&service, &checks)?;
    let sidecar = match sidecar {
        None => None,
        Some(value) => Some(sidecar_of(&service, value)?),
    };
    Ok(Registration {
        service,
        checks,
        sidecar,
    })
}

fn service(object: Object<'_>) -> Result<Service, String> {
    let weights = match object.get("Weights") {
        None => (1, 1),
        Some(value) => {
            let weights =
                Object::new(value, "Weights", "structs.Weights", &["Passing", "Warning"])?;
            (weights.number("Passing")?, weights.number("Warning")?)
        }
    };
    let native = match object.get("Connect") {
        None => false,
        Some(value) => connect(value)?.flag("Native")?,
    };
    let kind = object.text("Kind")?;
    let proxy = match object.get("Proxy") {
        Some(value) => Some(proxy_settings(value)?),
        None if kind == "connect-proxy" => Some(proxy_settings(&json!({}))?),
        None => None,
    };
    Ok(Service {
        id: object.text("ID")?,
        name: object.text("Name")?,
        kind,
        tags: object.texts("Tags")?,
        meta: object.pairs("Meta")?,
        address: object.text("Address")?,
        port: object.number("Port")?,
        socket_path: object.text("SocketPath")?,
        tagged_addresses: tagged(object)?,
        weights,
        enable_tag_override: object.flag("EnableTagOverride")?,
        native,
        proxy,
        create_index: 0,
        modify_index: 0,
    })
}

fn connect(value: &Value) -> Result<Object<'_>, String> {
    Object::new(
        value,
        "Connect",
        "structs.ServiceConnect",
        &["Native", "SidecarService", "PeerMeta"],
    )
}

fn tagged(object: Object<'_>) -> Result<Map<String, Value>, String> {
    let mut addresses = Map::new();
    let Some(given) = object.get("TaggedAddresses").and_then(Value::as_object) else {
        return Ok(addresses);
    };
    for (name, value) in given {
        let one = Object::new(
            value,
            "ServiceAddress",
            "structs.ServiceAddress",
            &["Address", "Port"],
        )?;
        let address = json!({"Address": one.text("Address")?, "Port": one.number("Port")?});
        addresses.insert(name.clone(), address);
    }
    Ok(addresses)
}

fn validate(service: &Service) -> Result<(), String> {
    if matches!(service.address.as_str(), "0.0.0.0" | "::" | "[::]") {
        return Err("Invalid service address".to_owned());
    }
    for (key, value) in &service.meta {
        let bad = |reason: &str| {
            let value = value.as_str().unwrap_or_default();
            Err(format!(
                "Invalid Service Meta: Couldn't load metadata pair ('{key}', '{value}'): {reason}"
            ))
        };
        if key.is_empty() {
            return bad("Key cannot be blank");
        }
        if !key
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_'))
        {
            return bad("Key contains invalid characters");
        }
    }
    let mut problems = Vec::new();
    let unreachable = service.port == 0 && service.socket_path.is_empty();
    if service.kind == "connect-proxy" {
        if unreachable {
            problems.push("Port or SocketPath must be set for a connect-proxy".to_owned());
        }
        let name = |proxy: &Map<String, Value>| {
            proxy
                .get("DestinationServiceName")
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        match service
            .proxy
            .as_ref()
            .and_then(name)
            .as_deref()
            .map(str::trim)
        {
            None | Some("") => problems.push(
                "Proxy.DestinationServiceName must be non-empty for Connect proxy services"
                    .to_owned(),
            ),
            Some("*") => problems.push(
                "Proxy.DestinationServiceName must not be a wildcard for Connect proxy services"
                    .to_owned(),
            ),
            Some(_) => {}
        }
        let upstreams = service.proxy.as_ref().map(upstream_problems);
        problems.extend(upstreams.into_iter().flatten());
        if service.native {
            problems
                .push("A Proxy cannot also be Connect Native, only typical services".to_owned());
        }
    } else if service.native && unreachable {
        problems.push("Port or SocketPath must be set for a Connect native service.".to_owned());
    }
    refuse("Validation failed", &problems)
}

/// Refuses under this title, if anything is wrong.
fn refuse(title: &str, wrong: &[impl std::fmt::Display]) -> Result<(), String> {
    problems::none(wrong).map_err(|list| format!("{title}: {list}"))
}

/// The check definitions of a service: `Check`, then `Checks`.
fn check_objects(object: Object<'_>) -> Result<Vec<Definition>, String> {
    let mut found = Vec::new();
    if let Some(one) = object.get("Check") {
        found.push(one);
    }
    if let Some(Value::Array(many)) = object.get("Checks") {
        found.extend(many);
    }
    let definitions: Result<Vec<_>, String> = found.into_iter().map(definition).collect();
    Ok(definitions?
        .into_iter()
        .filter(|definition| !definition.empty)
        .collect())
}

fn sidecar_object(object: Object<'_>) -> Result<Option<&Value>, String> {
    match object.get("Connect") {
        None => Ok(None),
        Some(value) => Ok(connect(value)?.get("SidecarService")),
    }
}

/// The sidecar that comes with a service.
fn sidecar_of(service: &Service, value: &Value) -> Result<(Service, Vec<Check>), String> {
    let decode = |error: String| format!("Request decode failed: {error}");
    let object = Object::new(value, ".Alias", GO_TYPE, &SERVICE).map_err(decode)?;
    let mut sidecar = self::service(object).map_err(decode)?;
    let definitions = check_objects(object).map_err(decode)?;
    let mut problems = Vec::new();
    if !sidecar.id.is_empty() {
        problems.push("A SidecarService cannot specify an ID as this is managed by the agent");
    }
    if sidecar_object(object).map_err(decode)?.is_some() {
        problems.push("A SidecarService cannot have a nested SidecarService");
    }
    refuse("Validation failed", &problems)?;
    sidecar.id = sidecar_id(&service.id);
    sidecar.kind = "connect-proxy".to_owned();
    if sidecar.name.is_empty() {
        sidecar.name = sidecar_id(&service.name);
    }
    if sidecar.tags.is_empty() {
        sidecar.tags.clone_from(&service.tags);
    }
    if sidecar.meta.is_empty() {
        sidecar.meta.clone_from(&service.meta);
    }
    let mut proxy = match sidecar.proxy.take() {
        Some(proxy) => proxy,
        None => proxy_settings(&json!({}))?,
    };
    let mut default = |name: &str, value: Value| {
        proxy.entry(name.to_owned()).or_insert(value);
    };
    default("DestinationServiceName", json!(service.name));
    default("DestinationServiceID", json!(service.id));
    let mut own = Vec::new();
    if !service.socket_path.is_empty() {
        own.push(("LocalServiceSocketPath", json!(service.socket_path)));
    } else {
        own.push(("LocalServiceAddress", json!("127.0.0.1")));
        if service.port != 0 {
            own.push(("LocalServicePort", json!(service.port)));
        }
    }
    if !proxy.contains_key("LocalServiceSocketPath") {
        for (name, value) in own {
            proxy.entry(name.to_owned()).or_insert(value);
        }
    }
    if sidecar.address.is_empty() {
        sidecar.address.clone_from(&service.address);
    }
    sidecar.proxy = Some(proxy);
    refuse(
        "Failed Validation",
        &sidecar
            .proxy
            .as_ref()
            .map(upstream_problems)
            .unwrap_or_default(),
    )?;
    let definitions = if definitions.is_empty() {
        vec![Definition::alias_of(service, &sidecar)]
    } else {
        definitions
    };
    let checks = checks_of(&sidecar, &definitions)?;
    Ok((sidecar, checks))
}
