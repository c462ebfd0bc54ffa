//! The `jwt-provider` config entries: as a list of raw JSON, which the policy reads.

use serde_json::value::RawValue;

use super::config;
use super::error::{ReplyError, RequestError};
use super::reply::HttpReply;
use super::request::{HttpRequest, Method, Query, Target};
use crate::jwt::MAX_KEY_SET;

/// The largest list that is taken.
const MAX_LIST: usize = 8 * 1024 * 1024;

/// Asks for all of them; needs `mesh:read`, or `service:write` on some service.
///
/// # Errors
/// None, but for the signature of what it calls.
pub fn request(query: &Query) -> Result<HttpRequest, RequestError> {
    config::list("jwt-provider", query)
}

/// What a relay (`portcullis sds -relay`, no Consul agent) is asked for keys by; the
/// provider's name follows.
pub const RELAYED_KEYS: &str = "/v1/portcullis/jwks";

/// Asks a relay for the keys of a provider, wherever they are.
///
/// # Errors
/// [`RequestError`] for names that cannot be ones.
pub fn relayed_keys(provider: &str, timeout_ms: u64) -> Result<HttpRequest, RequestError> {
    let target = Target::new(RELAYED_KEYS).segment("name", provider)?;
    let mut request = target.request(Method::Get).max_reply(MAX_KEY_SET);
    // The relay waits so long itself.
    request.read_timeout_ms = request.read_timeout_ms.saturating_add(timeout_ms);
    Ok(request)
}

/// The entries, each an object.
///
/// # Errors
/// See [`ReplyError`]; a list that the token may not see is [`ReplyError::Hidden`], not an
/// empty one.
pub fn decode<'r>(reply: &HttpReply<'r>) -> Result<Vec<&'r RawValue>, ReplyError> {
    let body = reply.ok(MAX_LIST)?;
    if reply.headers.filtered {
        return Err(ReplyError::Hidden {
            what: "jwt-provider entries",
            needs: "`mesh:read`, or `service:write` on some service",
        });
    }
    let entries: Option<Vec<&RawValue>> =
        serde_json::from_slice(body).map_err(|error| ReplyError::Syntax {
            detail: super::error::excerpt(&error.to_string()),
        })?;
    let entries = entries.unwrap_or_default();
    match entries
        .iter()
        .position(|entry| !entry.get().starts_with('{'))
    {
        Some(place) => Err(ReplyError::Type {
            field: format!("/{place}"),
            expected: "an object",
        }),
        None => Ok(entries),
    }
}

/// The entries as one JSON array.
#[must_use]
pub fn array(entries: &[&RawValue]) -> String {
    let raw: Vec<&str> = entries.iter().map(|entry| entry.get()).collect();
    format!("[{}]", raw.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{ok, status};

    #[test]
    fn what_is_hidden_or_unreadable_is_no_empty_list() {
        let mut hidden = ok("[]");
        hidden.headers.filtered = true;
        let error = decode(&hidden).unwrap_err().to_string();
        assert!(error.contains("mesh:read"), "{error}");
        let count = |body| decode(&ok(body)).map(|entries| entries.len());
        assert!(matches!(count("[{},7]"), Err(ReplyError::Type { field, .. }) if field == "/1"));
        assert!(matches!(count("{}"), Err(ReplyError::Syntax { .. })));
        assert!(decode(&status(403)).unwrap_err().is_forbidden());
        assert_eq!(count("[]"), Ok(0));
        assert_eq!(count("null"), Ok(0));
        assert_eq!(count("[ {} , {} ]"), Ok(2));
        let body = r#"[ {"a": 1} , {} ]"#;
        assert_eq!(array(&decode(&ok(body)).unwrap()), r#"[{"a": 1},{}]"#);
    }
}
