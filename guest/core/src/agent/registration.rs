//! Registers a service with its TTL check, keeps the check passing, takes both away.
use serde_json::{Map, Value, json};

use super::error::RequestError;
use super::request::{HttpRequest, MAX_SMALL_REPLY, Method, Target, check_name, refused};

/// How a registered service takes part in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The registered port itself speaks the mesh's TLS.
    Native,
    /// A proxy that speaks it for another service.
    Proxy {
        /// The service behind it.
        destination: String,
        /// That service's ID, where it is registered.
        destination_id: Option<String>,
        /// Where the proxy reaches it: address and port, if that is TCP.
        local: Option<(String, u16)>,
    },
}

/// A TTL check: critical unless somebody says otherwise in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TtlCheck {
    /// ID of the check.
    pub id: String,
    /// Name of the check, for people.
    pub name: String,
    /// Milliseconds until it turns critical.
    pub ttl_ms: u64,
    /// Milliseconds for which it may be critical before the agent removes the service; Consul
    /// takes no less than a minute.
    pub deregister_after_ms: Option<u64>,
}

/// What to register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// ID of the instance, unique on its agent.
    pub id: String,
    /// Service name.
    pub name: String,
    /// Address; empty for the node's.
    pub address: String,
    /// Port.
    pub port: u16,
    /// Tags.
    pub tags: Vec<String>,
    /// Metadata.
    pub meta: Vec<(String, String)>,
    /// Role.
    pub role: Role,
    /// Its check. It starts critical: say [`pass`] when ready.
    pub check: Option<TtlCheck>,
}

/// Registers; an existing registration with the same ID is replaced, with its checks.
/// Needs `service:write` on the service, for a proxy also on its destination.
///
/// # Errors
/// [`RequestError`] for names that cannot be ones, or port 0.
pub fn register(registration: &Registration) -> Result<HttpRequest, RequestError> {
    let Registration {
        id,
        name,
        address,
        port,
        tags,
        meta,
        role,
        check,
    } = registration;
    check_name("id", id)?;
    check_name("name", name)?;
    if *port == 0 {
        return Err(refused("port", "0", "is not a port"));
    }
    let mut body = json!({"ID": id, "Name": name, "Port": port});
    let mut set = |key: &str, value: Value| {
        if let Some(fields) = body.as_object_mut() {
            fields.insert(key.to_owned(), value);
        }
    };
    if !address.is_empty() {
        set("Address", json!(address));
    }
    if !tags.is_empty() {
        set("Tags", json!(tags));
    }
    if !meta.is_empty() {
        set(
            "Meta",
            meta.iter()
                .map(|(k, v)| (k.clone(), json!(v)))
                .collect::<Map<_, _>>()
                .into(),
        );
    }
    match role {
        Role::Native => set("Connect", json!({"Native": true})),
        Role::Proxy {
            destination,
            destination_id,
            local,
        } => {
            check_name("destination", destination)?;
            let mut proxy =
                Map::from_iter([("DestinationServiceName".to_owned(), json!(destination))]);
            if let Some(id) = destination_id {
                proxy.insert("DestinationServiceID".to_owned(), json!(id));
            }
            if let Some((address, port)) = local {
                proxy.insert("LocalServiceAddress".to_owned(), json!(address));
                proxy.insert("LocalServicePort".to_owned(), json!(port));
            }
            set("Kind", json!("connect-proxy"));
            set("Proxy", proxy.into());
        }
    }
    if let Some(TtlCheck {
        id,
        name,
        ttl_ms,
        deregister_after_ms,
    }) = check
    {
        let mut check = json!({"CheckID": id, "Name": name, "TTL": format!("{ttl_ms}ms")});
        if let (Some(fields), Some(after)) = (check.as_object_mut(), deregister_after_ms) {
            let after = json!(format!("{after}ms"));
            fields.insert("DeregisterCriticalServiceAfter".to_owned(), after);
        }
        set("Check", check);
    }
    Ok(Target::new("/v1/agent/service/register")
        .flag("replace-existing-checks")
        .request(Method::Put)
        .max_reply(MAX_SMALL_REPLY)
        .json(&body))
}

/// Registers what a service definition says, in the form of the API; an existing
/// registration with the same ID is replaced, with its checks. Rights as for [`register`].
///
/// # Errors
/// [`RequestError`] for an ID that cannot be one.
pub fn register_definition(id: &str, definition: &Value) -> Result<HttpRequest, RequestError> {
    check_name("id", id)?;
    Ok(Target::new("/v1/agent/service/register")
        .flag("replace-existing-checks")
        .request(Method::Put)
        .max_reply(MAX_SMALL_REPLY)
        .json(definition))
}

