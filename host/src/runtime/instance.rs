//! One live instance of a policy component.

use portcullis_core::chain::{Usage, VerifiedPeer};
use portcullis_core::identity::SpiffeId;
use portcullis_core::intention::Decision;
use portcullis_core::policy::{Client, Document, HeaderNeeds, LoadReport, Request, Trace};
use portcullis_core::time::Timestamp;
use wasmtime::{Store, Trap};

use super::answer::{Failure, IdentityError, VerifyError, bounded};
use super::bindings::Policy as Exports;
use super::bindings::portcullis::mesh::types as wit;
use super::compile::one_line;
use super::component::Component;
use super::engine::Running;
use super::imports::{State, store};
use super::limits::Limits;
use super::{convert, engine};

/// An instance with its memory. After a failure it must not be used again.
pub(super) struct Instance {
    store: Store<State>,
    exports: Exports,
    /// The generation that was loaded last.
    generation: u64,
    deadlines: Deadlines,
}

#[derive(Clone, Copy)]
struct Deadlines {
    decision: u64,
    verification: u64,
    load: u64,
}

impl Instance {
    /// An instance without documents.
    pub(super) fn new(component: &Component, limits: &Limits) -> Result<Self, Failure> {
        let _running = running()?;
        let deadlines = Deadlines {
            decision: engine::ticks(limits.decision),
            verification: engine::ticks(limits.verification),
            load: engine::ticks(limits.load),
        };
        let pre = component.pre();
        let mut store = store(pre.engine(), limits);
        store.set_epoch_deadline(deadlines.load);
        let exports = pre
            .instantiate(&mut store)
            .map_err(|error| failure(&error))?;
        Ok(Self {
            store,
            exports,
            generation: 0,
            deadlines,
        })
    }

    pub(super) fn load(
        &mut self,
        generation: u64,
        changes: &[Document],
    ) -> Result<LoadReport, Failure> {
        let changes: Vec<_> = changes.iter().map(convert::document).collect();
        let _running = self.begin(self.deadlines.load)?;
        let report = self
            .exports
            .portcullis_mesh_decisions()
            .call_load(&mut self.store, generation, &changes)
            .map_err(|error| failure(&error))?;
        self.generation = generation;
        Ok(convert::load_report(report))
    }

    pub(super) fn touch(&mut self, names: &[&str], confirmed_at: Timestamp) -> Result<(), Failure> {
        let _running = self.begin(self.deadlines.load)?;
        self.exports
            .portcullis_mesh_decisions()
            .call_touch(&mut self.store, names, confirmed_at.as_millis())
            .map_err(|error| failure(&error))
    }

