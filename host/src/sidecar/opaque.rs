//! The opaque settings of a proxy and of its upstreams: the maps called `Config`, which
//! Consul hands on unread, with what `proxy-defaults` and `service-defaults` add.
//!
//! Each is honoured or refused by name. A number may come as text, as Consul's own
//! reader takes it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portcullis_core::agent::service::Setting;
use portcullis_core::intention::Protocol;
use serde_json::Value;

use super::refused::{Refused, dotted};

/// What a proxy's own map says.
#[derive(Debug, Default)]
pub(super) struct ProxySettings {
    pub(super) bind_address: Option<IpAddr>,
    pub(super) bind_port: Option<u16>,
    pub(super) local_service_address: Option<String>,
    pub(super) local_connect_timeout: Option<Duration>,
    pub(super) handshake_timeout: Option<Duration>,
    pub(super) max_inbound_connections: Option<usize>,
    pub(super) protocol: Option<Protocol>,
}

/// What an upstream's map says.
#[derive(Debug, Default)]
pub(super) struct UpstreamSettings {
    pub(super) connect_timeout: Option<Duration>,
    pub(super) max_connections: Option<usize>,
    pub(super) protocol: Option<Protocol>,
}

const FOR_ENVOY: &str = "configures Envoy, which this is not";
const REMOVE: &str = "remove it, here or in proxy-defaults and service-defaults";

impl ProxySettings {
    /// Reads the map; what cannot be done goes to `refused`.
    pub(super) fn read(settings: &[Setting], refused: &mut Vec<Refused>) -> Self {
        let mut read = Self::default();
        for setting in settings {
            let one = One(setting);
            let outcome = match setting.name.as_str() {
                "bind_address" => one.ip().map(|ip| read.bind_address = Some(ip)),
                "bind_port" => one.number(65_535).map(|port| {
                    read.bind_port = u16::try_from(port).ok();
                }),
                "local_service_address" => one
                    .host_and_port()
                    .map(|address| read.local_service_address = Some(address)),
                "local_connect_timeout_ms" => one
                    .millis()
                    .map(|timeout| read.local_connect_timeout = Some(timeout)),
                "handshake_timeout_ms" => one
                    .millis()
                    .map(|timeout| read.handshake_timeout = Some(timeout)),
                "max_inbound_connections" => one.number(u64::from(u32::MAX)).map(|most| {
                    read.max_inbound_connections = usize::try_from(most).ok();
                }),
                "protocol" => one.protocol().map(|protocol| read.protocol = protocol),
                "local_request_timeout_ms" | "local_idle_timeout_ms" => Err(one.refused(
                    "is not supported: the application says how long a request may last",
                    REMOVE,
                )),
                "balance_inbound_connections" => Err(one.refused(
                    "is not supported: connections are spread over all cores anyway",
                    REMOVE,
                )),
                name if name.starts_with("envoy_") || name == "xds_fetch_timeout_ms" => {
                    Err(one.refused(FOR_ENVOY, REMOVE))
                }
                _ => Err(one.unknown()),
            };
            refused.extend(outcome.err());
        }
        read
    }
}

impl UpstreamSettings {
    /// Reads the map; what cannot be done goes to `refused`.
    pub(super) fn read(settings: &[Setting], refused: &mut Vec<Refused>) -> Self {
        let mut read = Self::default();
        for setting in settings {
            let one = One(setting);
            let outcome = match setting.name.as_str() {
                "connect_timeout_ms" => one
                    .millis()
                    .map(|timeout| read.connect_timeout = Some(timeout)),
                "protocol" => one.protocol().map(|protocol| read.protocol = protocol),
                "limits" => one.limits(refused).map(|most| read.max_connections = most),
                "passive_health_check" => Err(one.refused(
                    "is not supported: each connection tries up to eight instances, and skips those that do not answer",
                    REMOVE,
                )),
                "mesh_gateway" => one.direct_gateway(),
                "balance_outbound_connections" => Err(one.refused(
                    "is not supported: connections are spread over all cores anyway",
                    REMOVE,
                )),
                name if name.starts_with("envoy_") => Err(one.refused(FOR_ENVOY, REMOVE)),
                _ => Err(one.unknown()),
            };
            refused.extend(outcome.err());
        }
        read
    }
}

/// One setting.
struct One<'a>(&'a Setting);

