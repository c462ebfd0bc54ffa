//! Named pieces of policy, and what became of them.

use crate::time::Timestamp;

/// One named piece of policy: `mesh`, or `service/<partition>/<namespace>/<name>`.
/// Bodies are JSON, described in `wit/documents.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Name, as above.
    pub name: String,
    /// JSON; absent to remove the document.
    pub body: Option<Vec<u8>>,
    /// When the agent last confirmed it.
    pub confirmed_at: Timestamp,
}

/// What became of a load. Documents that are not in `refused` are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Documents that could not be read: their predecessors, if any, stay in force and age.
    pub refused: Vec<LoadProblem>,
    /// Rules that could not be read (they deny what reaches them) and fields that were ignored.
    pub warnings: Vec<LoadProblem>,
}

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadProblem {
    /// Name of the document; printable.
    pub document: String,
    /// Where in the document, as a JSON pointer (RFC 6901); printable.
    pub pointer: String,
    /// What, and what follows from it; printable.
    pub text: String,
}
