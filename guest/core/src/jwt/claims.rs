//! What a token says, and when it holds.

use std::collections::BTreeMap;

use super::token::TokenError;
use super::value::Value;

/// Envoy's skew in seconds, inclusive; Consul does not send another.
const SKEW: u64 = 60;

/// The claims of a token whose signature was verified.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    members: BTreeMap<String, Value>,
}

impl Claims {
    /// Checks the types of the registered claims, as Envoy does.
    pub(super) fn read(members: BTreeMap<String, Value>) -> Result<Self, TokenError> {
        let claims = Self { members };
        for name in ["iss", "sub", "jti"] {
            if claims.get(name).is_some_and(|value| value.text().is_none()) {
                return Err(TokenError::Claim(name));
            }
        }
        for name in ["iat", "nbf", "exp"] {
            claims.seconds(name)?;
        }
        claims.audiences()?;
        Ok(claims)
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    /// A time, without its fraction; Envoy takes an absent one for 0.
    #[expect(
        clippy::as_conversions,
        reason = "the range is checked, the fraction goes as in Envoy"
    )]
    fn seconds(&self, name: &'static str) -> Result<u64, TokenError> {
        match self.get(name) {
            None => Ok(0),
            Some(Value::Number(number)) if (0.0..u64::MAX as f64).contains(number) => {
                Ok(*number as u64)
            }
            Some(_) => Err(TokenError::Claim(name)),
        }
    }

    fn audiences(&self) -> Result<Vec<&str>, TokenError> {
        let wrong = TokenError::Claim("aud");
        match self.get("aud") {
            None => Ok(Vec::new()),
            Some(Value::Text(one)) => Ok(vec![one]),
            Some(Value::List(several)) => several
                .iter()
                .map(|one| one.text().ok_or_else(|| wrong.clone()))
                .collect(),
            Some(_) => Err(wrong),
        }
    }

    /// Checks `nbf` and `exp` at `now`, in seconds, as Envoy does: without `exp`, or
    /// with 0, a token never expires.
    pub(super) fn check_time(&self, now: u64) -> Result<(), TokenError> {
        if self.seconds("nbf")? > now.saturating_add(SKEW) {
            return Err(TokenError::NotYetValid);
        }
        let expires = self.seconds("exp")?;
        if expires != 0 && now > expires.saturating_add(SKEW) {
            return Err(TokenError::Expired);
        }
        Ok(())
    }

    /// Whether the strict rules hold as well: a token expires, by a whole number of
    /// seconds, and the provider's own skew counts if it is smaller.
    pub(super) fn is_strictly_in_time(&self, now: u64, skew: Option<u64>) -> bool {
        let skew = skew.unwrap_or(SKEW).min(SKEW);
        let is_whole = |name| match self.get(name) {
            Some(Value::Number(number)) => number.fract() == 0.0,
            _ => true,
        };
        let (Ok(expires), Ok(begins)) = (self.seconds("exp"), self.seconds("nbf")) else {
            return false;
        };
        expires != 0
            && is_whole("exp")
            && is_whole("nbf")
            && now <= expires.saturating_add(skew)
            && begins <= now.saturating_add(skew)
    }

    /// Checks `aud` where the provider lists audiences.
    pub(super) fn check_audience(&self, wanted: &[String]) -> Result<(), TokenError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let wanted = |one: &str| wanted.iter().any(|other| plain(other) == plain(one));
        if self.audiences()?.into_iter().any(wanted) {
            return Ok(());
        }
        Err(TokenError::Audience)
    }

    /// Whether `iss` is this text.
    pub(super) fn is_issued_by(&self, issuer: &str) -> bool {
        self.get("iss").and_then(Value::text) == Some(issuer)
    }

    /// Whether the claim at a path is this text; no number, list or truth value is.
    pub(super) fn says(&self, path: &[String], text: &str) -> bool {
        let Some((last, outer)) = path.split_last() else {
            return false;
        };
        let mut members = &self.members;
        for name in outer {
            let Some(Value::Object(inner)) = members.get(name) else {
                return false;
            };
            members = inner;
        }
        members.get(last).and_then(Value::text) == Some(text)
    }
}

/// An audience as Envoy compares it: without scheme and one closing slash.
fn plain(audience: &str) -> &str {
    let bare = audience
        .strip_prefix("https://")
        .or_else(|| audience.strip_prefix("http://"))
        .unwrap_or(audience);
    bare.strip_suffix('/').unwrap_or(bare)
}
