//! Host calls that the filter is not allowed: nobody passes who should not, and the filter's own
//! code does not panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use portcullis_testkit::TestCa;
use portcullis_tests::components;
use portcullis_tests::proxy_wasm::{Answer, Call, Filter, Machine, Shelf};
use serde_json::json;

/// Where the crate `proxy-wasm` panics whatever we do, which fails the VM: before it hands on a
/// reply, and where what is taken for a connection sends a request.
const FAIL: [&str; 2] = ["proxy_get_property", "proxy_set_effective_context"];

fn answer(call: &Call, root: &str) -> Option<Answer> {
    let body = match call.path() {
        path if path.starts_with("/v1/agent/connect/ca/roots") => {
            json!({ "ActiveRootID": "1", "TrustDomain": "t.consul", "Roots": [
                { "ID": "1", "Name": "", "RootCert": root, "Active": true }] })
        }
        path if path.starts_with("/v1/connect/intentions/match") => json!({ "db": [{
            "SourceName": "web", "SourceNS": "default", "DestinationName": "db",
            "DestinationNS": "default", "SourceType": "consul", "Action": "allow",
        }]}),
        _ => return Some((404, Vec::new(), Vec::new())),
    };
    let index = ("x-consul-index".to_owned(), "7".to_owned());
    Some((200, vec![index], body.to_string().into_bytes()))
}

/// Whether `web` and `evil` pass, each with a connection and a request.
fn passes(filter: &Filter, ca: &TestCa) -> Option<[bool; 4]> {
    let configuration = json!({
        "service": "db", "agent": { "cluster": "agent" }, "default_policy": "deny",
        "start_wait_ms": 1_000, "max_stale_ms": 0, "request_normalization": {},
    });
    let shelf = Shelf::default();
    let mut machine = Machine::start(filter, &shelf, &configuration.to_string()).ok()?;
    machine.world().wall = 1_800_000_000 * 1_000_000_000;
    let mut passed = [false; 4];
    // Once before there is a policy, and then with one.
    for round in 0..2 {
        for (index, (service, is_request)) in [
            ("web", false),
            ("web", true),
            ("evil", false),
            ("evil", true),
        ]
        .into_iter()
        .enumerate()
        {
            let leaf = ca.leaf(&format!(
                "spiffe://t.consul/ns/default/dc/dc1/svc/{service}"
            ));
            let leaf = leaf.with(|draft| draft.valid(-2_000_000_000, 2_000_000_000));
            let mut properties = vec![
                ("connection\0id", (index as u64).to_le_bytes().to_vec()),
                (
                    "connection\0peer_certificate",
                    leaf.issue().pem().into_bytes(),
                ),
                ("connection\0peer_certificate_valid", vec![1]),
            ];
            if is_request {
                properties.push(("request\0protocol", b"HTTP/1.1".to_vec()));
            }
            let properties = properties.into_iter();
            machine.world().properties = properties
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            let context = machine.context();
            let goes_on = if is_request {
                machine.world().headers =
                    [(":method", "GET"), (":path", "/"), (":authority", "db")]
                        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
                        .to_vec();
                machine.request(context)
            } else {
                machine.bytes(context, true)
            };
            let resumed = &machine.did().resumed;
            assert!(resumed.is_empty(), "{resumed:?}");
            passed[index] |= goes_on;
            assert!(!goes_on || round == 1, "without a policy");
            machine.delete(context);
        }
        for _ in 0..6 {
            machine.tick();
            while machine.answer(|call| answer(call, &ca.pem())) {}
        }
    }
    Some(passed)
}

#[test]
fn a_call_that_is_not_allowed_lets_nobody_pass() {
    let filter = Filter::compile(&components::envoy_filter());
    let ca = TestCa::new("t.consul");
    assert_eq!(passes(&filter, &ca), Some([true, true, false, false]));
    for call in filter.host_calls() {
        let filter = filter.without(&call);
        let result = catch_unwind(AssertUnwindSafe(|| passes(&filter, &ca)));
        assert_eq!(result.is_err(), FAIL.contains(&call.as_str()), "{call}");
        if let Ok(Some(passed)) = result {
            assert_eq!(passed[2..], [false, false], "{call}");
            println!("{call}: {passed:?}");
        }
    }
}
