//! `POST /v1/agent/connect/authorize`.

use serde_json::json;

use crate::config::DefaultPolicy;
use crate::core::Core;
use crate::entry::intentions::Verdict;
use crate::http::options::Options;
use crate::http::reply::{AGE, Outcome, Reply, X_CACHE};
use crate::http::{Request, json};
use crate::spiffe::{self, Identity};

impl Core {
    /// Judges one connection by the local intentions, as Consul does.
    pub(super) fn authorize(&self, request: &Request, options: &Options) -> Outcome {
        const KNOWN: [&str; 3] = ["Target", "ClientCertURI", "ClientCertSerial"];
        let refuse = |error: String| Reply::bad_request(format!("Request decode failed: {error}"));
        let body = json::parse(&request.body).map_err(refuse)?;
        let go_type = "structs.ConnectAuthorizeRequest";
        let object =
            json::Object::new(&body, "ConnectAuthorizeRequest", go_type, &KNOWN).map_err(refuse)?;
        let target = object.text("Target").map_err(refuse)?;
        let uri = object.text("ClientCertURI").map_err(refuse)?;
        object.text("ClientCertSerial").map_err(refuse)?;
        if target.is_empty() {
            return Err(Reply::bad_request("Target service must be specified"));
        }
        let service = match spiffe::parse(&uri) {
            None => {
                return Err(Reply::bad_request(
                    "ClientCertURI not a valid Connect identifier",
                ));
            }
            Some(Identity::Other) => {
                return Err(Reply::bad_request(
                    "ClientCertURI not a valid Service identifier",
                ));
            }
            Some(Identity::Service(service)) => service,
        };
        let token = self.acl.resolve(&options.token).map_err(|_| {
            Reply::forbidden("Could not resolve token to authorizer: ACL not found")
        })?;
        token.need_service_write(&target)?;
        if service.partition != "default" {
            let text = format!(
                "Mismatched partitions: {:?} != \"default\"",
                service.partition
            );
            return Err(Reply::bad_request(text));
        }
        if !token.intention_read(&target) {
            let text = token.denied_text("intention:read", Some(&target));
            return Err(Reply::forbidden(format!(
                "failed getting intention match: {text}"
            )));
        }
        let verdict = self.read(|state| {
            state
                .entries
                .judge(&service.namespace, &service.name, &target)
        });
        let (authorized, reason) = match (verdict, self.config.default_intention_policy) {
            (Verdict::Intention { allowed, reason }, _) => (allowed, reason),
            (Verdict::Default, Some(policy)) => (
                policy == DefaultPolicy::Allow,
                "Default intention policy".to_owned(),
            ),
            (Verdict::Default, None) => {
                let allowed = self.acl.default_policy() == DefaultPolicy::Allow;
                (allowed, "Default behavior configured by ACLs".to_owned())
            }
        };
        let reply = Reply::json(json!({"Authorized": authorized, "Reason": reason}));
        let key = format!("match {} {}", options.token, target);
        Ok(if self.seen_before(key) {
            reply.with(X_CACHE, "HIT").with(AGE, "0")
        } else {
            reply.with(X_CACHE, "MISS")
        })
    }
}
