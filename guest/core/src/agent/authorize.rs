//! `POST /v1/agent/connect/authorize`: the agent's own answer, L4 only, blind to trust
//! domain and datacenter.
use serde_json::json;

use super::error::{ReplyError, RequestError};
use super::reply::HttpReply;
use super::request::{HttpRequest, MAX_SMALL_REPLY, Method, Target, check_name};

/// What the agent answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// Whether it allows.
    pub authorized: bool,
    /// Why, in the agent's words.
    pub reason: String,
}

impl Authorization {
    /// No intention matched: the ACL default or the default for intentions decided.
    #[must_use]
    pub fn by_default(&self) -> bool {
        matches!(
            self.reason.as_str(),
            "Default behavior configured by ACLs" | "Default intention policy"
        )
    }
}

/// Asks whether the client with `uri` may connect to `target`. Needs `service:write` on it.
///
/// # Errors
/// [`RequestError`] for a target that cannot be a name.
pub fn request(target: &str, uri: &str, serial: &str) -> Result<HttpRequest, RequestError> {
    check_name("target", target)?;
    let body = json!({"Target": target, "ClientCertURI": uri, "ClientCertSerial": serial});
    Ok(Target::new("/v1/agent/connect/authorize")
        .request(Method::Post)
        .max_reply(MAX_SMALL_REPLY)
        .json(&body))
}

/// Reads the reply.
///
/// # Errors
/// See [`ReplyError`].
pub fn decode(reply: &HttpReply<'_>) -> Result<Authorization, ReplyError> {
    let top = reply.json(MAX_SMALL_REPLY)?.object()?;
    Ok(Authorization {
        authorized: top.required("Authorized")?.boolean()?,
        reason: top.text("Reason")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::ok;

    #[test]
    fn an_answer_is_read() {
        let body = r#"{"Authorized":false,"Reason":"Matched L4 intention: default/web =\u003e default/db (Precedence: 9, Action: DENY)"}"#;
        let answer = decode(&ok(body)).unwrap();
        assert!(!answer.authorized && !answer.by_default());
        assert!(answer.reason.contains("default/web => default/db"));
        for reason in [
            "Default behavior configured by ACLs",
            "Default intention policy",
        ] {
            let body = format!(r#"{{"Authorized":true,"Reason":"{reason}"}}"#);
            assert!(decode(&ok(&body)).unwrap().by_default());
        }
    }

    #[test]
    fn an_answer_that_two_readers_could_read_in_two_ways_is_none() {
        for body in [
            r#"{"Authorized":false,"Authorized":true}"#,
            r#"{"Authorized":false,"authorized":true}"#,
            r#"{"authorized":true}"#,
            r#"{"Authorized":"true"}"#,
            r#"{"Authorized":1}"#,
            r#"{"Authorized":null}"#,
            r#"[{"Authorized":true}]"#,
            "true",
            "",
        ] {
            assert!(decode(&ok(body)).is_err(), "{body}");
        }
    }

    #[test]
    fn the_body_is_what_the_agent_takes() {
        let request = request("db", "spiffe://t/\"", "01:02").unwrap();
        let body: serde_json::Value = serde_json::from_slice(&request.body.unwrap()).unwrap();
        assert_eq!(
            body,
            json!({"Target":"db","ClientCertURI":"spiffe://t/\"","ClientCertSerial":"01:02"})
        );
        assert!(super::request("", "u", "").is_err());
    }
}
