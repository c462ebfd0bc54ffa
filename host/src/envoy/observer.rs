//! Sees how a server for Envoy does, for operators.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{ext_authz, sds};
use crate::member::Member;
use crate::proxy::ListenAddress;
use crate::watcher::Lack;

/// Sees how a server for Envoy does. It keeps its member going, but not the server.
#[derive(Clone, Debug)]
pub struct ServerObserver {
    member: Member,
    address: ListenAddress,
    counted: Counted,
    ended: CancellationToken,
}

/// What kind of server it is, and what it counts.
#[derive(Clone, Debug)]
pub(crate) enum Counted {
    Sds(Arc<sds::Counted>),
    ExtAuthz(Arc<ext_authz::Counted>),
}

impl ServerObserver {
    pub(super) fn new(
        member: Member,
        address: ListenAddress,
        counted: Counted,
        ended: CancellationToken,
    ) -> Self {
        Self {
            member,
            address,
            counted,
            ended,
        }
    }

    /// The member of the mesh that it is.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Stops the server.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Whether it is stopping.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// What keeps it from its work; empty means ready. Certificates need no intentions.
    #[must_use]
    pub fn missing(&self) -> Vec<Lack> {
        let watcher = self.member.watcher();
        let mut missing = watcher.readiness().lacks(watcher.config().clock.now());
        if matches!(self.counted, Counted::Sds(_)) {
            missing.retain(|lack| matches!(lack.part, "leaf" | "roots"));
        }
        if self.draining() {
            missing.push(Lack {
                part: "server",
                state: "draining",
                text: "the server is stopping and answers Envoy no more".to_owned(),
            });
        }
        missing
    }

    pub(crate) fn counted(&self) -> &Counted {
        &self.counted
    }

    /// What it has done, with the name of what it is.
    pub(crate) fn report(&self) -> (&'static str, Value) {
        match &self.counted {
            Counted::Sds(counted) => {
                let counts = counted.counts();
                let told = json!({
                    "streams": counts.streams,
                    "sent": counts.sent,
                    "accepted": counts.accepted,
                    "refused": counts.refused,
                });
                ("sds", told)
            }
            Counted::ExtAuthz(counted) => {
                let counts = counted.counts();
                let told = json!({ "allowed": counts.allowed, "refused": counts.refused });
                ("ext_authz", told)
            }
        }
    }
}
