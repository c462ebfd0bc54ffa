//! The `jwt-provider` config entry.

use serde_json::value::RawValue;

use super::jwks::Jwks;
use crate::intention::json::{self, At, Fields, Flaw};

/// A provider of tokens.
#[derive(Clone, Debug)]
pub struct Provider {
    /// What intentions call it.
    pub name: String,
    /// What `iss` must be; a token without `iss` is never accepted.
    pub issuer: String,
    /// Of which `aud` must have one, if there are any.
    pub audiences: Vec<String>,
    /// Where its tokens are looked for.
    pub locations: Vec<Location>,
    /// The payload for the application.
    pub forwarding: Option<Forwarding>,
    /// `ClockSkewSeconds`, unless 0. Consul does not send it to Envoy.
    pub clock_skew: Option<u64>,
    /// Where its keys come from.
    pub keys: KeySource,
}

/// Where a token may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In a header, after a prefix.
    Header {
        /// Its name.
        name: String,
        /// What stands before the token; case counts.
        prefix: String,
        /// Whether the application sees the header.
        forward: bool,
    },
    /// In a parameter of the query.
    Query {
        /// Its name.
        name: String,
    },
    /// In a cookie.
    Cookie {
        /// Its name.
        name: String,
    },
}

/// The payload of a verified token in a header for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// Name of the header.
    pub header: String,
    /// Whether its base64 is padded.
    pub pad: bool,
}

/// Where the keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// They are in the entry.
    Inline(Jwks),
    /// They are in a file on the proxy's machine: the host hands in `jwks/<name>`.
    File(String),
    /// The host fetches them, if its allow-list has the URI, and hands in `jwks/<name>`.
    Remote(String),
}

impl Provider {
    /// Reads the entry; fields that are not known and keys that are not used are in `warnings`.
    pub(crate) fn decode(
        raw: &RawValue,
        at: &At<'_>,
        warnings: &mut Vec<Flaw>,
    ) -> Result<Self, Flaw> {
        let mut fields = Fields::of(raw, at)?;
        let name = named(&mut fields, at)?;
        let issuer = take_text(&mut fields, "Issuer", at)?;
        let audiences = match fields.take("Audiences", at)? {
            Some(raw) => json::texts(raw, &at.key("Audiences"))?,
            None => Vec::new(),
        };
        let list = at.key("Locations");
        let mut locations = fields
            .take_items("Locations", at)?
            .into_iter()
            .enumerate()
            .map(|(i, raw)| Location::decode(raw, &list.index(i)))
            .collect::<Result<Vec<_>, _>>()?;
        if locations.is_empty() {
            locations = Location::defaults();
        }
        let forwarding = match fields.take("Forwarding", at)? {
            Some(raw) => Forwarding::decode(raw, &at.key("Forwarding"))?,
            None => None,
        };
        let clock_skew = match fields.take("ClockSkewSeconds", at)? {
            Some(raw) => Some(json::unsigned(raw, &at.key("ClockSkewSeconds"))?),
            None => None,
        };
        let keys = fields
            .take("JSONWebKeySet", at)?
            .ok_or_else(|| at.flaw("this provider has no `JSONWebKeySet`"))?;
        let keys = KeySource::decode(keys, &at.key("JSONWebKeySet"), warnings)?;
        // Consul stores the size of Envoy's cache and does not send it.
        for known in [
            "Kind",
            "CacheConfig",
            "Meta",
            "CreateIndex",
            "ModifyIndex",
            "Hash",
            "Partition",
            "Namespace",
        ] {
            fields.take(known, at)?;
        }
        for (unknown, _) in fields.rest() {
            warnings.push(at.key(unknown).flaw("this field is not known and ignored"));
        }
        Ok(Self {
            name,
            issuer,
            audiences: audiences.into_iter().map(Into::into).collect(),
            locations,
            forwarding,
            clock_skew: clock_skew.filter(|skew| *skew != 0),
            keys,
        })
    }

    /// The name of the entry, where the rest of it cannot be read.
    pub(crate) fn name_of(raw: &RawValue, at: &At<'_>) -> Option<String> {
        named(&mut Fields::of(raw, at).ok()?, at).ok()
    }
}

