//! Questions, read strictly: a field that is not known is an error, and nothing is converted.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_core::chain::Usage;
use portcullis_core::policy::{Client, HttpVersion, Request, encode_headers};
use portcullis_core::time::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::EvalError;

/// What every question has. Fields are looked at one by one later.
#[derive(Deserialize)]
pub(super) struct Head<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) ask: Option<String>,
}

/// A string, copied only where it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// `"ask": "authorize"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Authorize<'a> {
    #[serde(borrow)]
    pub(super) id: &'a RawValue,
    #[serde(borrow)]
    ask: Text<'a>,
    /// Handed on as it is written: the policy reads it more strictly than serde would.
    #[serde(borrow)]
    intentions: &'a RawValue,
    default_policy: DefaultPolicy,
    #[serde(borrow)]
    trust_domain: Cow<'a, str>,
    #[serde(borrow)]
    target: Cow<'a, str>,
    #[serde(borrow, default = "default_text")]
    target_namespace: Cow<'a, str>,
    #[serde(borrow, default = "default_text")]
    target_partition: Cow<'a, str>,
    #[serde(default)]
    protocol: Protocol,
    client_uris: Vec<String>,
    #[serde(default)]
    peers: BTreeMap<String, Peer>,
    #[serde(default, deserialize_with = "some")]
    via_gateway: Option<String>,
    #[serde(default, deserialize_with = "some")]
    request: Option<AskedRequest<'a>>,
    #[serde(default)]
    http_version: Version,
    #[serde(borrow, default)]
    request_normalization: Option<&'a RawValue>,
    #[serde(borrow, default)]
    jwt_providers: Option<&'a RawValue>,
    #[serde(default)]
    matching: Matching,
    #[serde(default, deserialize_with = "some_time")]
    at: Option<Timestamp>,
}

fn default_name() -> String {
    "default".to_owned()
}

fn default_text() -> Cow<'static, str> {
    Cow::Borrowed("default")
}

/// Optional fields may be left out; `null` is not another way to do so.
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

fn time<'de, D: Deserializer<'de>>(value: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(value)?;
    Timestamp::parse(&text).map_err(serde::de::Error::custom)
}

fn some_time<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Timestamp>, D::Error> {
    time(value).map(Some)
}

#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum DefaultPolicy {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Tcp,
    Http,
    Http2,
    Grpc,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Matching {
    #[default]
    Strict,
    Envoy,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum Version {
    #[default]
    #[serde(rename = "1.1")]
    Http1,
    #[serde(rename = "2")]
    Http2,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    trust_domain: String,
    #[serde(default = "default_name")]
    exported_partition: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedRequest<'a> {
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    headers: Vec<(Text<'a>, Text<'a>)>,
    #[serde(default, deserialize_with = "some")]
    authority: Option<String>,
    #[serde(default, deserialize_with = "some")]
    scheme: Option<String>,
}

/// What all destinations share; what is handed on as it is written stays so.
#[derive(Serialize)]
struct MeshDocument<'a> {
    default_policy: DefaultPolicy,
    default_policy_source: &'a str,
    matching: Matching,
    max_stale_ms: u64,
    peers: &'a BTreeMap<String, Peer>,
    trust_domain: &'a str,
    request_normalization: Option<&'a RawValue>,
    jwt_providers: Option<&'a RawValue>,
}

/// One destination.
#[derive(Serialize)]
struct ServiceDocument<'a> {
    protocol: Protocol,
    intentions: &'a RawValue,
}

