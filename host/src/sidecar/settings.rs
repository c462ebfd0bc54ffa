//! What a proxy's registration says, as settings of our proxy.
//!
//! Every field is honoured or refused by name; `host/OPERATIONS.md` has the table.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use portcullis_core::agent::service::{AgentService, ProxyInfo, Setting, Upstream};
use portcullis_core::identity::ServiceName;
use portcullis_core::intention::Protocol;

use super::opaque::{ProxySettings, UpstreamSettings};
use super::refused::{Refused, dotted};
use crate::connector;
use crate::proxy::{
    Application, InboundConfig, Limits, ListenAddress, Listening, ProxyHeader, Trusted,
    UpstreamConfig,
};

/// A registration that can be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The service whose identity the proxy has.
    pub service: String,
    /// Its listeners.
    pub listening: Listening,
    /// What the service speaks; the agent's config entries say it if absent.
    pub protocol: Option<Protocol>,
}

/// What holds where a registration says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usual {
    /// Limits.
    pub limits: Limits,
    /// As in [`InboundConfig`].
    pub accept_proxy: Option<Trusted>,
    /// As in [`InboundConfig`].
    pub send_proxy: Option<ProxyHeader>,
    /// Permissions of the sockets of upstreams.
    pub socket_mode: Option<u32>,
    /// What the service speaks.
    pub protocol: Option<Protocol>,
}

impl Settings {
    /// Reads a registration. `usual` holds where it says nothing.
    ///
    /// # Errors
    /// Everything in it that cannot be done.
    pub fn read(registered: &AgentService, usual: &Usual) -> Result<Self, Vec<Refused>> {
        let proxy = match &registered.proxy {
            Some(proxy) if registered.kind == "connect-proxy" => proxy,
            _ => {
                let kind = match registered.kind.as_str() {
                    "" => "a service".to_owned(),
                    kind => format!("of the kind `{kind}`"),
                };
                return Err(vec![Refused::new(
                    "Kind",
                    format!("says that `{}` is {kind}, not a proxy", registered.id),
                    "name the ID of a `connect-proxy`, or the service itself with -sidecar-for",
                )]);
            }
        };
        let mut refused = Vec::new();
        let settings = whole(registered, proxy, usual, &mut refused);
        match settings {
            Some(settings) if refused.is_empty() => Ok(settings),
            _ => Err(refused),
        }
    }
}

fn whole(
    registered: &AgentService,
    proxy: &ProxyInfo,
    usual: &Usual,
    refused: &mut Vec<Refused>,
) -> Option<Settings> {
    let limits = &usual.limits;
    let opaque = ProxySettings::read(&proxy.config, refused);
    if let Err(error) = ServiceName::parse(&proxy.destination) {
        refused.push(Refused::new(
            "Proxy.DestinationServiceName",
            format!("cannot be a service: {error}"),
            "name the service that the proxy stands for",
        ));
    }
    if !matches!(proxy.mode.as_str(), "" | "direct") {
        refused.push(Refused::new(
            "Proxy.Mode",
            format!("is `{}`: traffic is not captured", proxy.mode),
            "set it to `direct`, and give each upstream a LocalBindPort",
        ));
    }
    gateway("Proxy.MeshGateway.Mode", &proxy.mesh_gateway, refused);
    refused.extend(proxy.others.iter().map(other));
    if !registered.socket_path.is_empty() {
        refused.push(Refused::new(
            "SocketPath",
            "is set: other services reach this one by TCP only",
            "give Address and Port instead",
        ));
    }
    let upstreams: Vec<UpstreamConfig> = proxy
        .upstreams
        .iter()
        .filter_map(|one| upstream(one, refused))
        .map(|upstream| UpstreamConfig {
            socket_mode: upstream.socket_mode.or(usual.socket_mode),
            // `max_inbound_connections` is not meant for them.
            connections: upstream.connections.or(Some(limits.connections)),
            ..upstream
        })
        .collect();
    let application = application(proxy, &opaque, refused);
    let inbound = match application {
        Some(application) => Some(InboundConfig {
            accept_proxy: usual.accept_proxy.clone(),
            send_proxy: usual.send_proxy,
            ..InboundConfig::new(listen(registered, &opaque, refused)?, application)
        }),
        None => None,
    };
    if inbound.is_none() && upstreams.is_empty() && refused.is_empty() {
        refused.push(Refused::new(
            "Proxy",
            "names neither a LocalServicePort nor Upstreams: there is nothing to do",
            "say where the application listens, or what it calls",
        ));
    }
    Some(Settings {
        service: proxy.destination.clone(),
        listening: Listening {
            inbound,
            upstreams,
            limits: Limits {
                handshake: opaque.handshake_timeout.unwrap_or(limits.handshake),
                connect: opaque.local_connect_timeout.unwrap_or(limits.connect),
                connections: opaque.max_inbound_connections.unwrap_or(limits.connections),
                ..limits.clone()
            },
        },
        protocol: opaque.protocol.or(usual.protocol),
    })
}

