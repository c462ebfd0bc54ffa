//! `GET /v1/agent/connect/ca/leaf/<service>`: a service's own certificate and key.
use std::fmt;
use std::hint::black_box;

use super::error::{ReplyError, RequestError};
use super::reply::HttpReply;
use super::request::{HttpRequest, MAX_REPLY, Method, Query, Target};
use crate::time::Timestamp;

/// A private key as PEM. It does not show itself in `Debug` and is overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretPem(Vec<u8>);

impl SecretPem {
    /// The key.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<String> for SecretPem {
    fn from(pem: String) -> Self {
        Self(pem.into_bytes())
    }
}

impl fmt::Debug for SecretPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretPem(..)")
    }
}

impl Drop for SecretPem {
    fn drop(&mut self) {
        self.0.fill(0);
        black_box(&self.0);
    }
}

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Serial number, lower-case hex joined by `:`.
    pub serial: String,
    /// The service, as it was asked for.
    pub service: String,
    /// The SPIFFE ID in the certificate.
    pub uri: String,
    /// Leaf first, then intermediates.
    pub chain_pem: String,
    /// The leaf's key.
    pub key: SecretPem,
    /// Start of the leaf's validity.
    pub valid_after: Timestamp,
    /// End of the leaf's validity.
    pub valid_before: Timestamp,
}

/// Asks for the leaf of `service`, which need not be registered. Needs `service:write` on it.
/// The agent answers from its cache: the query's consistency is left out.
///
/// # Errors
/// [`RequestError`] for a name that cannot be one.
pub fn request(service: &str, query: &Query) -> Result<HttpRequest, RequestError> {
    Ok(Target::new("/v1/agent/connect/ca/leaf")
        .segment("service", service)?
        .query(&query.cached())
        .request(Method::Get))
}

/// Reads the reply about `service`.
///
/// # Errors
/// See [`ReplyError`]; a certificate for another service and a validity that ends before it
/// starts are refused too.
pub fn decode(reply: &HttpReply<'_>, service: &str) -> Result<Leaf, ReplyError> {
    let top = reply.json(MAX_REPLY)?.object()?;
    let name = top.required("Service")?;
    let time = |key: &str| -> Result<Timestamp, ReplyError> {
        let value = top.required(key)?;
        Timestamp::parse(&value.string()?).map_err(|e| value.invalid(e.to_string()))
    };
    let leaf = Leaf {
        serial: top.required("SerialNumber")?.string()?,
        service: name.string()?,
        uri: top.required("ServiceURI")?.string()?,
        chain_pem: top.required("CertPEM")?.string()?,
        key: top.required("PrivateKeyPEM")?.string()?.into(),
        valid_after: time("ValidAfter")?,
        valid_before: time("ValidBefore")?,
    };
    if leaf.service != service {
        return Err(name.invalid("the certificate is for another service"));
    }
    if leaf.valid_before <= leaf.valid_after {
        return Err(top
            .required("ValidBefore")?
            .invalid("not after `ValidAfter`"));
    }
    Ok(leaf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::ok;

    const BODY: &str = r#"{"SerialNumber":"09","CertPEM":"-----BEGIN CERTIFICATE-----\nMII\n",
        "PrivateKeyPEM":"-----BEGIN EC PRIVATE KEY-----\nhunter2\n","Service":"web",
        "ServiceURI":"spiffe://9d67.consul/ns/default/dc/dc1/svc/web",
        "ValidAfter":"2026-11-21T01:01:13Z","ValidBefore":"2026-11-24T01:01:13Z",
        "CreateIndex":23,"ModifyIndex":23}"#;

    #[test]
    fn a_leaf_is_read_and_its_key_never_shown() {
        let leaf = decode(&ok(BODY), "web").unwrap();
        assert_eq!(leaf.serial, "09");
        assert_eq!(
            leaf.valid_before.as_millis() - leaf.valid_after.as_millis(),
            72 * 3600 * 1000
        );
        assert!(leaf.key.expose().ends_with(b"hunter2\n"));
        assert!(!format!("{leaf:?}").contains("hunter2"));
        assert!(!format!("{:#?}", leaf.clone()).contains("EC PRIVATE"));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_no_error_shows_the_key() {
        for (from, to, field) in [
            ("\"Service\":\"web\"", "\"Service\":\"db\"", "/Service"),
            (
                "2026-11-24T01:01:13Z",
                "2026-11-21T01:01:13Z",
                "/ValidBefore",
            ),
            ("2026-11-24T01:01:13Z", "tomorrow", "/ValidBefore"),
            ("\"PrivateKeyPEM\":", "\"PrivateKeyPem\":", "/PrivateKeyPEM"),
            (
                "\"PrivateKeyPEM\":",
                "\"PrivateKeyPEM\":[],\"PrivateKeyPEM\":",
                "/PrivateKeyPEM",
            ),
            ("\"CertPEM\":\"", "\"CertPEM\":7,\"x\":\"", "/CertPEM"),
        ] {
            let body = BODY.replace(from, to);
            assert_ne!(body, BODY);
            let error = format!("{0} {0:?}", decode(&ok(&body), "web").unwrap_err());
            assert!(error.contains(field), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_request_names_the_service_in_one_segment() {
        let request = request("a b", &Query::default()).unwrap();
        assert_eq!(request.path_and_query, "/v1/agent/connect/ca/leaf/a%20b");
        assert!(super::request("a/b", &Query::default()).is_err());
    }
}
