//! Reads and writes intentions: the list, one pair of services, `check`.
use serde_json::{Value, json};

use super::error::{ReplyError, RequestError};
use super::reply::{AllowDeny, HttpReply};
use super::request::{
    HttpRequest, MAX_MATCH_REPLY, MAX_SMALL_REPLY, Method, Query, Target, check_name, refused,
};

/// An intention as lists show it. Decisions never come from here but from the match reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Namespace and name of the source.
    pub source: (String, String),
    /// The peering that the source belongs to; empty for this cluster.
    pub source_peer: String,
    /// Namespace and name of the destination.
    pub destination: (String, String),
    /// The action; `None` where permissions decide, or for one that is not known here.
    pub action: Option<AllowDeny>,
    /// How many permissions there are.
    pub permissions: usize,
    /// Consul's number.
    pub precedence: u64,
    /// For people.
    pub description: String,
}

/// Asks for all intentions that the token may see.
#[must_use]
pub fn list(query: &Query) -> HttpRequest {
    Target::new("/v1/connect/intentions")
        .query(query)
        .request(Method::Get)
        .max_reply(MAX_MATCH_REPLY)
}

/// Asks for the intention between exactly `source` and `destination`; 404 if there is none.
///
/// # Errors
/// [`RequestError`] for names that cannot be ones.
pub fn exact(source: &str, destination: &str) -> Result<HttpRequest, RequestError> {
    Ok(pair("/v1/connect/intentions/exact", source, destination)?.request(Method::Get))
}

/// Creates or replaces an L4 intention. Needs `intention:write` on the destination.
///
/// # Errors
/// [`RequestError`] for names that cannot be ones.
pub fn put(
    source: &str,
    destination: &str,
    action: AllowDeny,
    description: &str,
) -> Result<HttpRequest, RequestError> {
    let action = match action {
        AllowDeny::Allow => "allow",
        AllowDeny::Deny => "deny",
    };
    let mut body = json!({"SourceType": "consul", "Action": action});
    if let (Some(fields), false) = (body.as_object_mut(), description.is_empty()) {
        fields.insert("Description".to_owned(), json!(description));
    }
    put_body(source, destination, &body)
}

/// The same with a body of one's own (`Permissions`).
///
/// # Errors
/// [`RequestError`] for names that cannot be ones.
pub fn put_body(
    source: &str,
    destination: &str,
    body: &Value,
) -> Result<HttpRequest, RequestError> {
    Ok(pair("/v1/connect/intentions/exact", source, destination)?
        .request(Method::Put)
        .max_reply(MAX_SMALL_REPLY)
        .json(body))
}

/// Removes an intention; 200 also if there was none.
///
/// # Errors
/// [`RequestError`] for names that cannot be ones.
pub fn delete(source: &str, destination: &str) -> Result<HttpRequest, RequestError> {
    Ok(pair("/v1/connect/intentions/exact", source, destination)?
        .request(Method::Delete)
        .max_reply(MAX_SMALL_REPLY))
}

/// Asks the agent whether `source` may connect to `destination`. It ignores the default for
/// intentions and goes by the ACL default. Needs `service:read` on the destination.
///
/// # Errors
/// [`RequestError`] for names that cannot be ones.
pub fn check(source: &str, destination: &str) -> Result<HttpRequest, RequestError> {
    Ok(pair("/v1/connect/intentions/check", source, destination)?
        .request(Method::Get)
        .max_reply(MAX_SMALL_REPLY))
}

/// Reads the reply to [`check`].
///
/// # Errors
/// See [`ReplyError`].
pub fn decode_check(reply: &HttpReply<'_>) -> Result<bool, ReplyError> {
    reply
        .json(MAX_SMALL_REPLY)?
        .object()?
        .required("Allowed")?
        .boolean()
}

/// Reads the reply to [`list`].
///
/// # Errors
/// See [`ReplyError`].
pub fn decode_list(reply: &HttpReply<'_>) -> Result<Vec<Summary>, ReplyError> {
    reply
        .json(MAX_MATCH_REPLY)?
        .list()?
        .iter()
        .map(summary)
        .collect()
}

/// Reads the reply to [`exact`].
///
/// # Errors
/// See [`ReplyError`].
pub fn decode_exact(reply: &HttpReply<'_>) -> Result<Summary, ReplyError> {
    summary(&reply.json(MAX_MATCH_REPLY)?)
}

fn summary(item: &super::json::Value<'_>) -> Result<Summary, ReplyError> {
    let item = item.object()?;
    Ok(Summary {
        source: (
            item.text("SourceNS")?,
            item.required("SourceName")?.string()?,
        ),
        source_peer: item.text("SourcePeer")?,
        destination: (
            item.text("DestinationNS")?,
            item.required("DestinationName")?.string()?,
        ),
        action: AllowDeny::parse(&item.text("Action")?),
        permissions: item.list("Permissions")?.len(),
        precedence: item.required("Precedence")?.unsigned()?,
        description: item.text("Description")?,
    })
}

fn pair(path: &str, source: &str, destination: &str) -> Result<Target, RequestError> {
    for (field, name) in [("source", source), ("destination", destination)] {
        check_name(field, name)?;
        if name.matches('/').count() > 2 {
            return Err(refused(field, name, "contains more than two slashes"));
        }
    }
    Ok(Target::new(path)
        .parameter("source", source)
        .parameter("destination", destination))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::ok;

    #[test]
    fn pairs_are_parameters() {
        let request = put("web&x", "default/db", AllowDeny::Deny, "").unwrap();
        assert_eq!(
            request.path_and_query,
            "/v1/connect/intentions/exact?source=web%26x&destination=default%2Fdb"
        );
        assert_eq!(
            serde_json::from_slice::<Value>(&request.body.unwrap()).unwrap(),
            json!({"SourceType":"consul","Action":"deny"})
        );
        assert_eq!(delete("*", "db").unwrap().method, Method::Delete);
        assert!(exact("", "db").is_err());
        assert!(check("a", "a/b/c/d").is_err());
    }

    #[test]
    fn lists_are_read() {
        let body = r#"[{"SourceNS":"default","SourceName":"web","DestinationNS":"default","DestinationName":"api",
            "SourceType":"consul","Permissions":[{},{}],"Precedence":9},
            {"SourceNS":"default","SourceName":"*","DestinationNS":"default","DestinationName":"api",
            "Action":"deny","Precedence":8,"Description":"d"}]"#;
        let list = decode_list(&ok(body)).unwrap();
        assert_eq!((list[0].action, list[0].permissions), (None, 2));
        assert_eq!(
            (list[1].action, list[1].description.as_str()),
            (Some(AllowDeny::Deny), "d")
        );
        assert_eq!(decode_list(&ok("null")).unwrap(), []);
        assert!(decode_list(&ok(&body.replace("\"Action\"", "\"action\""))).is_err());
        assert_eq!(decode_check(&ok(r#"{"Allowed":true}"#)), Ok(true));
        assert!(decode_check(&ok(r#"{"Allowed":"true"}"#)).is_err());
    }
}
