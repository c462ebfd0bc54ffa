//! Requests as values: method, path, query, body. Never a token: the host adds it.
use super::error::{RequestError, excerpt};

/// What a reply may weigh unless its kind says otherwise.
pub const MAX_REPLY: usize = 4 * 1024 * 1024;
/// What a match reply may weigh (128 services with many rules each).
pub const MAX_MATCH_REPLY: usize = 32 * 1024 * 1024;
/// What a reply of a few fields may weigh.
pub const MAX_SMALL_REPLY: usize = 64 * 1024;
/// Wait that is asked for when nobody says otherwise: Consul's own default.
pub const DEFAULT_WAIT_MS: u64 = 300_000;
/// The longest wait that Consul grants.
pub const MAX_WAIT_MS: u64 = 600_000;
/// What a reply may take beyond the wait that was asked for, and in all without one.
pub const READ_MARGIN_MS: u64 = 10_000;

/// HTTP methods that the agent's API uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Writes, mostly.
    Put,
    /// `authorize` only.
    Post,
    /// Removes.
    Delete,
}

impl Method {
    /// As on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// One request to the agent. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// Method.
    pub method: Method,
    /// Origin-form target, percent-encoded.
    pub path_and_query: String,
    /// JSON, if there is a body.
    pub body: Option<Vec<u8>>,
    /// Further headers, lower-case names.
    pub headers: Vec<(&'static str, String)>,
    /// How long the head of the reply may take.
    pub read_timeout_ms: u64,
    /// How many bytes of body to accept.
    pub max_reply: usize,
}

/// Which state a reader wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// The leader's, by its lease: Consul's default.
    #[default]
    Leader,
    /// Any server's, perhaps behind.
    Stale,
    /// The leader's, confirmed by a quorum.
    Consistent,
}

/// Where a blocking query goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum After {
    /// Answer at once.
    #[default]
    Nothing,
    /// Wait for something newer than this `X-Consul-Index`.
    Index(u64),
    /// Wait for another `X-Consul-ContentHash` (`agent/service` only).
    Hash(String),
}

/// Query parameters that most reads share.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    /// Blocking.
    pub after: After,
    /// How long to block; 0 for [`DEFAULT_WAIT_MS`], at most [`MAX_WAIT_MS`].
    pub wait_ms: u64,
    /// Datacenter; absent for the agent's own.
    pub datacenter: Option<String>,
    /// Namespace; Consul without a licence refuses any value.
    pub namespace: Option<String>,
    /// Admin partition; as above.
    pub partition: Option<String>,
    /// Consistency.
    pub consistency: Consistency,
}

impl Query {
    /// Blocks for at most `wait_ms` until something is newer than `after`.
    #[must_use]
    pub fn blocking(after: After, wait_ms: u64) -> Self {
        Self {
            after,
            wait_ms,
            ..Self::default()
        }
    }

    /// For endpoints that the agent answers from its cache, whatever the consistency.
    pub(super) fn cached(&self) -> Self {
        Self {
            consistency: Consistency::default(),
            ..self.clone()
        }
    }

    fn wait(&self) -> u64 {
        match self.wait_ms {
            0 => DEFAULT_WAIT_MS,
            wait => wait.min(MAX_WAIT_MS),
        }
    }

    /// The wait, Consul's jitter on it (a sixteenth), and a margin.
    fn read_timeout(&self) -> u64 {
        match self.after {
            After::Nothing | After::Index(0) => READ_MARGIN_MS,
            _ => self
                .wait()
                .saturating_add(self.wait() / 16)
                .saturating_add(READ_MARGIN_MS),
        }
    }
}

/// Writes the target of one request.
#[derive(Debug)]
pub(super) struct Target {
    text: String,
    has_query: bool,
    read_timeout_ms: u64,
}

impl Target {
    /// Starts with a path that is safe as it is.
    pub(super) fn new(path: &str) -> Self {
        Self {
            text: path.to_owned(),
            has_query: false,
            read_timeout_ms: READ_MARGIN_MS,
        }
    }

    /// Adds `/` and `name`, which must be able to stand as one segment.
    pub(super) fn segment(mut self, field: &'static str, name: &str) -> Result<Self, RequestError> {
        check_name(field, name)?;
        if name.contains('/') {
            return Err(refused(field, name, "contains a slash"));
        }
        self.text.push('/');
        encode(&mut self.text, name);
        Ok(self)
    }

    pub(super) fn parameter(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        self.text.push('=');
        encode(&mut self.text, value);
        self
    }

    pub(super) fn flag(mut self, key: &str) -> Self {
        self.key(key);
        self
    }

    fn key(&mut self, key: &str) {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.text.push_str(key);
    }