/// Where the application listens; nowhere if nothing is said about it.
fn application(
    proxy: &ProxyInfo,
    opaque: &ProxySettings,
    refused: &mut Vec<Refused>,
) -> Option<Application> {
    if let Some(address) = &opaque.local_service_address {
        return Some(Application::Tcp(address.clone()));
    }
    if !proxy.local_socket_path.is_empty() {
        if proxy.local_port != 0 {
            refused.push(Refused::new(
                "Proxy.LocalServiceSocketPath",
                "stands beside LocalServicePort",
                "give one of them",
            ));
        }
        let path = PathBuf::from(&proxy.local_socket_path);
        return Some(Application::Unix(path));
    }
    if proxy.local_port == 0 {
        return None;
    }
    let host = match proxy.local_address.as_str() {
        "" => "127.0.0.1",
        given => given,
    };
    let plain = |host: &str| {
        host.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    match host.parse::<IpAddr>() {
        Ok(ip) => {
            let address = SocketAddr::new(ip, proxy.local_port);
            Some(Application::Tcp(address.to_string()))
        }
        Err(_) if plain(host) => Some(Application::Tcp(format!("{host}:{}", proxy.local_port))),
        Err(_) => {
            refused.push(Refused::new(
                "Proxy.LocalServiceAddress",
                format!("is `{}`", crate::escape::visible(host, 80)),
                "write an IP address or a host name",
            ));
            None
        }
    }
}

/// Where the mesh is accepted.
fn listen(
    registered: &AgentService,
    opaque: &ProxySettings,
    refused: &mut Vec<Refused>,
) -> Option<SocketAddr> {
    let ip = match (opaque.bind_address, registered.address.as_str()) {
        (Some(ip), _) => Some(ip),
        (None, "") => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        (None, address) => address.parse().ok(),
    };
    if ip.is_none() {
        refused.push(Refused::new(
            "Address",
            format!(
                "is `{}`, which is no IP address to listen on",
                crate::escape::visible(&registered.address, 80)
            ),
            "say by `bind_address` in the proxy's Config where to listen",
        ));
    }
    let port = opaque.bind_port.unwrap_or(registered.port);
    if port == 0 && registered.socket_path.is_empty() {
        refused.push(Refused::new(
            "Port",
            "is missing",
            "register the proxy with the port that the mesh reaches",
        ));
    }
    Some(SocketAddr::new(ip?, port))
}

fn upstream(one: &Upstream, refused: &mut Vec<Refused>) -> Option<UpstreamConfig> {
    let before = refused.len();
    let at = |name: &str| format!("{}.{name} (`{}`)", dotted(&one.pointer), one.name);
    let opaque = UpstreamSettings::read(&one.config, refused);
    match one.kind.as_str() {
        "" | "service" => {}
        "prepared_query" => refused.push(Refused::new(
            at("DestinationType"),
            "is `prepared_query`, which is not supported",
            "name the service itself",
        )),
        kind => refused.push(Refused::new(
            at("DestinationType"),
            format!("is `{kind}`"),
            "set it to `service`",
        )),
    }
    for (field, value) in [
        ("DestinationNamespace", &one.namespace),
        ("DestinationPartition", &one.partition),
    ] {
        if !matches!(value.as_str(), "" | "default") {
            refused.push(Refused::new(
                at(field),
                format!("is `{value}`: only `default` is supported"),
                "remove it",
            ));
        }
    }
    if !one.peer.is_empty() {
        refused.push(Refused::new(
            at("DestinationPeer"),
            format!("is `{}`: cluster peerings are not supported", one.peer),
            "remove the upstream, or use Envoy for it",
        ));
    }
    gateway(&at("MeshGateway.Mode"), &one.mesh_gateway, refused);
    refused.extend(one.others.iter().map(other));
    if one.name == "*" {
        refused.push(Refused::new(
            at("DestinationName"),
            "stands for every service, as transparent proxies have it",
            "name the service",
        ));
    } else if let Err(error) = ServiceName::parse(&one.name) {
        refused.push(Refused::new(
            at("DestinationName"),
            format!("cannot be a service: {error}"),
            "name the service",
        ));
    }
    let listen = door(one, &at, refused);
    let socket_mode = mode(one, &at, refused);
    if refused.len() > before {
        return None;
    }
    Some(UpstreamConfig {
        upstream: connector::Upstream::Service {
            name: one.name.clone(),
            datacenter: Some(one.datacenter.clone()).filter(|name| !name.is_empty()),
        },
        listen: listen?,
        socket_mode,
        connect: opaque.connect_timeout,
        connections: opaque.max_connections,
        protocol: opaque.protocol,
    })
}

/// Where the application reaches an upstream.
fn door(
    one: &Upstream,
    at: &impl Fn(&str) -> String,
    refused: &mut Vec<Refused>,
) -> Option<ListenAddress> {
    if !one.bind_socket_path.is_empty() {
        if one.bind_port != 0 {
            refused.push(Refused::new(
                at("LocalBindSocketPath"),
                "stands beside LocalBindPort",
                "give one of them",
            ));
        }
        return Some(ListenAddress::Unix(PathBuf::from(&one.bind_socket_path)));
    }
    if one.bind_port == 0 {
        refused.push(Refused::new(
            at("LocalBindPort"),
            "is missing",
            "say on which port, or by LocalBindSocketPath on which socket, the application reaches it",
        ));
        return None;
    }
    let ip = match one.bind_address.as_str() {
        "" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        address => address.parse().ok(),
    };
    if ip.is_none() {
        refused.push(Refused::new(
            at("LocalBindAddress"),
            format!("is `{}`", crate::escape::visible(&one.bind_address, 80)),
            "write an IP address of this machine",
        ));
    }
    Some(ListenAddress::Tcp(SocketAddr::new(ip?, one.bind_port)))
}

/// Permissions of an upstream's socket file.
fn mode(one: &Upstream, at: &impl Fn(&str) -> String, refused: &mut Vec<Refused>) -> Option<u32> {
    let text = one.bind_socket_mode.as_str();
    if text.is_empty() {
        return None;
    }
    let octal = text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| octal && *mode <= 0o777);
    if mode.is_none() {
        refused.push(Refused::new(
            at("LocalBindSocketMode"),
            format!("is `{}`", crate::escape::visible(text, 80)),
            "write permissions in octal, such as `0660`",
        ));
    }
    mode
}

