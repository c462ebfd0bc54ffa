//! JWT requirements of intentions: providers, their keys, and the tokens of a request.
//!
//! Follows Consul's `jwt-provider` entry and what Envoy's `jwt_authn` makes of it
//! (`decision-semantics`, observed). Nothing is fetched here: keys are documents that
//! the host hands in, so no token can cause a fetch. The algorithm belongs to the key;
//! a token can only agree with it. Symmetric algorithms do not exist here.
//!
//! Each token is read twice in one go: leniently, as Envoy does, and strictly. A
//! strict reading accepts nothing that the lenient one refuses.

mod base64;
mod claims;
mod ends;
mod jwks;
mod key;
mod locate;
mod named;
mod provider;
mod source;
mod token;
mod value;
mod verify;

#[cfg(test)]
mod tests;

pub use ends::TokenEnds;
pub use jwks::{Jwks, JwksError};
pub use locate::Presented;
pub use named::named_by;
pub use provider::{Forwarding, KeySource, Location, Provider};
pub use source::{MAX_KEY_SET, Place, Source};
pub use token::TokenError;
pub use verify::{Providers, Standing, Unverifiable, Verifier};

/// How many bytes a token may have.
pub const MAX_TOKEN: usize = 16 * 1024;
/// How many keys a set may have.
pub const MAX_KEYS: usize = 100;
/// How many signatures are checked for one request, all providers together.
pub const MAX_SIGNATURES: u32 = 8;
