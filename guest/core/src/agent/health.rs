//! `GET /v1/health/connect/<service>`: where a service can be reached, and who answers there.
use super::error::{ReplyError, RequestError};
use super::json::{Object, Value};
use super::reply::HttpReply;
use super::request::{HttpRequest, MAX_REPLY, Method, Query, Target};

/// The worst of an instance's checks and its node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// All pass, or there are none.
    Passing,
    /// Some warn.
    Warning,
    /// Some are critical, in maintenance, or in a state that is not known here.
    Critical,
}

/// One instance that speaks the mesh's TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Node name.
    pub node: String,
    /// Service ID on that node.
    pub id: String,
    /// Address: the service's, or if that is empty the node's.
    pub address: String,
    /// Port.
    pub port: u16,
    /// Whether the application itself speaks TLS; else it is a proxy in front of it.
    pub native: bool,
    /// The service that its certificate must name.
    pub service: String,
    /// That service's namespace.
    pub namespace: String,
    /// That service's admin partition.
    pub partition: String,
    /// The datacenter that its certificate must name.
    pub datacenter: String,
    /// The cluster peering it was imported through; empty for none.
    pub peer: String,
    /// Health.
    pub health: Health,
    /// Weight for its health; 0 takes no new connections.
    pub weight: u32,
}

/// What could be read of the reply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Instances {
    /// In the order of the reply.
    pub all: Vec<Instance>,
    /// Entries that could not be read and are left out.
    pub refused: Vec<ReplyError>,
}

impl Instances {
    /// Those that may take connections: passing ones, and warning ones as Consul's DNS does.
    pub fn usable(&self) -> impl Iterator<Item = &Instance> {
        self.all
            .iter()
            .filter(|i| i.health < Health::Critical && i.weight > 0)
    }
}

/// Asks for the instances of `service` that speak the mesh's TLS, healthy or not. Needs
/// `service:read`; without it the reply may be 403 or an empty list.
///
/// # Errors
/// [`RequestError`] for a name that cannot be one.
pub fn request(service: &str, query: &Query) -> Result<HttpRequest, RequestError> {
    Ok(Target::new("/v1/health/connect")
        .segment("service", service)?
        .query(query)
        .request(Method::Get))
}

/// Reads the reply. An entry that cannot be read is left out and reported.
///
/// # Errors
/// See [`ReplyError`]; for what makes the whole reply unusable.
pub fn decode(reply: &HttpReply<'_>) -> Result<Instances, ReplyError> {
    let mut instances = Instances::default();
    for entry in reply.json(MAX_REPLY)?.list()? {
        match instance(&entry) {
            Ok(instance) => instances.all.push(instance),
            Err(error) => instances.refused.push(error),
        }
    }
    Ok(instances)
}

fn instance(entry: &Value<'_>) -> Result<Instance, ReplyError> {
    let entry = entry.object()?;
    let node = entry.required("Node")?.object()?;
    let service = entry.required("Service")?.object()?;
    let health = health(&entry)?;
    let address = match service.text("Address")? {
        own if own.is_empty() => node.required("Address")?.string()?,
        own => own,
    };
    let native = match service.optional("Connect")? {
        Some(connect) => connect
            .object()?
            .optional("Native")?
            .map_or(Ok(false), |native| native.boolean())?,
        None => false,
    };
    let identity = if native {
        service.required("Service")?
    } else {
        service
            .required("Proxy")?
            .object()?
            .required("DestinationServiceName")?
    };
    let name = identity.string()?;
    if name.is_empty() {
        return Err(identity.invalid("empty: not an instance of the mesh"));
    }
    let or_default = |key: &str| -> Result<String, ReplyError> {
        Ok(match service.text(key)? {
            empty if empty.is_empty() => "default".to_owned(),
            given => given,
        })
    };
    let port = service.required("Port")?;
    let number = port.unsigned()?;
    Ok(Instance {
        node: node.text("Node")?,
        id: service.text("ID")?,
        address,
        port: u16::try_from(number)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| port.invalid("not a port"))?,
        native,
        service: name,
        namespace: or_default("Namespace")?,
        partition: or_default("Partition")?,
        datacenter: node.required("Datacenter")?.string()?,
        peer: service.text("PeerName")?,
        health,
        weight: weight(&service, health)?,
    })
}