fn gateway(field: &str, mode: &str, refused: &mut Vec<Refused>) {
    if !matches!(mode, "" | "none") {
        refused.push(Refused::new(
            field,
            format!("is `{mode}`: mesh gateways are not supported"),
            "set it to `none`, here or in proxy-defaults and service-defaults",
        ));
    }
}

/// A field that nothing here does.
fn other(setting: &Setting) -> Refused {
    let field = dotted(&setting.pointer);
    let name = setting.name.as_str();
    let (problem, remedy) = match name {
        "TransparentProxy" => (
            "is set: traffic is not captured",
            "remove it, and give each upstream a LocalBindPort",
        ),
        "Expose" => (
            "is set: paths are not exposed outside of the mesh",
            "check the application on its own port, or by a TTL or TCP check",
        ),
        "AccessLogs" => (
            "is set: the access log is part of this proxy's own log",
            "remove it, and use -log-json and -log-level",
        ),
        "EnvoyExtensions" => (
            "is set: it configures Envoy, which this is not",
            "remove it",
        ),
        "MutualTLSMode" if setting.json != "\"permissive\"" => ("is set", "set it to `strict`"),
        "MutualTLSMode" => (
            "is `permissive`: connections without mTLS are never let in",
            "set it to `strict`",
        ),
        "IngressHosts" => ("is for ingress gateways", "remove it"),
        "CentrallyConfigured" => (
            "says that the upstream comes from central configuration alone",
            "name it in the registration, with a LocalBindPort",
        ),
        _ => ("is not known", "correct its name, or remove it"),
    };
    Refused::new(field, problem, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_core::agent::{HttpReply, ReplyHeaders, service};
    use serde_json::{Value, json};

    fn read(registration: &Value) -> Result<Settings, Vec<Refused>> {
        let body = registration.to_string();
        let reply = HttpReply {
            status: 200,
            headers: ReplyHeaders::default(),
            body: body.as_bytes(),
        };
        let registered = service::decode(&reply).expect("a registration");
        Settings::read(&registered, &Usual::default())
    }

    fn base() -> Value {
        json!({
            "Kind": "connect-proxy", "ID": "web-sidecar-proxy", "Service": "web-sidecar-proxy",
            "Address": "", "Port": 21000, "ContentHash": "1",
            "Proxy": {
                "DestinationServiceName": "web", "DestinationServiceID": "web1",
                "LocalServiceAddress": "127.0.0.1", "LocalServicePort": 8080,
                "MeshGateway": {}, "Expose": {},
                "Upstreams": [
                    {"DestinationType": "service", "DestinationName": "db", "LocalBindPort": 9191, "MeshGateway": {}},
                    {"DestinationName": "cache", "Datacenter": "dc2", "LocalBindSocketPath": "/run/c.sock", "LocalBindSocketMode": "0700",
                     "Config": {"connect_timeout_ms": 100, "limits": {"max_connections": 3}}}
                ]
            }
        })
    }

    /// Sets a value by pointer.
    fn with(pointer: &str, value: Value) -> Value {
        let mut base = base();
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        let parent = base.pointer_mut(parent).expect("a parent");
        parent[name] = value;
        base
    }

    #[test]
    fn what_consul_shows_becomes_listeners() {
        let settings = read(&base()).unwrap();
        assert_eq!(settings.service, "web");
        let inbound = settings.listening.inbound.unwrap();
        assert_eq!(inbound.listen.to_string(), "0.0.0.0:21000");
        assert_eq!(inbound.application.to_string(), "127.0.0.1:8080");
        let shown: Vec<String> = settings
            .listening
            .upstreams
            .iter()
            .map(|one| {
                format!(
                    "{:?} {} {:?} {:?} {:?}",
                    one.upstream, one.listen, one.socket_mode, one.connect, one.connections
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                r#"Service { name: "db", datacenter: None } 127.0.0.1:9191 None None Some(16384)"#,
                r#"Service { name: "cache", datacenter: Some("dc2") } unix:/run/c.sock Some(448) Some(100ms) Some(3)"#,
            ]
        );
    }

    #[test]
    fn where_it_listens_and_calls() {
        let inbound = |pointer, value| read(&with(pointer, value)).unwrap().listening.inbound;
        let bound = inbound(
            "/Proxy/Config",
            json!({"bind_address": "127.0.0.2", "bind_port": 7}),
        )
        .unwrap();
        assert_eq!(bound.listen.to_string(), "127.0.0.2:7");
        let bound = inbound("/Address", json!("::1")).unwrap();
        assert_eq!(bound.listen.to_string(), "[::1]:21000");
        let called = |pointer, value| inbound(pointer, value).unwrap().application.to_string();
        assert_eq!(
            called("/Proxy/LocalServiceAddress", json!("")),
            "127.0.0.1:8080"
        );
        assert_eq!(
            called("/Proxy/LocalServiceAddress", json!("::1")),
            "[::1]:8080"
        );
        assert_eq!(
            called("/Proxy/LocalServiceAddress", json!("app")),
            "app:8080"
        );
        assert_eq!(
            called(
                "/Proxy/Config",
                json!({"local_service_address": "10.0.0.1:5"})
            ),
            "10.0.0.1:5"
        );
        let mut socket = with("/Proxy/LocalServicePort", json!(0));
        assert!(
            read(&socket).unwrap().listening.inbound.is_none(),
            "outbound only"
        );
        socket["Proxy"]["LocalServiceSocketPath"] = json!("/run/app.sock");
        let inbound = read(&socket).unwrap().listening.inbound.unwrap();
        assert_eq!(inbound.application.to_string(), "unix:/run/app.sock");
        let limited = read(&with("/Proxy/Config", json!({"max_inbound_connections": 9, "handshake_timeout_ms": 11, "local_connect_timeout_ms": 12}))).unwrap();
        let limits = &limited.listening.limits;
        let upstreams = &limited.listening.upstreams;
        assert_eq!(upstreams[0].connections, Some(16_384), "not for upstreams");
        assert_eq!(
            (
                limits.connections,
                limits.handshake.as_millis(),
                limits.connect.as_millis()
            ),
            (9, 11, 12)
        );
    }

    #[test]
    fn whatever_cannot_be_done_is_refused_by_name() {
        for (pointer, value, field) in [
            ("/Kind", json!(""), "Kind"),
            ("/Kind", json!("mesh-gateway"), "Kind"),
            ("/Address", json!("public.example"), "Address"),
            ("/Port", json!(0), "Port"),
            ("/SocketPath", json!("/run/mesh.sock"), "SocketPath"),
            (
                "/Proxy/DestinationServiceName",
                json!("a/b"),
                "Proxy.DestinationServiceName",
            ),
            (
                "/Proxy/LocalServiceAddress",
                json!("a b"),
                "Proxy.LocalServiceAddress",
            ),
            (
                "/Proxy/LocalServiceSocketPath",
                json!("/x"),
                "Proxy.LocalServiceSocketPath",
            ),
            ("/Proxy/Mode", json!("transparent"), "Proxy.Mode"),
            (
                "/Proxy/TransparentProxy",
                json!({"OutboundListenerPort": 15001}),
                "Proxy.TransparentProxy",
            ),
            (
                "/Proxy/MeshGateway",
                json!({"Mode": "local"}),
                "Proxy.MeshGateway.Mode",
            ),
            ("/Proxy/Expose", json!({"Checks": true}), "Proxy.Expose"),
            (
                "/Proxy/Expose",
                json!({"Paths": [{"Path": "/h"}]}),
                "Proxy.Expose",
            ),
            (
                "/Proxy/AccessLogs",
                json!({"Enabled": true}),
                "Proxy.AccessLogs",
            ),
            (
                "/Proxy/EnvoyExtensions",
                json!([{"Name": "x"}]),
                "Proxy.EnvoyExtensions",
            ),
            (
                "/Proxy/MutualTLSMode",
                json!("permissive"),
                "Proxy.MutualTLSMode",
            ),
            ("/Proxy/Future", json!(1), "Proxy.Future"),
            (
                "/Proxy/Config",
                json!({"protocol": "kafka"}),
                "Proxy.Config.protocol",
            ),
            ("/Proxy/Config", json!({"nope": 1}), "Proxy.Config.nope"),
        ] {
            let refused = read(&with(pointer, value.clone())).unwrap_err();
            assert_eq!(refused.len(), 1, "{refused:?}");
            assert_eq!(refused[0].field, field, "{pointer} {value}");
            assert!(!refused[0].remedy.is_empty());
        }
        for (name, value, field) in [
            (
                "DestinationType",
                json!("prepared_query"),
                "DestinationType",
            ),
            ("DestinationType", json!("other"), "DestinationType"),
            ("DestinationName", json!("*"), "DestinationName"),
            ("DestinationName", json!("a/b"), "DestinationName"),
            ("DestinationNamespace", json!("n"), "DestinationNamespace"),
            ("DestinationPartition", json!("p"), "DestinationPartition"),
            ("DestinationPeer", json!("c"), "DestinationPeer"),
            ("LocalBindAddress", json!("localhost"), "LocalBindAddress"),
            ("LocalBindPort", json!(0), "LocalBindPort"),
            ("LocalBindSocketPath", json!("/x"), "LocalBindSocketPath"),
            ("LocalBindSocketMode", json!("0888"), "LocalBindSocketMode"),
            ("LocalBindSocketMode", json!("7777"), "LocalBindSocketMode"),
            ("MeshGateway", json!({"Mode": "remote"}), "MeshGateway.Mode"),
        ] {
            let refused =
                read(&with(&format!("/Proxy/Upstreams/0/{name}"), value.clone())).unwrap_err();
            assert_eq!(refused.len(), 1, "{refused:?}");
            let shown = &refused[0].field;
            assert!(
                shown.starts_with(&format!("Proxy.Upstreams[0].{field} (`")),
                "{shown} {value}"
            );
        }
        for (name, value, field) in [
            (
                "IngressHosts",
                json!(["h"]),
                "Proxy.Upstreams[1].IngressHosts",
            ),
            (
                "CentrallyConfigured",
                json!(true),
                "Proxy.Upstreams[1].CentrallyConfigured",
            ),
            (
                "Config",
                json!({"passive_health_check": {"max_failures": 1}}),
                "Proxy.Upstreams[1].Config.passive_health_check",
            ),
        ] {
            let refused = read(&with(&format!("/Proxy/Upstreams/1/{name}"), value)).unwrap_err();
            assert_eq!((refused.len(), refused[0].field.as_str()), (1, field));
        }
        let mut nothing = with("/Proxy/LocalServicePort", json!(0));
        nothing["Proxy"]["Upstreams"] = json!([]);
        assert_eq!(read(&nothing).unwrap_err()[0].field, "Proxy");
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let mut several = with("/Proxy/Mode", json!("transparent"));
        several["Proxy"]["Config"] = json!({"protocol": "kafka", "envoy_x": "1"});
        several["Proxy"]["Upstreams"][0]["DestinationPeer"] = json!("c");
        assert_eq!(read(&several).unwrap_err().len(), 4);
    }
}
