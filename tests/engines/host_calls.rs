//! Host calls that the filter is not allowed: nobody passes who should not, and the filter's own
//! code does not panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use portcullis_tests::components;
use portcullis_tests::proxy_wasm::{Filter, Machine, Shelf};

use crate::mesh::{Kind, Mesh};

/// Where the crate `proxy-wasm` panics whatever we do, which fails the VM: before it hands on a
/// reply.
const FAIL: [&str; 1] = ["proxy_set_effective_context"];

const CLIENTS: [(&str, Kind); 4] = [
    ("web", Kind::Connection),
    ("web", Kind::Request),
    ("evil", Kind::Connection),
    ("evil", Kind::Request),
];

/// Which of the clients pass, before there is a policy and with one; `None` where the
/// configuration is refused.
fn passes(filter: &Filter) -> Option<[bool; 4]> {
    let mut mesh = Mesh::new(&[("db", "web")]);
    let configuration = Mesh::configuration("db", 1_000);
    let mut machine = Machine::start(filter, &Shelf::default(), &configuration).ok()?;
    for (client, kind) in CLIENTS {
        assert!(
            !mesh.passes(&mut machine, 1, client, kind),
            "without a policy"
        );
    }
    for _ in 0..6 {
        mesh.tick(&mut machine);
    }
    Some(CLIENTS.map(|(client, kind)| mesh.passes(&mut machine, 1, client, kind)))
}

#[test]
fn a_call_that_is_not_allowed_lets_nobody_pass() {
    let filter = Filter::compile(&components::envoy_filter());
    assert_eq!(passes(&filter), Some([true, true, false, false]));
    for call in filter.host_calls() {
        let filter = filter.without(&call);
        let result = catch_unwind(AssertUnwindSafe(|| passes(&filter)));
        assert_eq!(result.is_err(), FAIL.contains(&call.as_str()), "{call}");
        if let Ok(Some(passed)) = result {
            assert_eq!(passed[2..], [false, false], "{call}");
        }
    }
}
