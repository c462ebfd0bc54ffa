//! ACL tokens: who may do what, and how Consul says no.

mod parse;
mod rules;

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{DefaultPolicy, DevAgentConfig, StartError, Token};
use crate::http::reply::Reply;
use rules::{Access, Rules};

/// The tokens that the agent knows.
pub(crate) struct Acl {
    enabled: bool,
    default: DefaultPolicy,
    tokens: HashMap<String, Arc<Authorizer>>,
    anonymous: Arc<Authorizer>,
}

/// What one token may do.
#[derive(Debug)]
pub(crate) struct Authorizer {
    /// `None`: the anonymous token.
    accessor: Option<String>,
    management: bool,
    rules: Rules,
    default: Access,
}

/// The anonymous token's accessor, as Consul numbers it.
const ANONYMOUS: &str = "anonymous";

impl Acl {
    /// Reads every token's rules.
    pub(crate) fn new(config: &DevAgentConfig) -> Result<Self, StartError> {
        let enabled = config.default_policy == DefaultPolicy::Deny || !config.tokens.is_empty();
        let default = match config.default_policy {
            DefaultPolicy::Allow => Access::Write,
            DefaultPolicy::Deny => Access::Deny,
        };
        let read = |rules: &str, accessor: &str| {
            parse::rules(rules).map_err(|reason| StartError::Rules {
                accessor: accessor.to_owned(),
                reason,
            })
        };
        let mut tokens = HashMap::new();
        for Token {
            secret,
            accessor,
            rules,
            management,
        } in &config.tokens
        {
            if secret.is_empty() {
                return Err(StartError::Config(
                    "an ACL token has an empty secret".to_owned(),
                ));
            }
            let accessor = match accessor.as_str() {
                "" => uuid::Uuid::new_v4().to_string(),
                given => given.to_owned(),
            };
            let rules = read(rules, &accessor)?;
            let authorizer = Authorizer {
                accessor: Some(accessor),
                management: *management,
                rules,
                default,
            };
            if tokens
                .insert(secret.clone(), Arc::new(authorizer))
                .is_some()
            {
                return Err(StartError::Config(
                    "two ACL tokens have the same secret".to_owned(),
                ));
            }
        }
        let anonymous = Arc::new(Authorizer {
            accessor: None,
            management: !enabled,
            rules: read(&config.anonymous_rules, ANONYMOUS)?,
            default,
        });
        Ok(Self {
            enabled,
            default: config.default_policy,
            tokens,
            anonymous,
        })
    }

    pub(crate) fn enabled(&self) -> bool {
        self.enabled
    }

    pub(crate) fn default_policy(&self) -> DefaultPolicy {
        self.default
    }

    /// As [`Acl::resolve`], with the headers that a server's refusal carries.
    ///
    /// # Errors
    /// 403 `ACL not found`.
    pub(crate) fn resolve_at_server(&self, secret: &str) -> Result<Arc<Authorizer>, Reply> {
        self.resolve(secret).map_err(Reply::failed_query)
    }

    /// The token behind a secret.
    ///
    /// # Errors
    /// 403 `ACL not found`.
    pub(crate) fn resolve(&self, secret: &str) -> Result<Arc<Authorizer>, Reply> {
        if secret.is_empty() || !self.enabled {
            return Ok(Arc::clone(&self.anonymous));
        }
        self.tokens
            .get(secret)
            .cloned()
            .ok_or_else(|| Reply::forbidden("ACL not found"))
    }
}

impl Authorizer {
    pub(crate) fn is_anonymous(&self) -> bool {
        self.accessor.is_none()
    }

    pub(crate) fn service_read(&self, name: &str) -> bool {
        self.management || self.rules.service(name).unwrap_or(self.default) >= Access::Read
    }

    pub(crate) fn service_write(&self, name: &str) -> bool {
        self.management || self.rules.service(name).unwrap_or(self.default) >= Access::Write
    }

    pub(crate) fn intention_read(&self, name: &str) -> bool {
        self.management || self.intention(name, Access::Read)
    }

