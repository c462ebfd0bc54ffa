//! Permissions of L7 intentions and JWT requirements, decoded in full.
//!
//! Every field here decides: one that is not known, is repeated or has another type
//! is a [`Flaw`], and the intention denies whatever reaches it. What Consul's own
//! validation forbids is a flaw as well, because nothing defines what it would mean.

use std::fmt;

use serde_json::value::RawValue;

use super::json::{At, Fields, Flaw, text, texts};
use super::model::Action;
use crate::identity::Excerpt;
use crate::re2::Pattern;

/// One permission: all its parts must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// What to do with a request that it matches.
    pub action: Action,
    /// Which requests it matches.
    pub http: HttpMatch,
    /// Asked for in addition.
    pub jwt: Option<Jwt>,
}

/// Which requests a permission matches: path, every header and one of the methods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// The path, without its query; any if `None`.
    pub path: Option<PathMatch>,
    /// Headers, all of which must match.
    pub headers: Vec<HeaderMatch>,
    /// Methods in upper case, one of which must match; any if empty.
    pub methods: Vec<String>,
}

/// How a path is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// Byte by byte.
    Exact(String),
    /// Its beginning, not by segments.
    Prefix(String),
    /// An RE2 expression for the whole path.
    Regex(Pattern),
}

/// How a header is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Its name, as the intention writes it; names are compared without regard to case.
    pub name: String,
    /// What must hold of its value.
    pub value: ValueMatch,
    /// Negates the comparison, for a header that is present.
    pub invert: bool,
    /// Compare ASCII letters without regard to case.
    pub ignore_case: bool,
}

/// What must hold of a header's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// The header is there, even if empty.
    Present,
    /// Equal.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// Contains.
    Contains(String),
    /// An RE2 expression for the whole value.
    Regex(Pattern),
}

/// A valid JWT of one of these providers must come with the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// The providers; with none the requirement can never be met.
    pub providers: Vec<JwtProvider>,
}

/// A JWT provider and what its token must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtProvider {
    /// Name of the `jwt-provider` config entry.
    pub name: String,
    /// Claims, all of which must hold.
    pub claims: Vec<Claim>,
}

/// A claim that must have a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Member names, outermost first.
    pub path: Vec<String>,
    /// The string that the claim must equal.
    pub value: String,
}

/// What Consul accepts; it stores them in upper case.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE",
];

impl Permission {
    pub(super) fn decode(raw: &RawValue, at: &At<'_>) -> Result<Self, Flaw> {
        let mut fields = Fields::of(raw, at)?;
        let action = fields
            .take_text("Action", at)?
            .ok_or_else(|| at.flaw("this permission has no `Action`"))?;
        let action = Action::parse(&action).ok_or_else(|| {
            at.key("Action")
                .flaw(format!("`{}` is not an action", Excerpt::of(&action)))
        })?;
        let http = fields
            .take("HTTP", at)?
            .ok_or_else(|| at.flaw("this permission has no `HTTP`"))?;
        let http = HttpMatch::decode(http, &at.key("HTTP"))?;
        let jwt = Jwt::take(&mut fields, at)?;
        fields.none_left(at)?;
        Ok(Self { action, http, jwt })
    }
}

/// The permission in words, for example `allow, path prefix "/v1", GET or POST`; printable.
impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.action)?;
        match &self.http.path {
            Some(PathMatch::Exact(text)) => write!(f, ", path `{}`", Excerpt::of(text))?,
            Some(PathMatch::Prefix(text)) => write!(f, ", path prefix `{}`", Excerpt::of(text))?,
            Some(PathMatch::Regex(text)) => {
                write!(f, ", path pattern `{}`", Excerpt::of(text.as_str()))?
            }
            None => {}
        }
        for header in &self.http.headers {
            write!(f, ", {header}")?;
        }
        if !self.http.methods.is_empty() {
            write!(f, ", {}", self.http.methods.join(" or "))?;
        }
        f.write_str(if self.jwt.is_some() { ", with JWT" } else { "" })
    }
}