    pub(super) fn query(mut self, query: &Query) -> Self {
        self.read_timeout_ms = query.read_timeout();
        self = match &query.after {
            After::Nothing | After::Index(0) => self,
            After::Index(index) => self.parameter("index", &index.to_string()).wait(query),
            After::Hash(hash) => self.parameter("hash", hash).wait(query),
        };
        for (key, value) in [
            ("dc", &query.datacenter),
            ("ns", &query.namespace),
            ("partition", &query.partition),
        ] {
            if let Some(value) = value {
                self = self.parameter(key, value);
            }
        }
        match query.consistency {
            Consistency::Leader => self,
            Consistency::Stale => self.flag("stale"),
            Consistency::Consistent => self.flag("consistent"),
        }
    }

    fn wait(self, query: &Query) -> Self {
        self.parameter("wait", &format!("{}ms", query.wait()))
    }

    /// How long the target is.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    pub(super) fn request(self, method: Method) -> HttpRequest {
        HttpRequest {
            method,
            path_and_query: self.text,
            body: None,
            headers: Vec::new(),
            read_timeout_ms: self.read_timeout_ms,
            max_reply: MAX_REPLY,
        }
    }
}

impl HttpRequest {
    pub(super) fn json(mut self, body: &serde_json::Value) -> Self {
        self.body = Some(body.to_string().into_bytes());
        self.headers
            .push(("content-type", "application/json".to_owned()));
        self
    }

    pub(super) fn max_reply(mut self, bytes: usize) -> Self {
        self.max_reply = bytes;
        self
    }
}

/// Refuses names that no agent could take or that would change the path's meaning.
pub(super) fn check_name(field: &'static str, name: &str) -> Result<(), RequestError> {
    let problem = match name {
        "" => "is empty",
        "." | ".." => "would change the path",
        _ if name.len() > 512 => "is longer than 512 bytes",
        _ if name.chars().any(char::is_control) => "contains a control character",
        _ => return Ok(()),
    };
    Err(refused(field, name, problem))
}

pub(super) fn refused(field: &'static str, value: &str, problem: &'static str) -> RequestError {
    RequestError {
        field,
        value: excerpt(value),
        problem,
    }
}

/// Percent-encodes all but the unreserved characters (RFC 3986 §2.3).
fn encode(into: &mut String, text: &str) {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            into.push('%');
            for nibble in [byte >> 4, byte & 15] {
                into.push(HEX.get(usize::from(nibble)).copied().unwrap_or('0'));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> Result<String, RequestError> {
        Ok(Target::new("/v1/x")
            .segment("service", name)?
            .request(Method::Get)
            .path_and_query)
    }

    #[test]
    fn names_cannot_leave_their_segment() {
        assert_eq!(target("web").unwrap(), "/v1/x/web");
        assert_eq!(
            target("a b%2e?#&é").unwrap(),
            "/v1/x/a%20b%252e%3F%23%26%C3%A9"
        );
        assert_eq!(target("..a").unwrap(), "/v1/x/..a");
        for bad in ["", ".", "..", "a/b", "../leaf", "a\r\nb", "a\0"] {
            assert!(target(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_blocking_query_gives_consul_time_to_answer() {
        let at = |after, wait_ms| {
            let request = Target::new("/p")
                .query(&Query::blocking(after, wait_ms))
                .request(Method::Get);
            (request.path_and_query, request.read_timeout_ms)
        };
        assert_eq!(at(After::Index(0), 5), ("/p".to_owned(), READ_MARGIN_MS));
        assert_eq!(at(After::Nothing, 5), ("/p".to_owned(), READ_MARGIN_MS));
        assert_eq!(
            at(After::Index(7), 16_000),
            (
                "/p?index=7&wait=16000ms".to_owned(),
                17_000 + READ_MARGIN_MS
            )
        );
        assert_eq!(
            at(After::Index(u64::MAX), u64::MAX).0,
            format!("/p?index={}&wait=600000ms", u64::MAX)
        );
        assert_eq!(
            at(After::Hash("ab&c".into()), 0),
            (
                "/p?hash=ab%26c&wait=300000ms".to_owned(),
                318_750 + READ_MARGIN_MS
            )
        );
    }

    #[test]
    fn parameters_are_encoded() {
        let query = Query {
            datacenter: Some("d c".into()),
            namespace: Some("n&ns=x".into()),
            consistency: Consistency::Consistent,
            ..Query::default()
        };
        let request = Target::new("/p")
            .flag("passing")
            .query(&query)
            .request(Method::Get);
        assert_eq!(
            request.path_and_query,
            "/p?passing&dc=d%20c&ns=n%26ns%3Dx&consistent"
        );
    }
}
