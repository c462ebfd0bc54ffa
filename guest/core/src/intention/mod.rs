//! Consul's intentions: who may talk to whom.
//!
//! [`IntentionSet::decode`] reads what the agent's match endpoint says about one
//! destination, [`IntentionSet::judge`] answers whether a client may connect, and
//! [`IntentionSet::judge_request`] whether it may send a request, asking [`Tokens`] where a
//! rule asks for a JWT. Which rule decides is Consul's documented precedence, computed
//! here; what cannot be read denies.

mod decision;
mod decode;
mod error;
pub(crate) mod json;
pub(crate) mod matcher;
mod model;
pub(crate) mod pattern;
mod permission;
mod precedence;
mod set;
mod verdict;

pub use decision::{Decision, Effect, HeaderChange, Reason};
pub use decode::{MAX_INTENTIONS, MAX_LIST};
pub use error::{DecodeError, DestinationError, Problem};
pub use model::{Action, Description, Intention, Rule};
pub use pattern::{Caller, CallerOrigin, Destination, DestinationPattern, Origin, Source};
pub use permission::{
    Claim, HeaderMatch, HttpMatch, Jwt, JwtProvider, PathMatch, Permission, ValueMatch,
};
pub use set::{IntentionSet, Matching};
pub use verdict::{DefaultPolicy, Protocol, Tokens, Verdict};