/// The header and what must hold of it, in words; printable.
impl fmt::Display for HeaderMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "header `{}`", Excerpt::of(&self.name))?;
        f.write_str(if self.invert { " not" } else { "" })?;
        let (word, text) = match &self.value {
            ValueMatch::Present => return f.write_str(" present"),
            ValueMatch::Exact(text) => ("exactly", text),
            ValueMatch::Prefix(text) => ("beginning with", text),
            ValueMatch::Suffix(text) => ("ending with", text),
            ValueMatch::Contains(text) => ("containing", text),
            ValueMatch::Regex(pattern) => {
                let text = Excerpt::of(pattern.as_str());
                return write!(f, " matching `{text}`");
            }
        };
        write!(f, " {word} `{}`", Excerpt::of(text))?;
        f.write_str(if self.ignore_case { " in any case" } else { "" })
    }
}

impl HttpMatch {
    fn decode(raw: &RawValue, at: &At<'_>) -> Result<Self, Flaw> {
        let mut fields = Fields::of(raw, at)?;
        let path = decode_path(&mut fields, at)?;
        let headers = fields
            .take_items("Header", at)?
            .into_iter()
            .enumerate()
            .map(|(i, raw)| HeaderMatch::decode(raw, &at.key("Header").index(i)))
            .collect::<Result<Vec<_>, _>>()?;
        let methods = decode_methods(&mut fields, at)?;
        fields.none_left(at)?;
        if path.is_none() && headers.is_empty() && methods.is_empty() {
            return Err(at.flaw("this names neither path, header nor method"));
        }
        Ok(Self {
            path,
            headers,
            methods,
        })
    }
}

fn decode_path(fields: &mut Fields<'_>, at: &At<'_>) -> Result<Option<PathMatch>, Flaw> {
    let rooted = |key, path: &str| {
        if path.starts_with('/') {
            return Ok(());
        }
        Err(at.key(key).flaw("this path does not begin with `/`"))
    };
    let mut found = Vec::new();
    if let Some(path) = fields.take_text("PathExact", at)? {
        rooted("PathExact", &path)?;
        found.push(PathMatch::Exact(path.into_owned()));
    }
    if let Some(path) = fields.take_text("PathPrefix", at)? {
        rooted("PathPrefix", &path)?;
        found.push(PathMatch::Prefix(path.into_owned()));
    }
    if let Some(regex) = fields.take_text("PathRegex", at)? {
        let pattern = pattern(&regex, &at.key("PathRegex"))?;
        found.push(PathMatch::Regex(pattern));
    }
    let path = found.pop();
    if !found.is_empty() {
        return Err(at.flaw("this has more than one of `PathExact`, `PathPrefix` and `PathRegex`"));
    }
    Ok(path)
}

/// A pattern that RE2 refuses makes the rule unreadable.
fn pattern(text: &str, at: &At<'_>) -> Result<Pattern, Flaw> {
    Pattern::parse(text).map_err(|error| {
        at.flaw(format!(
            "`{}` is not a pattern that can be used: {error}",
            Excerpt::of(text)
        ))
    })
}

fn decode_methods(fields: &mut Fields<'_>, at: &At<'_>) -> Result<Vec<String>, Flaw> {
    let Some(raw) = fields.take("Methods", at)? else {
        return Ok(Vec::new());
    };
    let at = at.key("Methods");
    let methods = texts(raw, &at)?;
    for (i, method) in methods.iter().enumerate() {
        if !METHODS.contains(&method.as_ref()) {
            let text = format!("`{}` is not a method", Excerpt::of(method));
            return Err(at.index(i).flaw(text));
        }
    }
    Ok(methods.into_iter().map(Into::into).collect())
}