impl Authorize<'_> {
    /// Whether the line asks this.
    pub(super) fn is_asked(&self) -> bool {
        self.ask.0 == "authorize"
    }

    /// The moment of the question.
    pub(super) fn at(&self) -> Timestamp {
        self.at.unwrap_or_default()
    }

    /// `partition/namespace/name`.
    pub(super) fn target(&self) -> String {
        format!(
            "{}/{}/{}",
            self.target_partition, self.target_namespace, self.target
        )
    }

    /// The mesh document that the question describes.
    ///
    /// # Errors
    /// Never: it has nothing that JSON could not say.
    pub(super) fn mesh(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&MeshDocument {
            default_policy: self.default_policy,
            default_policy_source: "question",
            matching: self.matching,
            max_stale_ms: 0,
            peers: &self.peers,
            trust_domain: &self.trust_domain,
            request_normalization: self.request_normalization,
            jwt_providers: self.jwt_providers,
        })
    }

    /// The target's document.
    ///
    /// # Errors
    /// Never: it has nothing that JSON could not say.
    pub(super) fn service(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&ServiceDocument {
            protocol: self.protocol,
            intentions: self.intentions,
        })
    }

    pub(super) fn client(&self) -> Result<Client, EvalError> {
        let via_gateway = self
            .via_gateway
            .as_deref()
            .map(|text| bytes("via_gateway", text).map(Cow::into_owned))
            .transpose()?;
        Ok(Client {
            uris: self.client_uris.clone(),
            via_gateway,
        })
    }

    pub(super) fn request(&self) -> Result<Option<Request>, EvalError> {
        let Some(asked) = &self.request else {
            return Ok(None);
        };
        let mut headers = Vec::with_capacity(asked.headers.len());
        for (Text(name), Text(value)) in &asked.headers {
            headers.push((bytes("headers", name)?, bytes("headers", value)?));
        }
        let pairs = headers.iter().map(|(name, value)| (&**name, &**value));
        let Some(headers) = encode_headers(pairs) else {
            return Err(EvalError::Field {
                field: "headers",
                problem: "is too long".to_owned(),
            });
        };
        Ok(Some(Request {
            version: match self.http_version {
                Version::Http1 => HttpVersion::Http1,
                Version::Http2 => HttpVersion::Http2,
            },
            method: bytes("method", &asked.method)?.into_owned(),
            path: bytes("path", &asked.path)?.into_owned(),
            authority: asked
                .authority
                .as_deref()
                .map(|text| bytes("authority", text).map(Cow::into_owned))
                .transpose()?,
            scheme: asked.scheme.clone(),
            headers,
        }))
    }
}

/// Each character U+0000 to U+00FF is one byte.
fn bytes<'t>(field: &'static str, text: &'t str) -> Result<Cow<'t, [u8]>, EvalError> {
    if text.is_ascii() {
        return Ok(Cow::Borrowed(text.as_bytes()));
    }
    text.chars()
        .map(|c| u8::try_from(u32::from(c)))
        .collect::<Result<_, _>>()
        .map(Cow::Owned)
        .map_err(|_| EvalError::Field {
            field,
            problem: "has a character above U+00FF".to_owned(),
        })
}

/// `"ask": "verify-peer"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyPeer {
    #[serde(rename = "id")]
    _id: IgnoredAny,
    #[serde(rename = "ask")]
    _ask: IgnoredAny,
    leaf: String,
    intermediates: Vec<String>,
    roots: Vec<String>,
    #[serde(deserialize_with = "time")]
    pub(super) at: Timestamp,
    trust_domain: String,
    usage: Role,
    #[serde(default, deserialize_with = "some")]
    pub(super) expect_uri: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Client,
    Server,
}

impl VerifyPeer {
    pub(super) fn usage(&self) -> Usage {
        match self.usage {
            Role::Client => Usage::Client,
            Role::Server => Usage::Server,
        }
    }

    /// The presented chain, leaf first.
    pub(super) fn chain(&self) -> Result<Vec<Vec<u8>>, EvalError> {
        let mut chain = vec![der("leaf", &self.leaf)?];
        for certificate in &self.intermediates {
            chain.push(der("intermediates", certificate)?);
        }
        Ok(chain)
    }

    /// The mesh document that the question describes.
    pub(super) fn mesh(&self) -> Result<Vec<u8>, EvalError> {
        let mut roots = Vec::new();
        for root in &self.roots {
            // Written anew, because PEM wants lines.
            let text = STANDARD.encode(der("roots", root)?);
            let lines: Vec<&str> = text
                .as_bytes()
                .chunks(64)
                .filter_map(|line| std::str::from_utf8(line).ok())
                .collect();
            roots.push(format!(
                "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
                lines.join("\n")
            ));
        }
        let mesh = json!({
            "trust_domain": self.trust_domain,
            "roots": roots,
            "default_policy": "deny",
            "max_stale_ms": 0,
        });
        Ok(mesh.to_string().into_bytes())
    }
}

fn der(field: &'static str, text: &str) -> Result<Vec<u8>, EvalError> {
    STANDARD.decode(text).map_err(|error| EvalError::Field {
        field,
        problem: format!("is not base64: {error}"),
    })
}

/// `"ask": "parse-id"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ParseId {
    #[serde(rename = "id")]
    _id: IgnoredAny,
    #[serde(rename = "ask")]
    _ask: IgnoredAny,
    pub(super) uri: String,
}
