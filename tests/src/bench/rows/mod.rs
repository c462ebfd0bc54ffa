//! The rows of the table. Each is one file, and can be asked for by name.

mod apply;
mod bulk;
mod connections;
mod filter;
mod intention;
mod memory;
mod requests;
mod rotation;
mod round_trip;
mod start;

use anyhow::Result;

use super::Bench;
use super::figures::Figure;

/// A row, or a few that are measured together.
pub struct Row {
    /// How it is asked for.
    pub name: &'static str,
    /// What it measures, in a sentence.
    pub about: &'static str,
    /// Measures it.
    pub measure: fn(&mut Bench) -> Result<Vec<Figure>>,
}

/// All rows, in the order of the table.
pub const ALL: &[Row] = &[
    Row {
        name: "connections",
        about: "a new mTLS connection with a certificate that was seen before, and one echoed byte",
        measure: connections::known,
    },
    Row {
        name: "first-seen",
        about: "the same with a certificate that the proxy has never seen",
        measure: connections::strangers,
    },
    Row {
        name: "cross-signed",
        about: "the same with a certificate of a CA that is known only by a cross-signed intermediate",
        measure: connections::cross_signed,
    },
    Row {
        name: "bulk",
        about: "bytes one way, then the other",
        measure: bulk::measure,
    },
    Row {
        name: "round-trip",
        about: "128 bytes there and back on an open connection",
        measure: round_trip::measure,
    },
    Row {
        name: "http1",
        about: "a request on an open HTTP/1.1 connection, judged by an intention of five permissions",
        measure: requests::http1,
    },
    Row {
        name: "http2",
        about: "the same by HTTP/2",
        measure: requests::http2,
    },
    Row {
        name: "million",
        about: "what a million requests leave in memory, by either version",
        measure: requests::million,
    },
    Row {
        name: "filter-http",
        about: "a request through Envoy with our filter, beside an empty filter, native RBAC, and none",
        measure: filter::requests,
    },
    Row {
        name: "filter-l4",
        about: "a new mTLS connection through the same",
        measure: filter::connections,
    },
    Row {
        name: "filter-million",
        about: "what a million requests leave in the memory of Envoy with our filter",
        measure: filter::million,
    },
    Row {
        name: "memory",
        about: "resident memory, idle, and for each idle connection",
        measure: memory::measure,
    },
    Row {
        name: "start",
        about: "from the start of a process to the first connection that is let through",
        measure: start::measure,
    },
    Row {
        name: "apply",
        about: "from a change in the agent to the last instance of the policy that judges by it",
        measure: apply::measure,
    },
    Row {
        name: "intention",
        about: "from the writing of an intention to new connections that are judged by it",
        measure: intention::new_connections,
    },
    Row {
        name: "cut",
        about: "from the writing of an intention to the end of an open connection that it forbids",
        measure: intention::open_connections,
    },
    Row {
        name: "rotation",
        about: "new handshakes that fail while the CA is rotated, cross-signed and not",
        measure: rotation::measure,
    },
];
