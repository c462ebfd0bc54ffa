//! Simple mode: the agent's `authorize` for each connection, after our own identity check.
//!
//! The agent looks at neither trust domain nor datacenter, and answers L4 only. Whatever
//! keeps it from answering denies.
use portcullis_core::agent::authorize::{self, Authorization};
use portcullis_core::identity::SpiffeId;
use portcullis_core::intention::{Decision, Destination, Effect, Reason};
use portcullis_core::policy::Client;

use crate::bindings::wasi::io::poll;
use crate::clock;
use crate::fetch::{Fetch, Look, Reply};
use crate::mesh::{Mesh, is_default};

/// Asks the agent about a client whose identity the policy has accepted.
pub(crate) fn authorize(mesh: &mut Mesh, target: &Destination, client: &Client) -> Decision {
    let denied = |code| Decision::denied(code, mesh.generation());
    if !is_default(target) {
        // The agent's `authorize` has no place for a namespace.
        return denied(Reason::UnknownTarget);
    }
    // In its canonical form: the agent reads URIs more leniently than we do.
    let [uri] = client.uris.as_slice() else {
        return denied(Reason::NoIdentity);
    };
    let Ok(id) = SpiffeId::parse(uri) else {
        return denied(Reason::MalformedIdentity);
    };
    match ask(mesh, target, &id.to_string()) {
        Ok(answer) => {
            mesh.authorize_error = None;
            let effect = if answer.authorized {
                Effect::Allow
            } else {
                Effect::Deny
            };
            Decision {
                effect,
                ..Decision::denied(reason(&answer), mesh.generation())
            }
        }
        Err(error) => {
            mesh.authorize_error = Some(error);
            Decision::denied(Reason::NotReady, mesh.generation())
        }
    }
}

fn ask(mesh: &Mesh, target: &Destination, uri: &str) -> Result<Authorization, String> {
    let request = authorize::request(target.name(), uri, "").map_err(|e| e.to_string())?;
    let start = clock::monotonic();
    let deadline = start.saturating_add(u64::from(mesh.settings.fetch_timeout));
    let fetch = Fetch::send(&mesh.agent, &request, start)?;
    let reply = wait(fetch, deadline)?;
    authorize::decode(&reply.as_reply()).map_err(|e| e.to_string())
}

fn wait(mut fetch: Fetch, deadline: u64) -> Result<Reply, String> {
    let timer = clock::at(deadline);
    loop {
        match fetch.look(clock::monotonic()) {
            Look::Done(result) => return result,
            Look::Pending(_) if clock::monotonic() >= deadline => {
                return Err("no reply in time".to_owned());
            }
            Look::Pending(pending) => fetch = pending,
        }
        poll::poll(&[fetch.pollable(), &timer]);
    }
}

/// Which kind of rule answered, from the agent's words. They do not change the effect.
fn reason(answer: &Authorization) -> Reason {
    if answer.by_default() {
        Reason::DefaultPolicy
    } else if answer.reason.starts_with("Matched L7 intention") && !answer.authorized {
        Reason::L7IntentionOnTcp
    } else {
        Reason::Intention
    }
}
