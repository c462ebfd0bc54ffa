//! Config entries (`/v1/config`): of interest here are `service-intentions`,
//! `service-defaults`, `proxy-defaults`, `mesh` and `jwt-provider`. Bodies stay raw JSON.
use serde_json::Value;

use super::error::{ReplyError, RequestError};
use super::reply::HttpReply;
use super::request::{HttpRequest, MAX_REPLY, MAX_SMALL_REPLY, Method, Query, Target};

/// Asks for one entry; 404 if there is none.
///
/// # Errors
/// [`RequestError`] for names that cannot be ones.
pub fn get(kind: &str, name: &str, query: &Query) -> Result<HttpRequest, RequestError> {
    Ok(entry(kind, name)?.query(query).request(Method::Get))
}

/// Asks for all entries of a kind.
///
/// # Errors
/// [`RequestError`] for a kind that cannot be one.
pub fn list(kind: &str, query: &Query) -> Result<HttpRequest, RequestError> {
    Ok(Target::new("/v1/config")
        .segment("kind", kind)?
        .query(query)
        .request(Method::Get))
}

/// Creates or replaces an entry; `Kind` and `Name` stand in the body. With `cas` only if its
/// `ModifyIndex` is still that.
#[must_use]
pub fn put(body: &Value, cas: Option<u64>) -> HttpRequest {
    let target = Target::new("/v1/config");
    let target = match cas {
        Some(index) => target.parameter("cas", &index.to_string()),
        None => target,
    };
    target
        .request(Method::Put)
        .max_reply(MAX_SMALL_REPLY)
        .json(body)
}

/// Removes an entry; 200 also if there was none.
///
/// # Errors
/// [`RequestError`] for names that cannot be ones.
pub fn delete(kind: &str, name: &str) -> Result<HttpRequest, RequestError> {
    Ok(entry(kind, name)?
        .request(Method::Delete)
        .max_reply(MAX_SMALL_REPLY))
}

/// The `Protocol` of a `service-defaults` entry, lower case; `tcp` where none is set or the
/// entry does not exist.
///
/// # Errors
/// See [`ReplyError`]; 404 is no error here.
pub fn decode_protocol(reply: &HttpReply<'_>) -> Result<String, ReplyError> {
    Ok(decode_own_protocol(reply)?.unwrap_or_else(|| "tcp".to_owned()))
}

/// The same, but `None` where none is set: then that of `proxy-defaults` holds.
///
/// # Errors
/// See [`ReplyError`]; 404 is no error here.
pub fn decode_own_protocol(reply: &HttpReply<'_>) -> Result<Option<String>, ReplyError> {
    match reply.json(MAX_REPLY) {
        Err(error) if error.is_not_found() => Ok(None),
        top => Ok(set(top?.object()?.text("Protocol")?)),
    }
}

/// `Config.protocol` of the `proxy-defaults` entry, lower case; `None` where none is set.
///
/// # Errors
/// See [`ReplyError`]; 404 is no error here.
pub fn decode_default_protocol(reply: &HttpReply<'_>) -> Result<Option<String>, ReplyError> {
    let top = match reply.json(MAX_REPLY) {
        Err(error) if error.is_not_found() => return Ok(None),
        top => top?.object()?,
    };
    match top.optional("Config")? {
        Some(config) => Ok(set(config.object()?.text("protocol")?)),
        None => Ok(None),
    }
}

fn set(protocol: String) -> Option<String> {
    Some(protocol.to_ascii_lowercase()).filter(|protocol| !protocol.is_empty())
}

/// `HTTP.Incoming.RequestNormalization` of a `mesh` entry as raw JSON, if it is set.
///
/// # Errors
/// See [`ReplyError`]; 404 is no error here: it means Consul's default.
pub fn decode_normalization(reply: &HttpReply<'_>) -> Result<Option<String>, ReplyError> {
    let mut value = match reply.json(MAX_REPLY) {
        Err(error) if error.is_not_found() => return Ok(None),
        value => value?,
    };
    for key in ["HTTP", "Incoming", "RequestNormalization"] {
        match value.object()?.optional(key)? {
            Some(inner) => value = inner,
            None => return Ok(None),
        }
    }
    Ok(Some(value.raw().to_owned()))
}

fn entry(kind: &str, name: &str) -> Result<Target, RequestError> {
    Target::new("/v1/config")
        .segment("kind", kind)?
        .segment("name", name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{ok, status};

    #[test]
    fn entries_are_addressed_by_kind_and_name() {
        let query = Query::default();
        assert_eq!(
            get("service-defaults", "a b", &query)
                .unwrap()
                .path_and_query,
            "/v1/config/service-defaults/a%20b"
        );
        assert!(get("mesh", "../acl", &query).is_err());
        assert_eq!(
            put(&Value::Null, Some(7)).path_and_query,
            "/v1/config?cas=7"
        );
        assert_eq!(delete("mesh", "mesh").unwrap().method, Method::Delete);
        assert_eq!(
            list("mesh", &query).unwrap().path_and_query,
            "/v1/config/mesh"
        );
    }

    #[test]
    fn absence_is_consuls_default_and_refusal_is_not() {
        assert_eq!(
            decode_protocol(&ok(r#"{"Protocol":"HTTP"}"#)).unwrap(),
            "http"
        );
        assert_eq!(
            decode_protocol(&ok(r#"{"Kind":"service-defaults"}"#)).unwrap(),
            "tcp"
        );
        assert_eq!(decode_protocol(&status(404)).unwrap(), "tcp");
        assert!(decode_protocol(&status(403)).is_err());
        assert!(decode_protocol(&ok(r#"{"protocol":"http"}"#)).is_err());
        assert_eq!(decode_own_protocol(&ok("{}")).unwrap(), None);
        let defaults = |body| decode_default_protocol(&ok(body));
        let http = Some("http".to_owned());
        assert_eq!(defaults(r#"{"Config":{"protocol":"HTTP"}}"#).unwrap(), http);
        assert_eq!(defaults(r#"{"Config":null}"#).unwrap(), None);
        assert_eq!(decode_default_protocol(&status(404)).unwrap(), None);
        assert!(decode_default_protocol(&status(403)).is_err());
        assert!(defaults(r#"{"Config":{"protocol":7}}"#).is_err());
        let mesh = r#"{"HTTP":{"Incoming":{"RequestNormalization":{"MergeSlashes":true}}}}"#;
        assert_eq!(
            decode_normalization(&ok(mesh)).unwrap().as_deref(),
            Some(r#"{"MergeSlashes":true}"#)
        );
        assert_eq!(decode_normalization(&ok(r#"{"HTTP":null}"#)).unwrap(), None);
        assert_eq!(decode_normalization(&status(404)).unwrap(), None);
        assert!(decode_normalization(&status(403)).is_err());
        assert!(decode_normalization(&ok(r#"{"HTTP":[]}"#)).is_err());
    }
}