impl HeaderMatch {
    fn decode(raw: &RawValue, at: &At<'_>) -> Result<Self, Flaw> {
        let mut fields = Fields::of(raw, at)?;
        let name = fields
            .take_text("Name", at)?
            .ok_or_else(|| at.flaw("this header has no `Name`"))?
            .into_owned();
        let mut found = Vec::new();
        if fields.take_flag("Present", at)? {
            found.push(ValueMatch::Present);
        }
        type Kind = fn(String) -> ValueMatch;
        let kinds: [(&str, Kind); 4] = [
            ("Exact", ValueMatch::Exact),
            ("Prefix", ValueMatch::Prefix),
            ("Suffix", ValueMatch::Suffix),
            ("Contains", ValueMatch::Contains),
        ];
        for (key, kind) in kinds {
            if let Some(value) = fields.take_text(key, at)? {
                found.push(kind(value.into_owned()));
            }
        }
        if let Some(regex) = fields.take_text("Regex", at)? {
            found.push(ValueMatch::Regex(pattern(&regex, &at.key("Regex"))?));
        }
        let invert = fields.take_flag("Invert", at)?;
        let ignore_case = fields.take_flag("IgnoreCase", at)?;
        fields.none_left(at)?;
        let (Some(value), true) = (found.pop(), found.is_empty()) else {
            return Err(at.flaw(
                "this has not exactly one of `Present`, `Exact`, `Prefix`, `Suffix`, `Contains` and `Regex`",
            ));
        };
        if ignore_case && matches!(value, ValueMatch::Present | ValueMatch::Regex(_)) {
            return Err(at.flaw("`IgnoreCase` says nothing about `Present` and `Regex`"));
        }
        Ok(Self {
            name,
            value,
            invert,
            ignore_case,
        })
    }
}

impl Jwt {
    /// Takes the field `JWT` out of an intention or a permission.
    pub(super) fn take(fields: &mut Fields<'_>, at: &At<'_>) -> Result<Option<Self>, Flaw> {
        let Some(raw) = fields.take("JWT", at)? else {
            return Ok(None);
        };
        let at = at.key("JWT");
        let mut fields = Fields::of(raw, &at)?;
        let providers = fields
            .take_items("Providers", &at)?
            .into_iter()
            .enumerate()
            .map(|(i, raw)| JwtProvider::decode(raw, &at.key("Providers").index(i)))
            .collect::<Result<Vec<_>, _>>()?;
        fields.none_left(&at)?;
        Ok(Some(Self { providers }))
    }
}

impl JwtProvider {
    fn decode(raw: &RawValue, at: &At<'_>) -> Result<Self, Flaw> {
        let mut fields = Fields::of(raw, at)?;
        let name = fields
            .take_text("Name", at)?
            .ok_or_else(|| at.flaw("this JWT provider has no `Name`"))?
            .into_owned();
        let claims = fields
            .take_items("VerifyClaims", at)?
            .into_iter()
            .enumerate()
            .map(|(i, raw)| Claim::decode(raw, &at.key("VerifyClaims").index(i)))
            .collect::<Result<Vec<_>, _>>()?;
        fields.none_left(at)?;
        Ok(Self { name, claims })
    }
}

impl Claim {
    fn decode(raw: &RawValue, at: &At<'_>) -> Result<Self, Flaw> {
        let mut fields = Fields::of(raw, at)?;
        let path = match fields.take("Path", at)? {
            Some(raw) => texts(raw, &at.key("Path"))?,
            None => Vec::new(),
        };
        let value = match fields.take("Value", at)? {
            Some(raw) => text(raw, &at.key("Value"))?.into_owned(),
            None => String::new(),
        };
        fields.none_left(at)?;
        if path.is_empty() {
            return Err(at.flaw("this claim has no `Path`"));
        }
        Ok(Self {
            path: path.into_iter().map(Into::into).collect(),
            value,
        })
    }
}
