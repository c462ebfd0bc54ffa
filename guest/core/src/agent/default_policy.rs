//! Finds out what holds when no intention matches, as no endpoint of Consul says it plainly.
//!
//! First `agent/self`, where the token may read it. Else the agent is asked to authorize a
//! client that no rule can name, and its reason tells which default answered. Else it stays
//! unknown, which denies.
use super::authorize::{self, Authorization};
use super::error::{ReplyError, RequestError};
use super::reply::AllowDeny;
use super::request::HttpRequest;
use super::self_info::SelfInfo;

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// This is the default.
    Known {
        /// Allow or deny.
        policy: AllowDeny,
        /// How it was found: `agent/self` or `probe`.
        source: &'static str,
    },
    /// Ask [`probe`].
    Probe,
    /// It cannot be found out: deny, and say which setting would help.
    Unknown {
        /// Why.
        because: String,
    },
    /// The agent refused to say, as it does to a token that has been deleted: what was found
    /// before ages; without anything found before it is as [`Discovery::Unknown`].
    Refused {
        /// The refusal.
        because: String,
    },
}

/// What follows from the reply to `agent/self`.
#[must_use]
pub fn from_self(reply: &Result<SelfInfo, ReplyError>) -> Discovery {
    match reply {
        Ok(SelfInfo {
            default_policy: Some(policy),
            ..
        }) => Discovery::Known {
            policy: *policy,
            source: "agent/self",
        },
        _ => Discovery::Probe,
    }
}

/// Asks the agent about a client that no rule can name: neither its namespace nor its name
/// exists. `target` must be a service that the token may write. `nonce` makes the names
/// unguessable; rules that cover every namespace (a licensed Consul has them) still match, and
/// then the answer is [`Discovery::Unknown`].
///
/// # Errors
/// [`RequestError`] for a target that cannot be a name.
pub fn probe(target: &str, trust_domain: &str, nonce: u64) -> Result<HttpRequest, RequestError> {
    let uri = format!(
        "spiffe://{trust_domain}/ns/portcullis-probe-{nonce:016x}/dc/probe/svc/portcullis-probe-{nonce:016x}"
    );
    authorize::request(target, &uri, "")
}

/// What follows from the reply to [`probe`].
#[must_use]
pub fn from_probe(reply: &Result<Authorization, ReplyError>) -> Discovery {
    match reply {
        Ok(answer) if answer.by_default() => Discovery::Known {
            policy: if answer.authorized {
                AllowDeny::Allow
            } else {
                AllowDeny::Deny
            },
            source: "probe",
        },
        Ok(answer) => Discovery::Unknown {
            because: format!(
                "a rule for every client answered instead of the default: {}",
                super::error::excerpt(&answer.reason)
            ),
        },
        Err(error) => Discovery::Refused {
            because: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(authorized: bool, reason: &str) -> Discovery {
        from_probe(&Ok(Authorization {
            authorized,
            reason: reason.into(),
        }))
    }

    #[test]
    fn only_a_reason_that_names_a_default_is_believed() {
        for (allowed, policy) in [(true, AllowDeny::Allow), (false, AllowDeny::Deny)] {
            for reason in [
                "Default behavior configured by ACLs",
                "Default intention policy",
            ] {
                assert_eq!(
                    answer(allowed, reason),
                    Discovery::Known {
                        policy,
                        source: "probe"
                    }
                );
            }
            for reason in [
                "Matched L4 intention: */* => default/db (Precedence: 7, Action: ALLOW)",
                "",
                "default intention policy",
                "Default intention policy ",
            ] {
                assert!(
                    matches!(answer(allowed, reason), Discovery::Unknown { .. }),
                    "{reason}"
                );
            }
        }
        let refused = ReplyError::Status {
            status: 403,
            message: "Permission denied".into(),
        };
        assert!(matches!(
            from_probe(&Err(refused)),
            Discovery::Refused { .. }
        ));
    }

    #[test]
    fn an_agent_that_says_nothing_is_probed() {
        let info = |default_policy| SelfInfo {
            datacenter: "dc1".into(),
            node: String::new(),
            version: String::new(),
            connect_enabled: None,
            default_policy,
        };
        assert_eq!(
            from_self(&Ok(info(Some(AllowDeny::Deny)))),
            Discovery::Known {
                policy: AllowDeny::Deny,
                source: "agent/self"
            }
        );
        assert_eq!(from_self(&Ok(info(None))), Discovery::Probe);
        let refused = ReplyError::Status {
            status: 403,
            message: String::new(),
        };
        assert_eq!(from_self(&Err(refused)), Discovery::Probe);
    }

    #[test]
    fn a_probe_is_a_service_identity_that_cannot_exist() {
        let request = probe("db", "td.consul", 7).unwrap();
        let body = String::from_utf8(request.body.unwrap()).unwrap();
        assert!(
            body.contains("spiffe://td.consul/ns/portcullis-probe-0000000000000007/dc/"),
            "{body}"
        );
    }
}