/// Removes the registration with `id`, and its checks. 404 means that it was not there.
///
/// # Errors
/// [`RequestError`] for an ID that cannot be one.
pub fn deregister(id: &str) -> Result<HttpRequest, RequestError> {
    put("/v1/agent/service/deregister", "id", id)
}

/// Reports that a TTL check passes. 404 means that the agent has forgotten it: register again.
///
/// # Errors
/// [`RequestError`] for an ID that cannot be one.
pub fn pass(check: &str, note: &str) -> Result<HttpRequest, RequestError> {
    report("/v1/agent/check/pass", check, note)
}

/// Reports that a TTL check warns.
///
/// # Errors
/// [`RequestError`] for an ID that cannot be one.
pub fn warn(check: &str, note: &str) -> Result<HttpRequest, RequestError> {
    report("/v1/agent/check/warn", check, note)
}

/// Reports that a TTL check fails.
///
/// # Errors
/// [`RequestError`] for an ID that cannot be one.
pub fn fail(check: &str, note: &str) -> Result<HttpRequest, RequestError> {
    report("/v1/agent/check/fail", check, note)
}

fn report(path: &str, check: &str, note: &str) -> Result<HttpRequest, RequestError> {
    let target = Target::new(path).segment("check", check)?;
    let target = if note.is_empty() {
        target
    } else {
        target.parameter("note", note)
    };
    Ok(target.request(Method::Put).max_reply(MAX_SMALL_REPLY))
}

fn put(path: &str, field: &'static str, id: &str) -> Result<HttpRequest, RequestError> {
    Ok(Target::new(path)
        .segment(field, id)?
        .request(Method::Put)
        .max_reply(MAX_SMALL_REPLY))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(registration: &Registration) -> Value {
        serde_json::from_slice(&register(registration).unwrap().body.unwrap()).unwrap()
    }

    fn native() -> Registration {
        Registration {
            id: "redis-1".into(),
            name: "redis".into(),
            address: String::new(),
            port: 8000,
            tags: vec![],
            meta: vec![],
            role: Role::Native,
            check: None,
        }
    }

    #[test]
    fn a_native_service_is_registered_with_what_it_has_and_no_more() {
        assert_eq!(
            body(&native()),
            json!({"ID":"redis-1","Name":"redis","Port":8000,"Connect":{"Native":true}})
        );
    }

    #[test]
    fn a_proxy_names_its_service_and_carries_a_check() {
        let registration = Registration {
            id: "web-proxy".into(),
            name: "web-proxy".into(),
            address: "10.0.0.1".into(),
            tags: vec!["t".into()],
            meta: vec![("by".into(), "portcullis".into())],
            role: Role::Proxy {
                destination: "web".into(),
                destination_id: Some("web".into()),
                local: Some(("127.0.0.1".into(), 8080)),
            },
            check: Some(TtlCheck {
                id: "web-proxy-ttl".into(),
                name: "proxy".into(),
                ttl_ms: 30_000,
                deregister_after_ms: Some(60_000),
            }),
            ..native()
        };
        assert_eq!(
            body(&registration),
            json!({"ID":"web-proxy","Name":"web-proxy","Address":"10.0.0.1","Port":8000,
                "Tags":["t"],"Meta":{"by":"portcullis"},"Kind":"connect-proxy",
                "Proxy":{"DestinationServiceName":"web","DestinationServiceID":"web",
                    "LocalServiceAddress":"127.0.0.1","LocalServicePort":8080},
                "Check":{"CheckID":"web-proxy-ttl","Name":"proxy","TTL":"30000ms",
                    "DeregisterCriticalServiceAfter":"60000ms"}})
        );
    }

    #[test]
    fn reports_and_removal_name_their_subject_in_one_segment() {
        assert_eq!(
            pass("service:a/b", "").unwrap_err().to_string(),
            "check `service:a/b` contains a slash"
        );
        let request = pass("web-ttl", "all & well").unwrap();
        assert_eq!(
            request.path_and_query,
            "/v1/agent/check/pass/web-ttl?note=all%20%26%20well"
        );
        assert_eq!(request.method, Method::Put);
        assert!(warn("a", "").unwrap().path_and_query.ends_with("/warn/a"));
        assert!(fail("a", "").unwrap().path_and_query.ends_with("/fail/a"));
        assert_eq!(
            deregister("web proxy").unwrap().path_and_query,
            "/v1/agent/service/deregister/web%20proxy"
        );
        assert!(
            register(&Registration {
                port: 0,
                ..native()
            })
            .is_err()
        );
        assert!(
            register(&Registration {
                name: String::new(),
                ..native()
            })
            .is_err()
        );
    }
}
