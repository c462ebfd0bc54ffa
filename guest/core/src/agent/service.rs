//! `GET /v1/agent/service/<id>`: one registration on this agent, with hash-based blocking.
use super::error::{ReplyError, RequestError};
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
    /// Port.
    pub port: u16,
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
    /// What it may dial.
    pub upstreams: Vec<Upstream>,
}

/// One thing that a proxy may dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// `service` or `prepared_query`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its datacenter; empty for the agent's own.
    pub datacenter: String,
    /// Where the proxy listens for it; empty for loopback.
    pub bind_address: String,
    /// The port it listens on.
    pub bind_port: u16,
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
        native,
        proxy,
        content_hash: top.required("ContentHash")?.string()?,
    })
}

fn proxy_info(proxy: &super::json::Object<'_>) -> Result<Option<ProxyInfo>, ReplyError> {
    let destination = proxy.text("DestinationServiceName")?;
    if destination.is_empty() {
        return Ok(None);
    }
    let mut upstreams = Vec::new();
    for item in proxy.list("Upstreams")? {
        let upstream = item.object()?;
        upstreams.push(Upstream {
            kind: upstream.text("DestinationType")?,
            name: upstream.required("DestinationName")?.string()?,
            datacenter: upstream.text("Datacenter")?,
            bind_address: upstream.text("LocalBindAddress")?,
            bind_port: port(&upstream, "LocalBindPort")?,
        });
    }
    Ok(Some(ProxyInfo {
        destination,
        destination_id: proxy.text("DestinationServiceID")?,
        local_address: proxy.text("LocalServiceAddress")?,
        local_port: port(proxy, "LocalServicePort")?,
        upstreams,
    }))
}

/// A port; 0 if absent.
fn port(object: &super::json::Object<'_>, key: &str) -> Result<u16, ReplyError> {
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
