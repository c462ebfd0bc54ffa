//! `GET /v1/agent/service/<id>`: one registration on this agent, with hash-based blocking.
use super::error::{ReplyError, RequestError};
use super::json::{Object, Value};
use super::reply::HttpReply;
use super::request::{HttpRequest, MAX_REPLY, Method, Query, Target};

/// One registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentService {
    /// ID.
    pub id: String,
    /// Service name.
    pub name: String,
    /// `connect-proxy` and so on; empty for a plain service.
    pub kind: String,
    /// Address; empty for the node's.
    pub address: String,
    /// Port; 0 if none is set.
    pub port: u16,
    /// Unix socket in place of address and port; empty for none.
    pub socket_path: String,
    /// Whether it speaks the mesh's TLS itself.
    pub native: bool,
    /// For a proxy: the service behind it, and where it is reached.
    pub proxy: Option<ProxyInfo>,
    /// What the agent calls this state; opaque. Also the hash to block on.
    pub content_hash: String,
}

/// The part of a registration that only proxies have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyInfo {
    /// The service behind it.
    pub destination: String,
    /// That service's ID.
    pub destination_id: String,
    /// Where it is reached.
    pub local_address: String,
    /// Its port; 0 if none is set.
    pub local_port: u16,
    /// Its unix socket in place of both; empty for none.
    pub local_socket_path: String,
    /// `Mode`: empty, `direct` or `transparent`.
    pub mode: String,
    /// `MeshGateway.Mode`, for upstreams that do not say otherwise.
    pub mesh_gateway: String,
    /// What it may dial.
    pub upstreams: Vec<Upstream>,
    /// `Config`: settings that Consul hands on unread.
    pub config: Vec<Setting>,
    /// Whatever else is set.
    pub others: Vec<Setting>,
}

/// One thing that a proxy may dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// JSON pointer of this entry in the registration.
    pub pointer: String,
    /// `service` or `prepared_query`; empty for `service`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; empty for the default one.
    pub namespace: String,
    /// Its admin partition; empty for the default one.
    pub partition: String,
    /// The cluster peering through which it is reached; empty for none.
    pub peer: String,
    /// Its datacenter; empty for the agent's own.
    pub datacenter: String,
    /// Where the proxy listens for it; empty for loopback.
    pub bind_address: String,
    /// The port it listens on; 0 if none is set.
    pub bind_port: u16,
    /// The unix socket it listens on in place of both; empty for none.
    pub bind_socket_path: String,
    /// Permissions of that socket, in octal; empty for the usual ones.
    pub bind_socket_mode: String,
    /// `MeshGateway.Mode`.
    pub mesh_gateway: String,
    /// `Config`: settings that Consul hands on unread.
    pub config: Vec<Setting>,
    /// Whatever else is set.
    pub others: Vec<Setting>,
}

/// A setting that is not read here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its JSON pointer in the registration.
    pub pointer: String,
    /// Its name.
    pub name: String,
    /// Its value as JSON.
    pub json: String,
}

/// Asks for a registration; blocks on [`super::request::After::Hash`]. Needs `service:read`. 404 if there is none.
///
/// # Errors
/// [`RequestError`] for an ID that cannot be one.
pub fn request(id: &str, query: &Query) -> Result<HttpRequest, RequestError> {
    Ok(Target::new("/v1/agent/service")
        .segment("id", id)?
        .query(query)
        .request(Method::Get))
}

/// Reads the reply.
///
/// # Errors
/// See [`ReplyError`].
pub fn decode(reply: &HttpReply<'_>) -> Result<AgentService, ReplyError> {
    let top = reply.json(MAX_REPLY)?.object()?;
    let native = match top.optional("Connect")? {
        Some(connect) => connect
            .object()?
            .optional("Native")?
            .map_or(Ok(false), |native| native.boolean())?,
        None => false,
    };
    let proxy = match top.optional("Proxy")? {
        Some(proxy) => proxy_info(&proxy.object()?)?,
        None => None,
    };
    Ok(AgentService {
        id: top.required("ID")?.string()?,
        name: top.required("Service")?.string()?,
        kind: top.text("Kind")?,
        address: top.text("Address")?,
        port: port(&top, "Port")?,
        socket_path: top.text("SocketPath")?,
        native,
        proxy,
        content_hash: top.required("ContentHash")?.string()?,
    })
}

