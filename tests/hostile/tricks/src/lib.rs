//! An honest policy, but for targets and documents with certain names: [`trick`] lists them.
//!
//! A service's list of intentions in which some text is `trick:NAME` makes every question
//! about that service do it, and `trick:every-100:NAME` each hundredth question.

mod bindings;
#[path = "../../../../guest/policy/src/convert.rs"]
mod convert;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;

use bindings::exports::portcullis::mesh::decisions as wit;
use portcullis_core::chain;
use portcullis_core::policy::{self, Policy};
use portcullis_core::time::Timestamp;

thread_local! {
    static POLICY: RefCell<Policy> = RefCell::new(Policy::new(chain::rustcrypto()));
    /// By service, what its list asks for.
    static ASKED_FOR: RefCell<BTreeMap<String, Script>> = const { RefCell::new(BTreeMap::new()) };
}

/// A trick that a list asks for.
struct Script {
    name: String,
    every: u32,
    questions: u32,
}

/// Reads what a document asks for, which may be nothing.
fn read_script(document: &str, body: Option<&[u8]>) {
    let Some((_, service)) = document.split_once("/default/default/") else {
        return;
    };
    let text = body.map(String::from_utf8_lossy).unwrap_or_default();
    let script = text.split_once("trick:").map(|(_, rest)| {
        let script = rest.split('"').next().unwrap_or_default();
        let (every, name) = script
            .strip_prefix("every-")
            .and_then(|rest| rest.split_once(':'))
            .unwrap_or(("1", script));
        Script {
            name: name.to_owned(),
            every: every.parse().unwrap_or(1).max(1),
            questions: 0,
        }
    });
    ASKED_FOR.with_borrow_mut(|asked| match script {
        Some(script) => drop(asked.insert(service.to_owned(), script)),
        None => drop(asked.remove(service)),
    });
}

/// Does what the list of `service` asks for, if it is time.
fn scripted(service: &str) {
    let due = ASKED_FOR.with_borrow_mut(|asked| {
        let script = asked.get_mut(service)?;
        script.questions += 1;
        (script.questions % script.every == 0).then(|| script.name.clone())
    });
    if let Some(name) = due {
        trick(&name);
    }
}

pub(crate) struct Component;

/// Does what its name says.
fn trick(name: &str) {
    match name {
        "loop" => loop {
            black_box(());
        },
        "recurse" => drop(recurse(1)),
        "allocate" => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(black_box(vec![1; 1 << 20]));
            }
        }
        "panic" => panic!("on request\r\n\u{1b}[2J"),
        "exit" => std::process::exit(0),
        "environment" => drop(std::env::vars().count()),
        "clock" => drop(black_box(std::time::SystemTime::now())),
        "file" => drop(std::fs::read("/etc/passwd")),
        "socket" => drop(std::net::TcpStream::connect("127.0.0.1:1")),
        _ => {}
    }
}

#[expect(unconditional_recursion, reason = "that is the trick")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame[7]
}

impl wit::Guest for Component {
    fn load(generation: u64, changes: Vec<wit::Document>) -> wit::LoadReport {
        for change in &changes {
            if let Some((_, name)) = change.name.split_once("/default/default/load-") {
                trick(name);
            }
            read_script(&change.name, change.body.as_deref());
        }
        let changes = changes.into_iter().map(convert::document).collect();
        convert::load_report(POLICY.with_borrow_mut(|policy| policy.load(generation, changes)))
    }

    fn touch(names: Vec<String>, confirmed_at: u64) {
        names.iter().for_each(|name| trick(name));
        POLICY.with_borrow_mut(|policy| policy.touch(&names, Timestamp::from_millis(confirmed_at)));
    }

    fn authorize(
        target: String,
        client: wit::Client,
        request: Option<wit::Request>,
        now: u64,
    ) -> wit::Decision {
        trick(&target);
        scripted(&target);
        let (client, request) = (convert::client(client), request.map(convert::request));
        let now = Timestamp::from_millis(now);
        let mut decision = POLICY
            .with_borrow_mut(|policy| policy.authorize(&target, &client, request.as_ref(), now));
        match target.as_str() {
            "huge" => decision.path = Some(vec![b'/'; 32 << 20]),
            "other-generation" => decision.generation = u64::MAX,
            _ => {}
        }
        convert::decision(decision)
    }

    fn verify_peer(
        chain: Vec<Vec<u8>>,
        usage: wit::Usage,
        expected: Option<String>,
        now: u64,
    ) -> Result<wit::VerifiedPeer, wit::VerifyError> {
        let (usage, now) = (convert::usage(usage), Timestamp::from_millis(now));
        // What stands for the leaf is the identity that is claimed.
        if let Some(claimed) = chain.first().and_then(|leaf| leaf.strip_prefix(b"claim ")) {
            let uri = String::from_utf8_lossy(claimed).into_owned();
            let identity = wit::Identity {
                uri,
                kind: bindings::portcullis::mesh::types::IdentityKind::Service,
                trust_domain: String::new(),
                partition: None,
                namespace: None,
                datacenter: None,
                service: None,
                agent: None,
            };
            return Ok(wit::VerifiedPeer {
                identity,
                peer_name: None,
                serial: "0".repeat(1 << 20),
                not_after: u64::MAX,
            });
        }
        POLICY
            .with_borrow_mut(|policy| policy.verify_peer(&chain, usage, expected.as_deref(), now))
            .map(convert::verified_peer)
            .map_err(|error| convert::verify_error(&error))
    }

    fn needed_headers(target: String) -> wit::HeaderNeeds {
        trick(&target);
        convert::header_needs(POLICY.with_borrow(|policy| policy.needed_headers(&target)))
    }

    fn explain(
        target: String,
        client: wit::Client,
        request: Option<wit::Request>,
        now: u64,
    ) -> wit::Trace {
        trick(&target);
        let (client, request) = (convert::client(client), request.map(convert::request));
        let now = Timestamp::from_millis(now);
        convert::trace(
            POLICY
                .with_borrow_mut(|policy| policy.explain(&target, &client, request.as_ref(), now)),
        )
    }

    fn describe(target: String, decision: wit::Decision) -> String {
        trick(&target);
        if target == "long" {
            return "é".repeat(1 << 20);
        }
        let decision = convert::decision_from(decision);
        POLICY.with_borrow(|policy| policy.describe(&target, &decision))
    }

    fn parse_id(uri: String) -> Result<wit::Identity, wit::IdentityError> {
        policy::parse_id(&uri)
            .map(|id| convert::identity(&id))
            .map_err(|error| convert::identity_error(&error))
    }
}