fn health(entry: &Object<'_>) -> Result<Health, ReplyError> {
    let mut worst = Health::Passing;
    for check in entry.list("Checks")? {
        worst = worst.max(
            match check.object()?.required("Status")?.string()?.as_str() {
                "passing" => Health::Passing,
                "warning" => Health::Warning,
                _ => Health::Critical,
            },
        );
    }
    Ok(worst)
}

/// 1 where nothing else is said, as Consul has it.
fn weight(service: &Object<'_>, health: Health) -> Result<u32, ReplyError> {
    let key = match health {
        Health::Passing => "Passing",
        Health::Warning => "Warning",
        Health::Critical => return Ok(0),
    };
    let Some(weights) = service.optional("Weights")? else {
        return Ok(1);
    };
    let Some(weight) = weights.object()?.optional(key)? else {
        return Ok(1);
    };
    Ok(u32::try_from(weight.unsigned()?).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::ok;

    const NATIVE: &str = r#"{"Node":{"Node":"node-a","Address":"127.0.0.1","Datacenter":"dc1"},
        "Service":{"ID":"redis","Service":"redis","Tags":[],"Address":"","Port":8000,
        "Weights":{"Passing":3,"Warning":1},"Proxy":{"Mode":""},"Connect":{"Native":true},"PeerName":""},
        "Checks":[{"Status":"passing"}]}"#;
    const PROXY: &str = r#"{"Node":{"Node":"node-b","Address":"10.0.0.2","Datacenter":"dc2"},
        "Service":{"Kind":"connect-proxy","ID":"redis-proxy","Service":"redis-proxy","Address":"10.9.9.9",
        "Port":20000,"Proxy":{"DestinationServiceName":"redis"},"Connect":{}},
        "Checks":[{"Status":"passing"},{"Status":"warning"}]}"#;

    #[test]
    fn an_instance_says_who_answers_there() {
        let body = format!("[{NATIVE},{PROXY}]");
        let read = decode(&ok(&body)).unwrap();
        let [native, proxy] = read.all.as_slice() else {
            panic!("{read:?}")
        };
        assert_eq!((native.address.as_str(), native.port), ("127.0.0.1", 8000));
        assert_eq!(
            (native.service.as_str(), native.datacenter.as_str()),
            ("redis", "dc1")
        );
        assert_eq!(
            (native.weight, native.health, native.native),
            (3, Health::Passing, true)
        );
        assert_eq!((proxy.address.as_str(), proxy.port), ("10.9.9.9", 20000));
        assert_eq!(
            (proxy.service.as_str(), proxy.namespace.as_str()),
            ("redis", "default")
        );
        assert_eq!(
            (proxy.weight, proxy.health, proxy.native),
            (1, Health::Warning, false)
        );
        assert_eq!(read.usable().count(), 2);
    }

    #[test]
    fn one_bad_entry_harms_no_other() {
        for (from, to, field) in [
            ("\"Port\":8000", "\"Port\":0", "/1/Service/Port"),
            ("\"Port\":8000", "\"Port\":70000", "/1/Service/Port"),
            (
                "\"Native\":true",
                "\"Native\":\"true\"",
                "/1/Service/Connect/Native",
            ),
            (
                "\"Native\":true",
                "\"Native\":false",
                "/1/Service/Proxy/DestinationServiceName",
            ),
            (
                "\"Datacenter\":\"dc1\"",
                "\"datacenter\":\"dc1\"",
                "/1/Node/Datacenter",
            ),
            (
                "\"Service\":\"redis\"",
                "\"Service\":\"\"",
                "/1/Service/Service",
            ),
            ("\"passing\"", "7", "/1/Checks/0/Status"),
        ] {
            let broken = NATIVE.replace(from, to);
            assert_ne!(broken, NATIVE);
            let body = format!("[{PROXY},{broken}]");
            let read = decode(&ok(&body)).unwrap();
            assert_eq!(read.all.len(), 1);
            let error = read.refused[0].to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn critical_and_unknown_states_take_nothing() {
        for state in ["critical", "maintenance", "Passing", ""] {
            let body = format!("[{}]", NATIVE.replace("\"passing\"", &format!("{state:?}")));
            let read = decode(&ok(&body)).unwrap();
            assert_eq!(read.all.len(), 1);
            assert_eq!(read.usable().count(), 0, "{state}");
        }
        assert_eq!(decode(&ok("[]")).unwrap(), Instances::default());
        assert_eq!(decode(&ok("null")).unwrap(), Instances::default());
        assert!(decode(&ok("{}")).is_err());
    }
}
