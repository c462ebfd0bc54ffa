//! How a decision came about.

use crate::identity::SpiffeId;
use crate::intention::Decision;

/// How a decision came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The decision, equal to what `authorize` answers.
    pub decision: Decision,
    /// The decision in one sentence.
    pub text: String,
    /// The client's identity as it was read.
    pub source: Option<SpiffeId>,
    /// Intentions in the order in which they were considered, up to the deciding one.
    pub steps: Vec<Step>,
    /// The default policy and where it came from.
    pub default_policy: String,
    /// Anything else that a reader should know.
    pub notes: Vec<String>,
}

/// One intention, as `explain` saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its place in the list, highest precedence first, from 0.
    pub intention: u32,
    /// Its precedence, computed from its names.
    pub precedence: u32,
    /// The rule in words, for example `web -> db: allow`.
    pub rule: String,
    /// Whether its source covers the client.
    pub matched: bool,
    /// The first part that did not match.
    pub failed: Option<String>,
}
