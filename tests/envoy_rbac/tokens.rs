//! The issuers of tokens, as `jwt-provider` entries with keys of their own, and tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};

/// Who signs tokens; also the name of the provider.
pub(crate) struct Issuer {
    pub(crate) name: &'static str,
    key: KeyPair,
}

impl Issuer {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            key: KeyPair::generate_for(&PKCS_ED25519).expect("a key"),
        }
    }

    /// Its config entry.
    pub(crate) fn entry(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.key.der_bytes());
        let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": self.name, "x": x }] });
        json!({
            "Kind": "jwt-provider", "Name": self.name, "Issuer": self.name,
            "JSONWebKeySet": { "Local": { "JWKS": STANDARD.encode(keys.to_string()) } },
        })
    }

    /// A token that ends in so many seconds, in which `claims` replace what it would say.
    pub(crate) fn token(&self, lifetime: i64, claims: &Value) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a time");
        let exp = i64::try_from(now.as_secs()).expect("a time") + lifetime;
        let mut body = json!({ "iss": self.name, "sub": "alice", "exp": exp });
        for (name, value) in claims.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.name });
        let signed = format!("{}.{}", part(&head), part(&body));
        let signature = self.key.sign(signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
