//! `GET /v1/agent/services`: what is registered on this agent, to find a sidecar in it; and
//! `GET /v1/catalog/services`: the names of all services.
use super::error::ReplyError;
use super::reply::HttpReply;
use super::request::{HttpRequest, MAX_MATCH_REPLY, Method, Query, Target};

/// A registered proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredProxy {
    /// Its ID.
    pub id: String,
    /// The ID of the service that it stands for; empty if it names none.
    pub destination_id: String,
}

/// Why there is not exactly one sidecar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSidecar {
    /// There is none.
    #[error("no proxy is registered for the service ID `{service}`")]
    None {
        /// The service's ID.
        service: String,
    },
    /// There are several.
    #[error("{} proxies are registered for the service ID `{service}`: {}", .ids.len(), .ids.join(", "))]
    Several {
        /// The service's ID.
        service: String,
        /// The IDs of the proxies.
        ids: Vec<String>,
    },
}

/// Asks for all services of the agent; those that the token may not read are left out.
#[must_use]
pub fn request() -> HttpRequest {
    Target::new("/v1/agent/services")
        .request(Method::Get)
        .max_reply(MAX_MATCH_REPLY)
}

/// Reads the proxies out of the reply.
///
/// # Errors
/// See [`ReplyError`].
pub fn decode(reply: &HttpReply<'_>) -> Result<Vec<RegisteredProxy>, ReplyError> {
    let mut proxies = Vec::new();
    for value in reply
        .json(MAX_MATCH_REPLY)?
        .object()?
        .index()
        .values()
        .flatten()
    {
        let service = value.object()?;
        if service.text("Kind")? != "connect-proxy" {
            continue;
        }
        let destination_id = match service.optional("Proxy")? {
            Some(proxy) => proxy.object()?.text("DestinationServiceID")?,
            None => String::new(),
        };
        proxies.push(RegisteredProxy {
            id: service.required("ID")?.string()?,
            destination_id,
        });
    }
    Ok(proxies)
}

/// Asks for the names of all services; those that the token may not read are left out.
#[must_use]
pub fn catalog(query: &Query) -> HttpRequest {
    Target::new("/v1/catalog/services")
        .query(query)
        .request(Method::Get)
        .max_reply(MAX_MATCH_REPLY)
}

/// Reads the names out of the reply to [`catalog`], sorted.
///
/// # Errors
/// See [`ReplyError`].
pub fn decode_catalog(reply: &HttpReply<'_>) -> Result<Vec<String>, ReplyError> {
    let top = reply.json(MAX_MATCH_REPLY)?.object()?;
    Ok(top.index().keys().map(|name| (*name).to_owned()).collect())
}

/// The ID of the one proxy that stands for the service with the ID `service`, compared
/// without regard to case as Consul's command does it.
///
/// # Errors
/// When there is none, or several.
pub fn sidecar_for(service: &str, proxies: &[RegisteredProxy]) -> Result<String, NoSidecar> {
    let folded = service.to_lowercase();
    let mut ids: Vec<String> = proxies
        .iter()
        .filter(|proxy| proxy.destination_id.to_lowercase() == folded)
        .map(|proxy| proxy.id.clone())
        .collect();
    let service = service.to_owned();
    match (ids.pop(), ids.is_empty()) {
        (Some(id), true) => Ok(id),
        (None, _) => Err(NoSidecar::None { service }),
        (Some(last), false) => {
            ids.push(last);
            ids.sort_unstable();
            Err(NoSidecar::Several { service, ids })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::ok;

    #[test]
    fn the_catalog_is_names() {
        let body = r#"{"web":[],"consul":["a"]}"#;
        assert_eq!(decode_catalog(&ok(body)).unwrap(), ["consul", "web"]);
        assert!(decode_catalog(&ok("[]")).is_err());
        assert_eq!(
            catalog(&Query::default()).path_and_query,
            "/v1/catalog/services"
        );
    }

    #[test]
    fn a_sidecar_is_the_only_proxy_of_its_service() {
        let body = r#"{"web":{"ID":"web","Service":"web"},
            "a":{"ID":"a","Service":"web-sidecar-proxy","Kind":"connect-proxy","Proxy":{"DestinationServiceID":"Web1"}},
            "b":{"ID":"b","Service":"x","Kind":"connect-proxy","Proxy":{"DestinationServiceID":"db"}},
            "c":{"ID":"c","Service":"x","Kind":"connect-proxy","Proxy":{"DestinationServiceID":"db"}},
            "g":{"ID":"g","Service":"x","Kind":"mesh-gateway","Proxy":{"DestinationServiceID":"web1"}},
            "d":{"ID":"d","Service":"x","Kind":"connect-proxy"}}"#;
        let proxies = decode(&ok(body)).unwrap();
        assert_eq!(proxies.len(), 4);
        assert_eq!(sidecar_for("web1", &proxies).as_deref(), Ok("a"));
        assert!(matches!(
            sidecar_for("web", &proxies),
            Err(NoSidecar::None { .. })
        ));
        let several = sidecar_for("db", &proxies).unwrap_err();
        assert!(several.to_string().ends_with("b, c"), "{several}");
        assert!(decode(&ok(r#"{"a":{"Kind":"connect-proxy"}}"#)).is_err());
        assert!(decode(&ok("{}")).unwrap().is_empty());
    }
}
