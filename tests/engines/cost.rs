//! What a request and a connection cost in the filter: instructions and calls into it, which are
//! the same on every machine. Envoy's own work, which is most, is what `cargo xtask bench`
//! measures.

use portcullis_tests::bench::http::policy;
use portcullis_tests::components;
use portcullis_tests::proxy_wasm::{Filter, Machine, Shelf, Spent};

use crate::mesh::{Kind, Mesh};

/// A machine with a policy that has seen the client before.
fn warm(kind: Kind) -> (Mesh, Machine) {
    let filter = Filter::counting(&components::envoy_filter());
    let mut mesh = Mesh::new(&[("db", "web")]);
    if kind == Kind::Request {
        mesh.permissions = Some(policy::permissions());
    }
    let configuration = Mesh::configuration("db", 1_000);
    let mut machine =
        Machine::start(&filter, &Shelf::default(), &configuration).expect("it is good");
    for _ in 0..6 {
        mesh.tick(&mut machine);
    }
    for _ in 0..20 {
        assert!(mesh.passes(&mut machine, 1, "web", kind));
    }
    let _ = machine.spent();
    (mesh, machine)
}

/// At most so much; the figures of today lie a tenth below.
fn at_most(spent: Spent, instructions: u64, entries: u64) {
    println!("{spent:?}");
    assert!(spent.instructions <= instructions, "{spent:?}");
    assert_eq!(spent.entries, entries, "{spent:?}");
}

#[test]
fn a_request_costs_so_much() {
    let (mesh, mut machine) = warm(Kind::Request);
    assert!(mesh.again(&mut machine, 1, "web", Kind::Request));
    // Made, judged and gone; the connection's number and the headers need memory.
    at_most(machine.spent(), 29_000, 5);
}

#[test]
fn a_connection_costs_so_much() {
    let (mut mesh, mut machine) = warm(Kind::Connection);
    assert!(mesh.passes(&mut machine, 1, "web", Kind::Connection));
    // Made, judged and gone; the certificate's digest and whether it is valid need memory.
    at_most(machine.spent(), 9_300, 5);
}