    pub(super) fn authorize(
        &mut self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Result<Decision, Failure> {
        let request = request.map(convert::request);
        let via_gateway = client.via_gateway.as_deref();
        // The usual client has one name, which then needs no list of its own.
        let decision = if let [uri] = client.uris.as_slice() {
            self.ask_authorize(
                target,
                wit::Client {
                    uris: &[uri],
                    via_gateway,
                },
                request,
                now,
            )
        } else {
            let uris: Vec<&str> = client.uris.iter().map(String::as_str).collect();
            self.ask_authorize(
                target,
                wit::Client {
                    uris: &uris,
                    via_gateway,
                },
                request,
                now,
            )
        }?;
        self.of_this_generation(decision)
    }

    fn ask_authorize(
        &mut self,
        target: &str,
        client: wit::Client<'_>,
        request: Option<wit::Request<'_>>,
        now: Timestamp,
    ) -> Result<Decision, Failure> {
        let _running = self.begin(self.deadlines.decision)?;
        self.exports
            .portcullis_mesh_decisions()
            .call_authorize(&mut self.store, target, client, request, now.as_millis())
            .map(convert::decision)
            .map_err(|error| failure(&error))
    }

    pub(super) fn verify_peer(
        &mut self,
        chain: &[&[u8]],
        usage: Usage,
        expected: Option<&str>,
        now: Timestamp,
    ) -> Result<Result<VerifiedPeer, VerifyError>, Failure> {
        let _running = self.begin(self.deadlines.verification)?;
        let answer = self
            .exports
            .portcullis_mesh_decisions()
            .call_verify_peer(
                &mut self.store,
                chain,
                convert::usage(usage),
                expected,
                now.as_millis(),
            )
            .map_err(|error| failure(&error))?;
        match answer {
            Ok(peer) => convert::verified_peer(peer, expected).map(Ok),
            Err(error) => Ok(Err(convert::verify_error(error))),
        }
    }

    pub(super) fn needed_headers(&mut self, target: &str) -> Result<HeaderNeeds, Failure> {
        let _running = self.begin(self.deadlines.decision)?;
        self.exports
            .portcullis_mesh_decisions()
            .call_needed_headers(&mut self.store, target)
            .map(convert::header_needs)
            .map_err(|error| failure(&error))
    }

    pub(super) fn explain(
        &mut self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Result<Trace, Failure> {
        let uris: Vec<&str> = client.uris.iter().map(String::as_str).collect();
        let client = wit::Client {
            uris: &uris,
            via_gateway: client.via_gateway.as_deref(),
        };
        let _running = self.begin(self.deadlines.load)?;
        let trace = self
            .exports
            .portcullis_mesh_decisions()
            .call_explain(
                &mut self.store,
                target,
                client,
                request.map(convert::request),
                now.as_millis(),
            )
            .map_err(|error| failure(&error))?;
        let mut trace = convert::trace(trace)?;
        trace.decision = self.of_this_generation(trace.decision)?;
        Ok(trace)
    }

    pub(super) fn describe(
        &mut self,
        target: &str,
        decision: &Decision,
    ) -> Result<String, Failure> {
        let _running = self.begin(self.deadlines.decision)?;
        self.exports
            .portcullis_mesh_decisions()
            .call_describe(&mut self.store, target, convert::decision_param(decision))
            .map(bounded)
            .map_err(|error| failure(&error))
    }

    pub(super) fn parse_id(
        &mut self,
        uri: &str,
    ) -> Result<Result<SpiffeId, IdentityError>, Failure> {
        let _running = self.begin(self.deadlines.decision)?;
        let answer = self
            .exports
            .portcullis_mesh_decisions()
            .call_parse_id(&mut self.store, uri)
            .map_err(|error| failure(&error))?;
        match answer {
            Ok(identity) => convert::identity(&identity).map(Ok),
            Err(error) => Ok(Err(convert::identity_error(error))),
        }
    }

    /// A call whose deadline counts from now; the one before may be over.
    fn begin(&mut self, deadline: u64) -> Result<Running, Failure> {
        let running = running()?;
        self.store.set_epoch_deadline(deadline);
        Ok(running)
    }

    /// Live connections are judged again by generation, so it must be the true one.
    fn of_this_generation(&self, decision: Decision) -> Result<Decision, Failure> {
        if decision.generation == self.generation {
            return Ok(decision);
        }
        Err(Failure(format!(
            "it answers for generation {}, and {} is loaded",
            decision.generation, self.generation
        )))
    }
}

/// A call that begins now.
pub(super) fn running() -> Result<Running, Failure> {
    Running::begin()
        .ok_or_else(|| Failure("the clock that ends calls cannot be started".to_owned()))
}

/// What a failed call means.
pub(super) fn failure(error: &wasmtime::Error) -> Failure {
    let text = match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => "it took longer than its deadline".to_owned(),
        Some(Trap::UnreachableCodeReached) => "it panicked or ran out of memory".to_owned(),
        Some(Trap::MemoryOutOfBounds | Trap::StackOverflow) => {
            "it recursed too deep or used memory that it has not".to_owned()
        }
        Some(trap) => format!("it trapped: {trap}"),
        None if format!("{error:#}").contains("wasi:cli/stderr") => "it panicked".to_owned(),
        None => one_line(error),
    };
    Failure(text)
}