fn named(fields: &mut Fields<'_>, at: &At<'_>) -> Result<String, Flaw> {
    let name = take_text(fields, "Name", at)?;
    if name.is_empty() {
        return Err(at.flaw("this provider has no `Name`"));
    }
    Ok(name)
}

fn take_text(fields: &mut Fields<'_>, key: &str, at: &At<'_>) -> Result<String, Flaw> {
    Ok(fields.take_text(key, at)?.unwrap_or_default().into_owned())
}

impl Location {
    /// Envoy's own, where the entry has none.
    fn defaults() -> Vec<Self> {
        vec![
            Self::Header {
                name: "authorization".to_owned(),
                prefix: "Bearer ".to_owned(),
                forward: false,
            },
            Self::Query {
                name: "access_token".to_owned(),
            },
        ]
    }

    fn decode(raw: &RawValue, at: &At<'_>) -> Result<Self, Flaw> {
        let mut fields = Fields::of(raw, at)?;
        let mut found = Vec::new();
        if let Some(raw) = fields.take("Header", at)? {
            let at = at.key("Header");
            let mut fields = Fields::of(raw, &at)?;
            found.push(Self::Header {
                name: named(&mut fields, &at)?,
                prefix: take_text(&mut fields, "ValuePrefix", &at)?,
                forward: fields.take_flag("Forward", &at)?,
            });
            fields.none_left(&at)?;
        }
        if let Some(raw) = fields.take("QueryParam", at)? {
            let at = at.key("QueryParam");
            let mut fields = Fields::of(raw, &at)?;
            found.push(Self::Query {
                name: named(&mut fields, &at)?,
            });
            fields.none_left(&at)?;
        }
        if let Some(raw) = fields.take("Cookie", at)? {
            let at = at.key("Cookie");
            let mut fields = Fields::of(raw, &at)?;
            found.push(Self::Cookie {
                name: named(&mut fields, &at)?,
            });
            fields.none_left(&at)?;
        }
        fields.none_left(at)?;
        match (found.pop(), found.is_empty()) {
            (Some(location), true) => Ok(location),
            _ => Err(at.flaw("this has not exactly one of `Header`, `QueryParam` and `Cookie`")),
        }
    }
}

impl Forwarding {
    fn decode(raw: &RawValue, at: &At<'_>) -> Result<Option<Self>, Flaw> {
        let mut fields = Fields::of(raw, at)?;
        let header = take_text(&mut fields, "HeaderName", at)?;
        let pad = fields.take_flag("PadForwardPayloadHeader", at)?;
        fields.none_left(at)?;
        Ok((!header.is_empty()).then_some(Self { header, pad }))
    }
}

impl KeySource {
    fn decode(raw: &RawValue, at: &At<'_>, warnings: &mut Vec<Flaw>) -> Result<Self, Flaw> {
        let mut fields = Fields::of(raw, at)?;
        let local = fields.take("Local", at)?;
        let remote = fields.take("Remote", at)?;
        fields.none_left(at)?;
        match (local, remote) {
            (Some(raw), None) => {
                let at = at.key("Local");
                let mut fields = Fields::of(raw, &at)?;
                let inline = fields.take_text("JWKS", &at)?;
                let file = take_text(&mut fields, "Filename", &at)?;
                fields.none_left(&at)?;
                match (inline, file.is_empty()) {
                    (None, false) => Ok(Self::File(file)),
                    (Some(text), true) => {
                        let at = at.key("JWKS");
                        let keys = Jwks::parse_base64(&text)
                            .map_err(|error| at.flaw(error.to_string()))?;
                        warnings.extend(keys.problems().iter().map(|why| at.flaw(why.as_str())));
                        Ok(Self::Inline(keys))
                    }
                    _ => Err(at.flaw("this has not exactly one of `JWKS` and `Filename`")),
                }
            }
            (None, Some(raw)) => {
                let at = at.key("Remote");
                let mut fields = Fields::of(raw, &at)?;
                let uri = take_text(&mut fields, "URI", &at)?;
                if !uri.starts_with("https://") && !uri.starts_with("http://") {
                    return Err(at.key("URI").flaw("this is not an `http` or `https` URI"));
                }
                Ok(Self::Remote(uri))
            }
            _ => Err(at.flaw("this has not exactly one of `Local` and `Remote`")),
        }
    }
}
