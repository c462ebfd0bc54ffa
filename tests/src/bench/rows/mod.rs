//! The rows of the table. Each is one file, and can be asked for by name.

mod bulk;
mod connections;
mod memory;
mod round_trip;

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
        name: "memory",
        about: "resident memory, idle, and for each idle connection",
        measure: memory::measure,
    },
];
