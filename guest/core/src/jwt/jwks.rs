//! Sets of keys (RFC 7517).

use std::collections::BTreeMap;

use thiserror::Error;

use super::key::{Algorithm, PublicKey};
use super::source::MAX_KEY_SET;
use super::value::Value;
use super::{MAX_KEYS, base64};

/// The keys of one provider.
#[derive(Clone, Debug, Default)]
pub struct Jwks {
    pub(super) keys: Vec<Jwk>,
    /// Keys that are not used, and why.
    problems: Vec<String>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Jwk {
    kid: Option<String>,
    algorithm: Option<Algorithm>,
    /// Whether nothing says that it is for something else than signatures.
    is_for_signatures: bool,
    pub(super) key: PublicKey,
}

/// Why a set cannot be used at all.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JwksError {
    /// Beyond 1 MiB.
    #[error("the key set is longer than {MAX_KEY_SET} bytes")]
    TooLarge,
    /// No JSON object, or one with repeated members.
    #[error("the key set is not a JSON object without repeated members")]
    Malformed,
    /// No list of keys.
    #[error("the key set has no list `keys`")]
    NoList,
    /// A list of very many keys.
    #[error("the key set has more than {MAX_KEYS} keys")]
    TooMany,
    /// Nothing that could verify a token.
    #[error("no key of the set can be used: {0}")]
    NoKey(String),
}

impl Jwks {
    /// Reads a set. Keys that cannot be used are left out, as Envoy does, and
    /// [`Self::problems`] says why.
    ///
    /// # Errors
    /// If the text is no key set, or if none of its keys can be used.
    pub fn parse(body: &[u8]) -> Result<Self, JwksError> {
        if body.len() > MAX_KEY_SET {
            return Err(JwksError::TooLarge);
        }
        let mut members = Value::object(body).ok_or(JwksError::Malformed)?;
        let Some(Value::List(list)) = members.remove("keys") else {
            return Err(JwksError::NoList);
        };
        if list.len() > MAX_KEYS {
            return Err(JwksError::TooMany);
        }
        let mut set = Self::default();
        for (place, key) in list.iter().enumerate() {
            match Jwk::read(key) {
                Ok(key) => set.keys.push(key),
                Err(why) => set.problems.push(format!("key {place} is not used: {why}")),
            }
        }
        if set.keys.is_empty() {
            let why = set.problems.first().cloned();
            return Err(JwksError::NoKey(
                why.unwrap_or_else(|| "it is empty".into()),
            ));
        }
        Ok(set)
    }

    /// Reads Consul's `Local.JWKS`, which is base64 of a set.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub(super) fn parse_base64(text: &str) -> Result<Self, JwksError> {
        Self::parse(&base64::standard(text).ok_or(JwksError::Malformed)?)
    }

    /// Keys that are not used, and why.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl Jwk {
    fn read(value: &Value) -> Result<Self, &'static str> {
        let Value::Object(members) = value else {
            return Err("it is not an object");
        };
        let key = public_key(members)?;
        let algorithm = match members.get("alg") {
            None => None,
            Some(name) => {
                let known = name.text().and_then(Algorithm::named);
                Some(known.ok_or("its `alg` is no signature algorithm that is supported")?)
            }
        };
        if algorithm.is_some_and(|algorithm| !key.takes(algorithm)) {
            return Err("its `alg` is not for this kind of key");
        }
        let kid = match members.get("kid") {
            None => None,
            Some(kid) => Some(kid.text().ok_or("its `kid` is not text")?.to_owned()),
        };
        let is_for_use = members
            .get("use")
            .is_none_or(|value| value.text() == Some("sig"));
        let verify = Value::Text("verify".to_owned());
        let is_for_operation = match members.get("key_ops") {
            None => true,
            Some(Value::List(operations)) => operations.contains(&verify),
            Some(_) => false,
        };
        Ok(Self {
            kid: kid.filter(|kid| !kid.is_empty()),
            algorithm,
            is_for_signatures: is_for_use && is_for_operation,
            key,
        })
    }

    /// Whether a token with this `kid` may be signed with it.
    pub(super) fn may_be(&self, kid: Option<&str>) -> bool {
        match (&self.kid, kid) {
            (Some(own), Some(kid)) => own == kid,
            _ => true,
        }
    }

    /// Whether Envoy lets it verify this algorithm.
    pub(super) fn takes(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|own| own == algorithm) && self.key.takes(algorithm)
    }

    /// Whether the algorithm is the one that the key has: RS256 for an RSA key that
    /// names none.
    pub(super) fn owns(&self, algorithm: Algorithm) -> bool {
        let own = match (&self.key, self.algorithm) {
            (PublicKey::Rsa(_), None) => algorithm == Algorithm::Rs256,
            _ => self.takes(algorithm),
        };
        own && self.is_for_signatures
    }
}

fn public_key(members: &BTreeMap<String, Value>) -> Result<PublicKey, &'static str> {
    let text = |name: &str| members.get(name).and_then(Value::text);
    let bytes = |name: &str| text(name).and_then(base64::url).map(|(bytes, _)| bytes);
    match text("kty") {
        Some("RSA") => bytes("n")
            .zip(bytes("e"))
            .and_then(|(modulus, exponent)| PublicKey::rsa(&modulus, &exponent))
            .ok_or("it is no RSA key of 2048 to 4096 bits"),
        Some("EC") => text("crv")
            .zip(bytes("x").zip(bytes("y")))
            .and_then(|(curve, (x, y))| PublicKey::ec(curve, &x, &y))
            .ok_or("it is no point on P-256, P-384 or P-521"),
        Some("OKP") if text("crv") == Some("Ed25519") => bytes("x")
            .and_then(|x| PublicKey::ed25519(&x))
            .ok_or("it is no Ed25519 key"),
        Some("oct") => Err("symmetric keys are never used"),
        _ => Err("its `kty` is none of `RSA`, `EC` and `OKP` with Ed25519"),
    }
}