impl One<'_> {
    fn refused(&self, problem: impl Into<String>, remedy: impl Into<String>) -> Refused {
        Refused::new(dotted(&self.0.pointer), problem, remedy)
    }

    fn unknown(&self) -> Refused {
        self.refused(
            "is not known",
            "correct its name, or remove it if it is for another proxy",
        )
    }

    fn value(&self) -> Value {
        serde_json::from_str(&self.0.json).unwrap_or_default()
    }

    fn shown(&self) -> String {
        crate::escape::visible(&self.0.json, 80)
    }

    fn number(&self, most: u64) -> Result<u64, Refused> {
        let number = match self.value() {
            // Through HCL every number may have become a fraction.
            Value::Number(number) => number.as_u64().or_else(|| {
                let whole = number.as_f64().filter(|n| n.fract() == 0.0 && *n >= 0.0)?;
                format!("{whole:.0}").parse().ok()
            }),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        number.filter(|number| *number <= most).ok_or_else(|| {
            self.refused(
                format!("is `{}`", self.shown()),
                format!("write a whole number from 0 to {most}"),
            )
        })
    }

    fn millis(&self) -> Result<Duration, Refused> {
        const DAY: u64 = 24 * 3600 * 1000;
        match self.number(DAY)? {
            0 => Err(self.refused("is 0", "write milliseconds, or leave it out")),
            millis => Ok(Duration::from_millis(millis)),
        }
    }

    fn ip(&self) -> Result<IpAddr, Refused> {
        let value = self.value();
        let text = value.as_str().unwrap_or_default();
        text.parse().map_err(|_| {
            self.refused(
                format!("is `{}`", self.shown()),
                "write an IP address of this machine",
            )
        })
    }

    fn host_and_port(&self) -> Result<String, Refused> {
        let value = self.value();
        let text = value.as_str().unwrap_or_default();
        let good = text.parse::<SocketAddr>().is_ok_and(|at| at.port() > 0)
            || text.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty()
                    && host
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
                    && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
        if good {
            Ok(text.to_owned())
        } else {
            Err(self.refused(
                format!("is `{}`", self.shown()),
                "write it like `127.0.0.1:8080`",
            ))
        }
    }

    fn protocol(&self) -> Result<Option<Protocol>, Refused> {
        let value = self.value();
        let text = value.as_str().map(str::to_ascii_lowercase);
        match text.as_deref() {
            Some("") => Ok(None),
            Some(text) if Protocol::from_code(text).is_some() => Ok(Protocol::from_code(text)),
            _ => Err(self.refused(
                format!("is `{}`", self.shown()),
                "set it to `tcp`, `http`, `http2` or `grpc`, here or in proxy-defaults and service-defaults",
            )),
        }
    }

    fn direct_gateway(&self) -> Result<(), Refused> {
        let value = self.value();
        let mode = value.get("Mode").or_else(|| value.get("mode"));
        match mode.and_then(Value::as_str) {
            None | Some("" | "none") => Ok(()),
            Some(mode) => Err(self.refused(
                format!("asks for mesh gateways (`{mode}`), which are not supported"),
                "set the mode to `none`",
            )),
        }
    }

    /// `limits`, of which one counts connections and the others HTTP.
    fn limits(&self, refused: &mut Vec<Refused>) -> Result<Option<usize>, Refused> {
        let Value::Object(limits) = self.value() else {
            return Err(self.refused(
                format!("is `{}`", self.shown()),
                "write it like `limits { max_connections = 100 }`",
            ));
        };
        let mut most = None;
        for (name, value) in limits {
            if matches!(value, Value::Null) || value == 0 {
                continue;
            }
            let setting = Setting {
                pointer: format!("{}/{name}", self.0.pointer),
                json: value.to_string(),
                name,
            };
            let one = One(&setting);
            match setting.name.as_str() {
                "max_connections" => match one.number(u64::from(u32::MAX)) {
                    Ok(number) => most = usize::try_from(number).ok(),
                    Err(error) => refused.push(error),
                },
                "max_pending_requests" | "max_concurrent_requests" => refused.push(one.refused(
                    "counts HTTP requests, and this proxy passes bytes",
                    "remove it, or use `max_connections`",
                )),
                _ => refused.push(one.unknown()),
            }
        }
        Ok(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, json: &str) -> Setting {
        Setting {
            pointer: format!("/Proxy/Config/{name}"),
            name: name.to_owned(),
            json: json.to_owned(),
        }
    }

    #[test]
    fn what_a_proxy_can_be_told() {
        let mut refused = Vec::new();
        let read = ProxySettings::read(
            &[
                setting("bind_address", "\"::1\""),
                setting("bind_port", "8443.0"),
                setting("local_service_address", "\"app.local:80\""),
                setting("local_connect_timeout_ms", "\"1500\""),
                setting("handshake_timeout_ms", "2000"),
                setting("max_inbound_connections", "7"),
                setting("protocol", "\"HTTP2\""),
            ],
            &mut refused,
        );
        assert_eq!(refused, []);
        assert_eq!(read.bind_address, Some("::1".parse().unwrap()));
        assert_eq!(read.bind_port, Some(8443));
        assert_eq!(read.local_service_address.as_deref(), Some("app.local:80"));
        assert_eq!(
            (read.local_connect_timeout, read.handshake_timeout),
            (
                Some(Duration::from_millis(1500)),
                Some(Duration::from_secs(2))
            )
        );
        assert_eq!(read.max_inbound_connections, Some(7));
        assert_eq!(read.protocol, Some(Protocol::Http2));
    }

    #[test]
    fn whatever_else_is_refused_by_name() {
        for (name, json) in [
            ("bind_address", "\"localhost\""),
            ("bind_address", "7"),
            ("bind_port", "70000"),
            ("bind_port", "-1"),
            ("bind_port", "1.5"),
            ("local_service_address", "\"8080\""),
            ("local_service_address", "\"a:0\""),
            ("local_service_address", "\"a b:1\""),
            ("local_connect_timeout_ms", "\"2s\""),
            ("handshake_timeout_ms", "86400001"),
            ("handshake_timeout_ms", "\"0\""),
            ("max_inbound_connections", "[]"),
            ("protocol", "\"kafka\""),
            ("local_request_timeout_ms", "1"),
            ("local_idle_timeout_ms", "1"),
            ("balance_inbound_connections", "\"exact_balance\""),
            ("envoy_prometheus_bind_addr", "\"0.0.0.0:9102\""),
            ("xds_fetch_timeout_ms", "1"),
            ("Bind_Port", "1"),
            ("anything", "true"),
        ] {
            let mut refused = Vec::new();
            let _ = ProxySettings::read(&[setting(name, json)], &mut refused);
            let [one] = refused.as_slice() else {
                panic!("{name} = {json}: {refused:?}")
            };
            assert_eq!(one.field, format!("Proxy.Config.{name}"));
        }
        for (name, json, field) in [
            ("connect_timeout_ms", "{}", "connect_timeout_ms"),
            ("protocol", "true", "protocol"),
            ("limits", "3", "limits"),
            (
                "limits",
                "{\"max_connections\":\"x\"}",
                "limits.max_connections",
            ),
            (
                "limits",
                "{\"max_pending_requests\":1}",
                "limits.max_pending_requests",
            ),
            (
                "limits",
                "{\"max_concurrent_requests\":1}",
                "limits.max_concurrent_requests",
            ),
            ("limits", "{\"other\":1}", "limits.other"),
            (
                "passive_health_check",
                "{\"max_failures\":1}",
                "passive_health_check",
            ),
            ("mesh_gateway", "{\"Mode\":\"local\"}", "mesh_gateway"),
            (
                "balance_outbound_connections",
                "\"x\"",
                "balance_outbound_connections",
            ),
            ("envoy_cluster_json", "\"{}\"", "envoy_cluster_json"),
            ("other", "1", "other"),
        ] {
            let mut refused = Vec::new();
            let _ = UpstreamSettings::read(&[setting(name, json)], &mut refused);
            let [one] = refused.as_slice() else {
                panic!("{name} = {json}: {refused:?}")
            };
            assert_eq!(one.field, format!("Proxy.Config.{field}"));
        }
    }

    #[test]
    fn what_an_upstream_can_be_told() {
        let mut refused = Vec::new();
        let read = UpstreamSettings::read(
            &[
                setting("connect_timeout_ms", "250"),
                setting("protocol", "\"TCP\""),
                setting(
                    "limits",
                    "{\"max_connections\":3,\"max_pending_requests\":0,\"max_concurrent_requests\":null}",
                ),
                setting("mesh_gateway", "{\"Mode\":\"none\"}"),
            ],
            &mut refused,
        );
        assert_eq!(refused, []);
        assert_eq!(read.connect_timeout, Some(Duration::from_millis(250)));
        assert_eq!(read.max_connections, Some(3));
        assert_eq!(read.protocol, Some(Protocol::Tcp));
    }
}