    pub(crate) fn intention_write(&self, name: &str) -> bool {
        self.management || self.intention(name, Access::Write)
    }

    fn intention(&self, name: &str, wanted: Access) -> bool {
        if name != "*" {
            return self.rules.intention(name).unwrap_or(self.default) >= wanted;
        }
        // Reading rules about every service takes some right to read one;
        // writing them the right to write all.
        match wanted {
            Access::Write => self.rules.every_intention(Access::Write, self.default),
            _ => self.rules.any_intention(wanted) || self.default >= wanted,
        }
    }

    pub(crate) fn node_read(&self, node: &str) -> bool {
        self.management || self.rules.node(node).unwrap_or(self.default) >= Access::Read
    }

    pub(crate) fn agent_read(&self, node: &str) -> bool {
        self.management || self.rules.agent(node).unwrap_or(self.default) >= Access::Read
    }

    pub(crate) fn node_write(&self, node: &str) -> bool {
        self.management || self.rules.node(node).unwrap_or(self.default) >= Access::Write
    }

    pub(crate) fn operator_write(&self) -> bool {
        self.management || self.rules.operator().unwrap_or(self.default) >= Access::Write
    }

    pub(crate) fn mesh_write(&self) -> bool {
        self.management || self.rules.mesh().unwrap_or(self.default) >= Access::Write
    }

    /// Whether it may write some service: a proxy may look up what proxies need.
    pub(crate) fn any_service_write(&self) -> bool {
        self.management || self.rules.any_service(Access::Write) || self.default >= Access::Write
    }

    pub(crate) fn mesh_read(&self) -> bool {
        self.management || self.rules.mesh().unwrap_or(self.default) >= Access::Read
    }

    /// 403 with Consul's sentence: `wanted` is for example `service:write`.
    pub(crate) fn denied(&self, wanted: &str, resource: Option<&str>) -> Reply {
        Reply::forbidden(self.denied_text(wanted, resource))
    }

    pub(crate) fn denied_text(&self, wanted: &str, resource: Option<&str>) -> String {
        let on = resource
            .map(|name| format!(" on {name:?}"))
            .unwrap_or_default();
        match &self.accessor {
            None => format!(
                "Permission denied: anonymous token lacks permission '{wanted}'{on}. The anonymous token is used implicitly when a request does not specify a token."
            ),
            Some(accessor) => format!(
                "Permission denied: token with AccessorID '{accessor}' lacks permission '{wanted}'{on}"
            ),
        }
    }

    pub(crate) fn need_service_write(&self, name: &str) -> Result<(), Reply> {
        if self.service_write(name) {
            Ok(())
        } else {
            Err(self.denied("service:write", Some(name)))
        }
    }

    pub(crate) fn need_service_read(&self, name: &str) -> Result<(), Reply> {
        if self.service_read(name) {
            Ok(())
        } else {
            Err(self.denied("service:read", Some(name)))
        }
    }

    pub(crate) fn need_intention_read(&self, name: &str) -> Result<(), Reply> {
        if self.intention_read(name) {
            Ok(())
        } else {
            Err(self.denied("intention:read", Some(name)))
        }
    }

    pub(crate) fn need_intention_write(&self, name: &str) -> Result<(), Reply> {
        if self.intention_write(name) {
            Ok(())
        } else {
            Err(self.denied("intention:write", Some(name)))
        }
    }

    pub(crate) fn need_peering_read(&self) -> Result<(), Reply> {
        if self.management || self.rules.peering().unwrap_or(self.default) >= Access::Read {
            Ok(())
        } else {
            Err(self.denied("peering:read", None))
        }
    }

    pub(crate) fn need_operator_write(&self) -> Result<(), Reply> {
        if self.operator_write() {
            Ok(())
        } else {
            Err(self.denied("operator:write", None))
        }
    }

    pub(crate) fn need_mesh_write(&self) -> Result<(), Reply> {
        if self.mesh_write() {
            Ok(())
        } else {
            Err(self.denied("mesh:write", None))
        }
    }
}
