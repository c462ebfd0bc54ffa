//! TTL checks: register, deregister, report.

use tokio::time::Instant;

use crate::acl::Authorizer;
use crate::catalog::{Check, Status, check_definition};
use crate::core::{Core, Keep, State};
use crate::http::options::Options;
use crate::http::reply::{Outcome, Reply};
use crate::http::{Request, json};

/// What a service may say about itself, in bytes; Consul cuts here too.
const MAX_OUTPUT: usize = 4096;

impl Core {
    /// `PUT /v1/agent/check/register`.
    pub(super) fn register_check(&self, request: &Request, options: &Options) -> Outcome {
        let refuse = |error: String| Reply::bad_request(format!("Request decode failed: {error}"));
        let body = json::parse(&request.body).map_err(refuse)?;
        let (definition, builder) = check_definition(&body).map_err(Reply::bad_request)?;
        let token = self.acl.resolve(&options.token)?;
        self.write(Keep::OnDisk, |state, index| {
            let id = definition.service_id.clone();
            let service =
                match id.as_str() {
                    "" => None,
                    id => Some(state.catalog.services.get(id).cloned().ok_or_else(|| {
                        Reply::not_found(format!("ServiceID {id:?} does not exist"))
                    })?),
                };
            let check = builder.build(definition, service.as_ref());
            self.may_write_check(&token, &check)?;
            if let Some(known) = state.catalog.checks.get(&check.id) {
                self.may_write_check(&token, known)?;
            }
            state.catalog.add_check(check, index);
            Ok((Reply::empty(), true))
        })
    }

    /// `PUT /v1/agent/check/deregister/:id`.
    pub(super) fn deregister_check(&self, options: &Options, id: &str) -> Outcome {
        let token = self.acl.resolve(&options.token)?;
        self.write(Keep::OnDisk, |state, index| {
            self.may_write_check(&token, known(state, id)?)?;
            Ok((Reply::empty(), state.catalog.remove_check(id, index)))
        })
    }

    /// `PUT /v1/agent/check/{pass,warn,fail,update}/:id`; an empty `status` is
    /// the update, which has a body.
    pub(super) fn report_check(
        &self,
        request: &Request,
        options: &Options,
        status: &str,
        id: &str,
    ) -> Outcome {
        let (status, mut output) = if status.is_empty() {
            let refuse =
                |error: String| Reply::bad_request(format!("Request decode failed: {error}"));
            let body = json::parse(&request.body).map_err(refuse)?;
            let known = ["Status", "Output"];
            let object = json::Object::new(&body, "checkUpdate", "agent.checkUpdate", &known)
                .map_err(refuse)?;
            let status = object.text("Status").map_err(refuse)?;
            (status, object.text("Output").map_err(refuse)?)
        } else {
            (
                status.to_owned(),
                request.param("note").unwrap_or_default().to_owned(),
            )
        };
        let status = Status::parse(&status)
            .ok_or_else(|| Reply::bad_request(format!("Invalid check status: '{status}'")))?;
        if output.len() > MAX_OUTPUT {
            let total = output.len();
            let mut end = MAX_OUTPUT;
            while !output.is_char_boundary(end) {
                end -= 1;
            }
            output.truncate(end);
            output.push_str(&format!(" ... (captured {MAX_OUTPUT} of {total} bytes)"));
        }
        let token = self.acl.resolve(&options.token)?;
        let now = Instant::now();
        self.write(Keep::InMemory, |state, index| {
            let check = known(state, id)?;
            self.may_write_check(&token, check)?;
            if check.alias.is_some() {
                return Err(Reply::server_error(format!(
                    "CheckID {id:?} does not have associated TTL"
                )));
            }
            Ok((
                Reply::empty(),
                state.catalog.report(id, status, &output, now, index),
            ))
        })
    }

    fn may_write_check(&self, token: &Authorizer, check: &Check) -> Result<(), Reply> {
        if !check.service_name.is_empty() {
            return token.need_service_write(&check.service_name);
        }
        if token.node_write(&self.node.name) {
            return Ok(());
        }
        Err(token.denied("node:write", Some(&self.node.name)))
    }
}

fn known<'a>(state: &'a State, id: &str) -> Result<&'a Check, Reply> {
    state.catalog.checks.get(id).ok_or_else(|| {
        Reply::not_found(format!(
            "Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name."
        ))
    })
}
