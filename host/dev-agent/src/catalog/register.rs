//! Reading a registration, with Consul's refusals.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{Check, Service, Status};
use crate::duration;
use crate::http::json::Object;

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

const CHECK: [&str; 36] = [
    "ID",
    "CheckID",
    "Name",
    "Notes",
    "Token",
    "ServiceID",
    "Status",
    "TTL",
    "HTTP",
    "H2PING",
    "H2PingUseTLS",
    "Header",
    "Method",
    "Body",
    "DisableRedirects",
    "TCP",
    "TCPUseTLS",
    "UDP",
    "GRPC",
    "GRPCUseTLS",
    "OSService",
    "ScriptArgs",
    "Args",
    "Shell",
    "DockerContainerID",
    "AliasNode",
    "AliasService",
    "TLSServerName",
    "TLSSkipVerify",
    "Interval",
    "Timeout",
    "SuccessBeforePassing",
    "FailuresBeforeCritical",
    "FailuresBeforeWarning",
    "OutputMaxSize",
    "DeregisterCriticalServiceAfter",
];

/// What makes the agent itself connect or run something: refused, so that
/// nobody can aim it at another program.
const ACTIVE: [&str; 11] = [
    "HTTP",
    "H2PING",
    "TCP",
    "UDP",
    "GRPC",
    "OSService",
    "ScriptArgs",
    "Args",
    "Shell",
    "DockerContainerID",
    "AliasService",
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

/// A proxy's settings with Consul's defaults.
fn proxy_settings(value: &Value) -> Result<Map<String, Value>, String> {
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
            problems.push("Port or SocketPath must be set for a connect-proxy");
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
            None | Some("") => problems
                .push("Proxy.DestinationServiceName must be non-empty for Connect proxy services"),
            Some("*") => problems.push(
                "Proxy.DestinationServiceName must not be a wildcard for Connect proxy services",
            ),
            Some(_) => {}
        }
        if service.native {
            problems.push("A Proxy cannot also be Connect Native, only typical services");
        }
    } else if service.native && unreachable {
        problems.push("Port or SocketPath must be set for a Connect native service.");
    }
    if problems.is_empty() {
        return Ok(());
    }
    let plural = if problems.len() == 1 {
        "error"
    } else {
        "errors"
    };
    let lines: Vec<_> = problems
        .iter()
        .map(|problem| format!("\t* {problem}\n"))
        .collect();
    Err(format!(
        "Validation failed: {} {plural} occurred:\n{}\n",
        problems.len(),
        lines.concat()
    ))
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

/// A check as it was sent.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    id: String,
    name: String,
    notes: String,
    pub(crate) service_id: String,
    status: String,
    ttl: Duration,
    deregister_after: Option<Duration>,
    has_interval: bool,
    active: Option<&'static str>,
    empty: bool,
}

fn definition(value: &Value) -> Result<Definition, String> {
    let object = Object::new(value, ".Alias", "structs.CheckType", &CHECK)?;
    let id = object.text("CheckID")?;
    let id = if id.is_empty() {
        object.text("ID")?
    } else {
        id
    };
    let time = |name: &str| -> Result<Option<Duration>, String> {
        let nanos = match object.get(name) {
            None => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => duration::parse(text)?,
            Some(value) => value.as_i64().unwrap_or(0),
        };
        Ok(u64::try_from(nanos)
            .ok()
            .filter(|nanos| *nanos > 0)
            .map(Duration::from_nanos))
    };
    let given = |name: &&&str| match object.get(name) {
        None => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
    };
    Ok(Definition {
        id,
        name: object.text("Name")?,
        notes: object.text("Notes")?,
        service_id: object.text("ServiceID")?,
        status: object.text("Status")?,
        ttl: time("TTL")?.unwrap_or_default(),
        deregister_after: time("DeregisterCriticalServiceAfter")?,
        has_interval: time("Interval")?.is_some(),
        active: ACTIVE.iter().find(given).copied(),
        empty: value.as_object().is_some_and(Map::is_empty),
    })
}

impl Definition {
    fn validate(&self) -> Result<(), String> {
        if let Some(kind) = self.active {
            return Err(format!(
                "Invalid check: `{kind}` checks are refused by this development agent; use a TTL check"
            ));
        }
        if self.has_interval && !self.ttl.is_zero() {
            return Err("Invalid check: Interval and TTL cannot both be specified".to_owned());
        }
        if self.ttl.is_zero() {
            return Err("Invalid check: TTL must be > 0 for TTL checks".to_owned());
        }
        if !self.status.is_empty() && Status::parse(&self.status).is_none() {
            return Err("Status for checks must 'passing', 'warning', 'critical'".to_owned());
        }
        Ok(())
    }

    /// The check of `service`, or of the node.
    fn into_check(self, service: Option<&Service>, id: String, name: String) -> Check {
        let initial = Status::parse(&self.status);
        let now = Instant::now();
        Check {
            id,
            name,
            notes: self.notes,
            status: initial.unwrap_or(Status::Critical),
            initial,
            output: String::new(),
            service_id: service
                .map(|service| service.id.clone())
                .unwrap_or_default(),
            service_name: service
                .map(|service| service.name.clone())
                .unwrap_or_default(),
            service_tags: service
                .map(|service| service.tags.clone())
                .unwrap_or_default(),
            ttl: self.ttl,
            deadline: Some(now + self.ttl),
            // Consul looks at intervals below a minute as a minute.
            deregister_after: self
                .deregister_after
                .map(|after| after.max(Duration::from_secs(60))),
            critical_since: (initial.unwrap_or(Status::Critical) == Status::Critical)
                .then_some(now),
            by_itself: false,
            create_index: 0,
            modify_index: 0,
        }
    }
}

fn checks_of(service: &Service, definitions: &[Definition]) -> Result<Vec<Check>, String> {
    let several = definitions.len() > 1;
    let mut checks = Vec::new();
    for (number, definition) in definitions.iter().enumerate() {
        definition.validate()?;
        let id = match definition.id.as_str() {
            "" if several => format!("service:{}:{}", service.id, number + 1),
            "" => format!("service:{}", service.id),
            given => given.to_owned(),
        };
        let name = match definition.name.as_str() {
            "" => format!("Service '{}' check", service.name),
            given => given.to_owned(),
        };
        checks.push(definition.clone().into_check(Some(service), id, name));
    }
    Ok(checks)
}

/// Reads `/v1/agent/check/register`; the answer's service still has to be looked up.
///
/// # Errors
/// The body of the 400 reply.
pub(crate) fn check_definition(body: &Value) -> Result<(Definition, CheckBuilder), String> {
    let read = definition(body).map_err(|error| format!("Request decode failed: {error}"))?;
    if read.name.is_empty() {
        return Err("Missing check name".to_owned());
    }
    read.validate()?;
    Ok((read, CheckBuilder))
}

/// Turns a definition into a check once its service is known.
pub(crate) struct CheckBuilder;

impl CheckBuilder {
    pub(crate) fn build(self, definition: Definition, service: Option<&Service>) -> Check {
        let id = match definition.id.as_str() {
            "" => definition.name.clone(),
            given => given.to_owned(),
        };
        let name = definition.name.clone();
        Check {
            by_itself: true,
            ..definition.into_check(service, id, name)
        }
    }
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
    default("LocalServiceAddress", json!("127.0.0.1"));
    default("LocalServicePort", json!(service.port));
    sidecar.proxy = Some(proxy);
    let checks = checks_of(&sidecar, &definitions)?;
    Ok((sidecar, checks))
}
