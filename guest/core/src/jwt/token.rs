//! One token (RFC 7515, compact form).

use thiserror::Error;

use super::claims::Claims;
use super::jwks::Jwks;
use super::key::Algorithm;
use super::provider::Provider;
use super::value::Value;
use super::{MAX_TOKEN, base64};

/// Why a token is not valid. Nothing of the token appears here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not three parts of base64, JSON in the first two, no member repeated.
    #[error("the token is malformed")]
    Malformed,
    /// An algorithm that is not supported, `none` and symmetric ones among them.
    #[error("the token's algorithm is not supported")]
    Algorithm,
    /// No key of the provider fits, or none verifies the signature.
    #[error("no key of the provider verifies the token")]
    Signature,
    /// A registered claim of another type.
    #[error("the token's claim `{0}` has another type than it must")]
    Claim(&'static str),
    /// `nbf` is to come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `exp` is past.
    #[error("the token has expired")]
    Expired,
    /// `iss` is not the provider's.
    #[error("the token is of another issuer")]
    Issuer,
    /// `aud` has none of the provider's audiences.
    #[error("the token is for another audience")]
    Audience,
}

/// What stops a token from being judged at all.
pub(super) enum Stopped {
    /// It is not valid.
    Invalid(TokenError),
    /// All signature checks of this request are spent.
    Spent,
}

impl From<TokenError> for Stopped {
    fn from(error: TokenError) -> Self {
        Self::Invalid(error)
    }
}

/// A token that Envoy would accept.
#[derive(Clone, Debug)]
pub(super) struct Accepted {
    pub(super) claims: Claims,
    /// The payload as the token has it, without padding.
    pub(super) payload: String,
    /// Whether it is valid by the strict rules as well.
    pub(super) is_strict: bool,
}

/// Verifies a token of a provider at `now`, in seconds. `checks` is how many
/// signatures may still be checked.
pub(super) fn verify(
    token: &str,
    provider: &Provider,
    keys: &Jwks,
    now: u64,
    checks: &mut u32,
) -> Result<Accepted, Stopped> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed.into());
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
    if payload.contains('.') {
        return Err(TokenError::Malformed.into());
    }
    let part = |text: &str| base64::url(text).ok_or(TokenError::Malformed);
    let text = payload.trim_end_matches('=');
    let ((header, one), (payload, two), (signature, three)) =
        (part(header)?, part(payload)?, part(signature)?);
    let header = Value::object(&header).ok_or(TokenError::Malformed)?;
    let algorithm = header
        .get("alg")
        .and_then(Value::text)
        .ok_or(TokenError::Malformed)?;
    let algorithm = Algorithm::named(algorithm).ok_or(TokenError::Algorithm)?;
    let kid = match header.get("kid") {
        None => None,
        Some(kid) => Some(kid.text().ok_or(TokenError::Malformed)?),
    };
    let kid = kid.filter(|kid| !kid.is_empty());
    let members = Value::object(&payload).ok_or(TokenError::Malformed)?;
    let claims = Claims::read(members)?;
    // Cheap checks first: nobody pays for the signature of a token that is of no use.
    claims.check_time(now)?;
    if !claims.is_issued_by(&provider.issuer) {
        return Err(TokenError::Issuer.into());
    }
    claims.check_audience(&provider.audiences)?;

    let mut is_owned = false;
    let mut is_verified = false;
    for key in &keys.keys {
        if !key.may_be(kid) || !key.takes(algorithm) {
            continue;
        }
        *checks = checks.checked_sub(1).ok_or(Stopped::Spent)?;
        if key.key.verifies(algorithm, message.as_bytes(), &signature) {
            is_verified = true;
            is_owned = key.owns(algorithm);
            break;
        }
    }
    if !is_verified {
        return Err(TokenError::Signature.into());
    }
    let is_canonical = one && two && three;
    let is_strict = is_canonical
        && is_owned
        && !header.contains_key("crit")
        && claims.is_strictly_in_time(now, provider.clock_skew);
    Ok(Accepted {
        claims,
        payload: text.to_owned(),
        is_strict,
    })
}