fn proxy_info(proxy: &Object<'_>) -> Result<Option<ProxyInfo>, ReplyError> {
    const READ: [&str; 9] = [
        "DestinationServiceName",
        "DestinationServiceID",
        "LocalServiceAddress",
        "LocalServicePort",
        "LocalServiceSocketPath",
        "Mode",
        "MeshGateway",
        "Upstreams",
        "Config",
    ];
    let destination = proxy.text("DestinationServiceName")?;
    if destination.is_empty() {
        return Ok(None);
    }
    Ok(Some(ProxyInfo {
        destination,
        destination_id: proxy.text("DestinationServiceID")?,
        local_address: proxy.text("LocalServiceAddress")?,
        local_port: port(proxy, "LocalServicePort")?,
        local_socket_path: proxy.text("LocalServiceSocketPath")?,
        mode: proxy.text("Mode")?,
        mesh_gateway: mesh_gateway(proxy)?,
        upstreams: proxy
            .list("Upstreams")?
            .iter()
            .map(upstream)
            .collect::<Result<_, _>>()?,
        config: config(proxy)?,
        others: others(proxy, &READ)?,
    }))
}

fn upstream(value: &Value<'_>) -> Result<Upstream, ReplyError> {
    const READ: [&str; 12] = [
        "DestinationType",
        "DestinationName",
        "DestinationNamespace",
        "DestinationPartition",
        "DestinationPeer",
        "Datacenter",
        "LocalBindAddress",
        "LocalBindPort",
        "LocalBindSocketPath",
        "LocalBindSocketMode",
        "MeshGateway",
        "Config",
    ];
    let upstream = value.object()?;
    Ok(Upstream {
        pointer: upstream.path().to_owned(),
        kind: upstream.text("DestinationType")?,
        name: upstream.required("DestinationName")?.string()?,
        namespace: upstream.text("DestinationNamespace")?,
        partition: upstream.text("DestinationPartition")?,
        peer: upstream.text("DestinationPeer")?,
        datacenter: upstream.text("Datacenter")?,
        bind_address: upstream.text("LocalBindAddress")?,
        bind_port: port(&upstream, "LocalBindPort")?,
        bind_socket_path: upstream.text("LocalBindSocketPath")?,
        bind_socket_mode: upstream.text("LocalBindSocketMode")?,
        mesh_gateway: mesh_gateway(&upstream)?,
        config: config(&upstream)?,
        others: others(&upstream, &READ)?,
    })
}

fn mesh_gateway(object: &Object<'_>) -> Result<String, ReplyError> {
    match object.optional("MeshGateway")? {
        Some(gateway) => gateway.object()?.text("Mode"),
        None => Ok(String::new()),
    }
}

/// The opaque settings.
fn config(object: &Object<'_>) -> Result<Vec<Setting>, ReplyError> {
    match object.optional("Config")? {
        Some(config) => others(&config.object()?, &[]),
        None => Ok(Vec::new()),
    }
}

/// The fields that are set and not among `read`.
fn others(object: &Object<'_>, read: &[&str]) -> Result<Vec<Setting>, ReplyError> {
    let mut found = Vec::new();
    for (name, values) in object.index() {
        if read.contains(&name) {
            continue;
        }
        let [value] = values.as_slice() else {
            return Err(ReplyError::Duplicate {
                field: object.pointer(name),
            });
        };
        if is_set(value)? {
            found.push(Setting {
                pointer: object.pointer(name),
                name: name.to_owned(),
                json: value.raw().to_owned(),
            });
        }
    }
    Ok(found)
}

