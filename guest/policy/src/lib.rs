//! The policy as a WASI component: `wit/world.wit`, world `policy`.
//!
//! Nothing is decided here. Each function turns its arguments into those of
//! `portcullis_core::policy::Policy` and the answer back.
#![deny(
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used
)]

mod bindings;
mod convert;

use std::cell::RefCell;

use bindings::exports::portcullis::mesh::decisions as wit;
use portcullis_core::chain;
use portcullis_core::policy::{self, Policy};
use portcullis_core::time::Timestamp;

thread_local! {
    /// One instance has one thread and one state.
    static POLICY: RefCell<Policy> = RefCell::new(Policy::new(chain::rustcrypto()));
}

pub(crate) struct Component;

impl wit::Guest for Component {
    fn load(generation: u64, changes: Vec<wit::Document>) -> wit::LoadReport {
        let changes = changes.into_iter().map(convert::document).collect();
        convert::load_report(POLICY.with_borrow_mut(|policy| policy.load(generation, changes)))
    }

    fn touch(names: Vec<String>, confirmed_at: u64) {
        let confirmed_at = Timestamp::from_millis(confirmed_at);
        POLICY.with_borrow_mut(|policy| policy.touch(&names, confirmed_at));
    }

    fn authorize(
        target: String,
        client: wit::Client,
        request: Option<wit::Request>,
        now: u64,
    ) -> wit::Decision {
        let (client, request) = (convert::client(client), request.map(convert::request));
        let now = Timestamp::from_millis(now);
        convert::decision(
            POLICY.with_borrow_mut(|policy| {
                policy.authorize(&target, &client, request.as_ref(), now)
            }),
        )
    }

    fn verify_peer(
        chain: Vec<Vec<u8>>,
        usage: wit::Usage,
        expected: Option<String>,
        now: u64,
    ) -> Result<wit::VerifiedPeer, wit::VerifyError> {
        let (usage, now) = (convert::usage(usage), Timestamp::from_millis(now));
        POLICY
            .with_borrow_mut(|policy| policy.verify_peer(&chain, usage, expected.as_deref(), now))
            .map(convert::verified_peer)
            .map_err(|error| convert::verify_error(&error))
    }

    fn needed_headers(target: String) -> wit::HeaderNeeds {
        convert::header_needs(POLICY.with_borrow(|policy| policy.needed_headers(&target)))
    }

    fn explain(
        target: String,
        client: wit::Client,
        request: Option<wit::Request>,
        now: u64,
    ) -> wit::Trace {
        let (client, request) = (convert::client(client), request.map(convert::request));
        let now = Timestamp::from_millis(now);
        convert::trace(
            POLICY
                .with_borrow_mut(|policy| policy.explain(&target, &client, request.as_ref(), now)),
        )
    }

    fn describe(target: String, decision: wit::Decision) -> String {
        let decision = convert::decision_from(decision);
        POLICY.with_borrow(|policy| policy.describe(&target, &decision))
    }

    fn parse_id(uri: String) -> Result<wit::Identity, wit::IdentityError> {
        policy::parse_id(&uri)
            .map(|id| convert::identity(&id))
            .map_err(|error| convert::identity_error(&error))
    }
}
