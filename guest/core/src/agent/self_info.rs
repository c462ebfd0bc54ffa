//! `GET /v1/agent/self`: the agent's version, datacenter and default policies.
use super::error::ReplyError;
use super::reply::{AllowDeny, HttpReply};
use super::request::{HttpRequest, MAX_REPLY, Method, Target};

/// What the agent says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfInfo {
    /// Datacenter.
    pub datacenter: String,
    /// Node name.
    pub node: String,
    /// Version, `1.22.2` for example.
    pub version: String,
    /// Whether the mesh is switched on, if it says so.
    pub connect_enabled: Option<bool>,
    /// What holds when no intention matches, if it says so. `DebugConfig` is not a stable
    /// part of Consul's API: whatever does not fit reads as not said.
    pub default_policy: Option<AllowDeny>,
}

/// Asks. Needs `agent:read` on the agent's node.
#[must_use]
pub fn request() -> HttpRequest {
    Target::new("/v1/agent/self").request(Method::Get)
}

/// Reads the reply.
///
/// # Errors
/// See [`ReplyError`]; an agent of anything but Consul lacks `/Config/Datacenter`.
pub fn decode(reply: &HttpReply<'_>) -> Result<SelfInfo, ReplyError> {
    let top = reply.json(MAX_REPLY)?.object()?;
    let config = top.required("Config")?.object()?;
    let debug = match top.optional("DebugConfig")? {
        Some(debug) => Some(debug.object()?),
        None => None,
    };
    let flag = |key: &str| -> Option<bool> { debug.as_ref()?.optional(key).ok()??.boolean().ok() };
    let text = |key: &str| -> Option<String> { debug.as_ref()?.optional(key).ok()??.string().ok() };
    let acl_default = || -> Option<AllowDeny> {
        let settings = debug
            .as_ref()?
            .optional("ACLResolverSettings")
            .ok()??
            .object()
            .ok()?;
        AllowDeny::parse(&settings.optional("ACLDefaultPolicy").ok()??.string().ok()?)
    };
    let header = reply.headers.default_acl_policy;
    let default_policy = match text("DefaultIntentionPolicy").as_deref() {
        None => None,
        Some("") => match flag("ACLsEnabled") {
            // The header says the same; if it does not, something is not as known here.
            Some(false) => Some(AllowDeny::Allow),
            Some(true) => acl_default(),
            None => None,
        }
        .filter(|policy| header.is_none_or(|header| header == *policy)),
        Some(set) => AllowDeny::parse(set),
    };
    Ok(SelfInfo {
        datacenter: config.required("Datacenter")?.string()?,
        node: config.text("NodeName")?,
        version: config.text("Version")?,
        connect_enabled: flag("ConnectEnabled"),
        default_policy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::ok;

    fn body(intentions: &str, acls: &str, default: &str) -> String {
        format!(
            r#"{{"Config":{{"Datacenter":"dc1","NodeName":"n","Version":"1.22.2"}},
            "DebugConfig":{{"ConnectEnabled":true,"ACLsEnabled":{acls},
            "ACLResolverSettings":{{"ACLDefaultPolicy":{default}}},
            "DefaultIntentionPolicy":{intentions}}}}}"#
        )
    }

    #[test]
    fn the_default_for_intentions_comes_first_then_that_of_acls() {
        let (allow, deny) = (Some(AllowDeny::Allow), Some(AllowDeny::Deny));
        for (intentions, acls, default, expected) in [
            ("\"deny\"", "false", "\"allow\"", deny),
            ("\"allow\"", "true", "\"deny\"", allow),
            ("\"\"", "true", "\"deny\"", deny),
            ("\"\"", "true", "\"allow\"", allow),
            ("\"\"", "false", "\"allow\"", allow),
            ("\"\"", "null", "\"allow\"", None),
            ("\"\"", "true", "\"extend-cache\"", None),
            ("\"Deny\"", "true", "\"allow\"", None),
            ("null", "true", "\"allow\"", None),
            ("7", "true", "\"allow\"", None),
            (
                "\"\",\"defaultIntentionPolicy\":\"deny\"",
                "true",
                "\"allow\"",
                None,
            ),
        ] {
            let body = body(intentions, acls, default);
            let info = decode(&ok(&body)).unwrap();
            assert_eq!(info.default_policy, expected, "{body}");
            assert_eq!(info.version, "1.22.2");
        }
    }

    #[test]
    fn a_header_that_disagrees_leaves_the_default_unknown() {
        let body = body("\"\"", "false", "\"allow\"");
        let mut reply = ok(&body);
        reply.headers.default_acl_policy = Some(AllowDeny::Deny);
        assert_eq!(decode(&reply).unwrap().default_policy, None);
        reply.headers.default_acl_policy = Some(AllowDeny::Allow);
        assert_eq!(
            decode(&reply).unwrap().default_policy,
            Some(AllowDeny::Allow)
        );
    }

    #[test]
    fn without_debug_config_nothing_is_said_and_without_config_it_is_no_agent() {
        let info = decode(&ok(r#"{"Config":{"Datacenter":"dc1"}}"#)).unwrap();
        assert_eq!((info.default_policy, info.connect_enabled), (None, None));
        assert!(decode(&ok(r#"{"status":"ok"}"#)).is_err());
        assert!(decode(&ok("<html>")).is_err());
    }
}