/// Whether a value says something: Go writes empty structures where nothing was set.
fn is_set(value: &Value<'_>) -> Result<bool, ReplyError> {
    match value.raw() {
        "null" | "false" | "\"\"" | "0" => Ok(false),
        list if list.starts_with('[') => Ok(!value.list()?.is_empty()),
        object if object.starts_with('{') => {
            for value in value.object()?.index().values().flatten() {
                if is_set(value)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => Ok(true),
    }
}

/// A port; 0 if absent.
fn port(object: &Object<'_>, key: &str) -> Result<u16, ReplyError> {
    let Some(value) = object.optional(key)? else {
        return Ok(0);
    };
    u16::try_from(value.unsigned()?).map_err(|_| value.invalid("not a port"))
}

#[cfg(test)]
mod tests {
    use super::super::request::After;
    use super::*;
    use crate::agent::testing::ok;

    const PROXY: &str = r#"{"Kind":"connect-proxy","ID":"web-proxy","Service":"web-proxy","Tags":[],
        "Port":20000,"Address":"127.0.0.1","ContentHash":"2aa19b76b3d24a96",
        "Proxy":{"DestinationServiceName":"web","DestinationServiceID":"web",
        "LocalServiceAddress":"127.0.0.1","LocalServicePort":8080,"Upstreams":[
        {"DestinationType":"service","DestinationName":"db","LocalBindPort":9192,"MeshGateway":{}},
        {"DestinationType":"prepared_query","DestinationName":"q1","Datacenter":"dc1","LocalBindPort":9193}]}}"#;

    #[test]
    fn a_proxy_says_what_stands_behind_and_before_it() {
        let read = decode(&ok(PROXY)).unwrap();
        assert_eq!(
            (read.kind.as_str(), read.port, read.native),
            ("connect-proxy", 20000, false)
        );
        let proxy = read.proxy.unwrap();
        assert_eq!(
            (proxy.destination.as_str(), proxy.local_port),
            ("web", 8080)
        );
        assert_eq!(proxy.upstreams[0].name, "db");
        assert_eq!(
            (
                proxy.upstreams[1].datacenter.as_str(),
                proxy.upstreams[1].bind_port
            ),
            ("dc1", 9193)
        );
        assert!(decode(&ok(&PROXY.replace("9193", "-1"))).is_err());
        assert!(decode(&ok(&PROXY.replace("\"ContentHash\"", "\"contentHash\""))).is_err());
    }

    #[test]
    fn what_is_set_and_not_read_is_handed_on_by_name() {
        let body = r#"{"ID":"p","Service":"p","ContentHash":"1","Proxy":{"DestinationServiceName":"web",
            "Mode":"transparent","MeshGateway":{"Mode":"remote"},"Expose":{},"AccessLogs":{"Enabled":false},
            "TransparentProxy":{"DialedDirectly":true},"Config":{"bind_port":1,"off":false,"nothing":{}},
            "Upstreams":[{"DestinationName":"db","LocalBindPort":9,"IngressHosts":["h"],"DestinationPeer":"c",
            "Config":{"limits":{"max_connections":3}}}]}}"#;
        let proxy = decode(&ok(body)).unwrap().proxy.unwrap();
        let shown = |settings: &[Setting]| -> Vec<String> {
            let show = |setting: &Setting| format!("{}={}", setting.pointer, setting.json);
            settings.iter().map(show).collect()
        };
        assert_eq!(
            shown(&proxy.others),
            ["/Proxy/TransparentProxy={\"DialedDirectly\":true}"]
        );
        assert_eq!(shown(&proxy.config), ["/Proxy/Config/bind_port=1"]);
        let db = &proxy.upstreams[0];
        assert_eq!(
            shown(&db.others),
            ["/Proxy/Upstreams/0/IngressHosts=[\"h\"]"]
        );
        assert_eq!(
            shown(&db.config),
            ["/Proxy/Upstreams/0/Config/limits={\"max_connections\":3}"]
        );
        assert_eq!(
            (
                db.peer.as_str(),
                proxy.mode.as_str(),
                proxy.mesh_gateway.as_str()
            ),
            ("c", "transparent", "remote")
        );
        let twice = body.replace("\"off\"", "\"bind_port\"");
        assert!(matches!(
            decode(&ok(&twice)),
            Err(ReplyError::Duplicate { .. })
        ));
    }

    #[test]
    fn a_native_service_has_no_proxy_part() {
        let body = r#"{"ID":"r","Service":"redis","Port":8000,"ContentHash":"7730002e0bed13b",
            "Connect":{"Native":true},"Proxy":{"Mode":""}}"#;
        let read = decode(&ok(body)).unwrap();
        assert!(read.native && read.proxy.is_none());
    }

    #[test]
    fn blocking_goes_by_hash() {
        let query = Query::blocking(After::Hash("7730002e0bed13b".into()), 2000);
        assert_eq!(
            request("r", &query).unwrap().path_and_query,
            "/v1/agent/service/r?hash=7730002e0bed13b&wait=2000ms"
        );
    }
}
