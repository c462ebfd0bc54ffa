//! A request that a policy is asked about, in the words of `portcullis eval`.

use std::fmt;

use portcullis_core::policy::{HttpVersion, Request, encode_headers};
use serde::{Deserialize, Serialize};

/// A request. Each character U+0000 to U+00FF is one byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Asked {
    /// Method, verbatim.
    pub method: String,
    /// Request target, verbatim.
    pub path: String,
    /// Headers in order.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// `:authority`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Scheme of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
}

impl Asked {
    /// A request without headers.
    #[must_use]
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            ..Self::default()
        }
    }

    /// As the policy takes it; `None` if a character is no byte.
    #[must_use]
    pub fn to_core(&self, version: HttpVersion) -> Option<Request> {
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            headers.push((bytes(name)?, bytes(value)?));
        }
        let pairs = headers
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()));
        Some(Request {
            version,
            method: bytes(&self.method)?,
            path: bytes(&self.path)?,
            authority: match &self.authority {
                Some(authority) => Some(bytes(authority)?),
                None => None,
            },
            scheme: self.scheme.clone(),
            headers: encode_headers(pairs)?,
        })
    }
}

/// `GET /items  x-tenant: a`.
impl fmt::Display for Asked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.method, self.path)?;
        if let Some(authority) = &self.authority {
            write!(formatter, "  :authority: {authority}")?;
        }
        for (name, value) in &self.headers {
            write!(formatter, "  {name}: {value}")?;
        }
        Ok(())
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).ok())
        .collect()
}
