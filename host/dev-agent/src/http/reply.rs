//! Replies: JSON, plain-text errors, and the headers that go with them.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde::Serialize as _;
use serde_json::Value;

pub(crate) const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
pub(crate) const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
pub(crate) const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
pub(crate) const CONSISTENCY: HeaderName =
    HeaderName::from_static("x-consul-effective-consistency");
pub(crate) const BACKEND: HeaderName = HeaderName::from_static("x-consul-query-backend");
pub(crate) const DEFAULT_ACL: HeaderName = HeaderName::from_static("x-consul-default-acl-policy");
pub(crate) const FILTERED: HeaderName =
    HeaderName::from_static("x-consul-results-filtered-by-acls");
pub(crate) const CONTENT_HASH: HeaderName = HeaderName::from_static("x-consul-contenthash");
pub(crate) const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
pub(crate) const AGE: HeaderName = http::header::AGE;

/// A reply. An error is one as well; handlers return it as `Err`.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    /// Boxed: a reply is the error of most functions.
    pub(crate) headers: Box<HeaderMap>,
    pub(crate) body: Body,
}

/// A body that is still to be written as text.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Json(Value),
    Bytes(Bytes),
}

/// What a handler answers.
pub(crate) type Outcome = Result<Reply, Reply>;

impl Reply {
    /// 200 with JSON.
    pub(crate) fn json(value: Value) -> Self {
        let mut reply = Self::new(StatusCode::OK, Body::Json(value));
        reply
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        reply
    }

    /// 200 with nothing, as after a successful write.
    pub(crate) fn empty() -> Self {
        let mut reply = Self::new(StatusCode::OK, Body::Bytes(Bytes::new()));
        let kind = HeaderValue::from_static("application/json; charset=utf-8");
        reply.headers.insert(CONTENT_TYPE, kind);
        reply
    }

    /// 200 with text of some type.
    pub(crate) fn text(content_type: &'static str, text: String) -> Self {
        let mut reply = Self::new(StatusCode::OK, Body::Bytes(text.into()));
        reply
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        reply
    }

    /// An error: plain text, no newline.
    pub(crate) fn error(status: StatusCode, text: impl Into<String>) -> Self {
        let mut reply = Self::new(status, Body::Bytes(text.into().into()));
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        reply.headers.insert(CONTENT_TYPE, kind);
        reply
    }

    pub(crate) fn bad_request(text: impl Into<String>) -> Self {
        Self::error(StatusCode::BAD_REQUEST, text)
    }

    pub(crate) fn forbidden(text: impl Into<String>) -> Self {
        Self::error(StatusCode::FORBIDDEN, text)
    }

    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::error(StatusCode::NOT_FOUND, text)
    }

    /// Consul's answer to most invalid values.
    pub(crate) fn server_error(text: impl Into<String>) -> Self {
        Self::error(StatusCode::INTERNAL_SERVER_ERROR, text)
    }

    /// 405, and the same header for OPTIONS.
    pub(crate) fn allow(mut self, methods: &str) -> Self {
        self.set(ALLOW, methods);
        self
    }

    pub(crate) fn new(status: StatusCode, body: Body) -> Self {
        Self {
            status,
            headers: Box::default(),
            body,
        }
    }

    pub(crate) fn set(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
    }

    pub(crate) fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.set(name, value);
        self
    }

    /// The headers of a query that a server answered from its own state.
    pub(crate) fn query_meta(self, index: u64) -> Self {
        self.with(INDEX, &index.max(1).to_string())
            .with(KNOWN_LEADER, "true")
            .with(LAST_CONTACT, "0")
            .with(BACKEND, "blocking-query")
    }

    /// The headers of a query that a server refused: an index that means nothing.
    pub(crate) fn failed_query(self) -> Self {
        self.query_meta(1).with(KNOWN_LEADER, "false")
    }

    /// The body's bytes, indented as Consul's dev mode does when `pretty`.
    pub(crate) fn bytes(&self, pretty: bool, newline: bool) -> Bytes {
        let value = match &self.body {
            Body::Bytes(bytes) => return bytes.clone(),
            Body::Json(value) => value,
        };
        let mut text = Vec::new();
        let written = if pretty {
            let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            value.serialize(&mut serde_json::Serializer::with_formatter(
                &mut text, indent,
            ))
        } else {
            value.serialize(&mut serde_json::Serializer::new(&mut text))
        };
        debug_assert!(written.is_ok(), "a `Value` is always valid JSON");
        // Go escapes these inside strings, and they stand nowhere else in JSON.
        let mut text = String::from_utf8_lossy(&text)
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026")
            .replace('\u{2028}', "\\u2028")
            .replace('\u{2029}', "\\u2029");
        if newline {
            text.push('\n');
        }
        text.into()
    }
}
