//! Questions, read strictly: a field that is not known is an error, and nothing is converted.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_core::chain::Usage;
use portcullis_core::policy::{Client, HttpVersion, Request, encode_headers};
use portcullis_core::time::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
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

/// `"ask": "authorize"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Authorize<'a> {
    #[serde(rename = "id")]
    _id: IgnoredAny,
    #[serde(rename = "ask")]
    _ask: IgnoredAny,
    /// Handed on as it is written: the policy reads it more strictly than serde would.
    #[serde(borrow)]
    intentions: &'a RawValue,
    default_policy: DefaultPolicy,
    trust_domain: String,
    target: String,
    #[serde(default = "default_name")]
    target_namespace: String,
    #[serde(default = "default_name")]
    target_partition: String,
    #[serde(default)]
    protocol: Protocol,
    client_uris: Vec<String>,
    #[serde(default)]
    peers: BTreeMap<String, Peer>,
    #[serde(default, deserialize_with = "some")]
    via_gateway: Option<String>,
    #[serde(default, deserialize_with = "some")]
    request: Option<AskedRequest>,
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

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DefaultPolicy {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Tcp,
    Http,
    Http2,
    Grpc,
}

#[derive(Clone, Copy, Default, Deserialize)]
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    trust_domain: String,
    #[serde(default = "default_name")]
    exported_partition: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedRequest {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    #[serde(default, deserialize_with = "some")]
    authority: Option<String>,
    #[serde(default, deserialize_with = "some")]
    scheme: Option<String>,
}

impl Authorize<'_> {
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
    pub(super) fn mesh(&self) -> Vec<u8> {
        let peers: serde_json::Map<_, _> = self
            .peers
            .iter()
            .map(|(name, peer)| {
                let fields = json!({
                    "trust_domain": peer.trust_domain,
                    "exported_partition": peer.exported_partition,
                });
                (name.clone(), fields)
            })
            .collect();
        let default_policy = match self.default_policy {
            DefaultPolicy::Allow => "allow",
            DefaultPolicy::Deny => "deny",
        };
        let matching = match self.matching {
            Matching::Strict => "strict",
            Matching::Envoy => "envoy",
        };
        let head = json!({
            "trust_domain": self.trust_domain,
            "peers": peers,
            "default_policy": default_policy,
            "default_policy_source": "question",
            "matching": matching,
            "max_stale_ms": 0,
        })
        .to_string();
        // What is handed on as it is written cannot go through a value.
        let raw = |raw: Option<&RawValue>| raw.map_or("null", RawValue::get).to_owned();
        let open = head.strip_suffix('}').unwrap_or(&head);
        format!(
            "{open},\"request_normalization\":{},\"jwt_providers\":{}}}",
            raw(self.request_normalization),
            raw(self.jwt_providers)
        )
        .into_bytes()
    }

    /// The target's document.
    pub(super) fn service(&self) -> Vec<u8> {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Http => "http",
            Protocol::Http2 => "http2",
            Protocol::Grpc => "grpc",
        };
        format!(
            "{{\"protocol\":\"{protocol}\",\"intentions\":{}}}",
            self.intentions.get()
        )
        .into_bytes()
    }

    pub(super) fn client(&self) -> Result<Client, EvalError> {
        let via_gateway = self
            .via_gateway
            .as_deref()
            .map(|text| bytes("via_gateway", text))
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
        let mut headers = Vec::new();
        for (name, value) in &asked.headers {
            headers.push((bytes("headers", name)?, bytes("headers", value)?));
        }
        let pairs = headers
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()));
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
            method: bytes("method", &asked.method)?,
            path: bytes("path", &asked.path)?,
            authority: asked
                .authority
                .as_deref()
                .map(|text| bytes("authority", text))
                .transpose()?,
            scheme: asked.scheme.clone(),
            headers,
        }))
    }
}

/// Each character U+0000 to U+00FF is one byte.
fn bytes(field: &'static str, text: &str) -> Result<Vec<u8>, EvalError> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)))
        .collect::<Result<_, _>>()
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
