//! A reply's status and headers.
use super::error::{ReplyError, excerpt, excerpt_bytes};
use super::json;

/// `allow` or `deny`, as a header or a setting says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowDeny {
    /// `allow`
    Allow,
    /// `deny`
    Deny,
}

impl AllowDeny {
    /// Exactly `allow` or `deny`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "allow" => Some(Self::Allow),
            "deny" => Some(Self::Deny),
            _ => None,
        }
    }
}

/// The headers that matter. A header that is repeated with another value, or cannot be
/// read, counts as absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplyHeaders {
    /// `X-Consul-Index`. Means nothing unless the status is 200.
    pub index: Option<u64>,
    /// `X-Consul-ContentHash`.
    pub content_hash: Option<String>,
    /// `X-Consul-Default-ACL-Policy`: the ACL default, not the one for intentions.
    pub default_acl_policy: Option<AllowDeny>,
    /// `X-Consul-KnownLeader`.
    pub known_leader: Option<bool>,
    /// `X-Consul-Results-Filtered-By-ACLs`: the token does not see everything.
    pub filtered: bool,
    /// `Retry-After` in seconds.
    pub retry_after_s: Option<u64>,
    /// `Content-Encoding`, if it is not `identity`.
    pub encoding: Option<String>,
}

impl ReplyHeaders {
    /// Reads header fields; names in any case.
    pub fn read<'h>(fields: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Self {
        let mut headers = Self::default();
        let mut conflict = (false, false);
        for (name, value) in fields {
            let Ok(value) = std::str::from_utf8(value).map(str::trim) else {
                continue;
            };
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            if is("x-consul-index") {
                let value = decimal(value);
                conflict.0 |= headers.index.is_some() && headers.index != value;
                headers.index = value;
            } else if is("x-consul-contenthash") {
                let value = Some(value.to_owned());
                conflict.1 |= headers.content_hash.is_some() && headers.content_hash != value;
                headers.content_hash = value.filter(|hash| !hash.is_empty() && hash.len() <= 256);
            } else if is("x-consul-default-acl-policy") {
                headers.default_acl_policy = AllowDeny::parse(value);
            } else if is("x-consul-knownleader") {
                headers.known_leader = value.parse().ok();
            } else if is("x-consul-results-filtered-by-acls") {
                headers.filtered = value == "true";
            } else if is("retry-after") {
                headers.retry_after_s = decimal(value);
            } else if is("content-encoding") && !value.eq_ignore_ascii_case("identity") {
                headers.encoding = Some(excerpt(value));
            }
        }
        if conflict.0 {
            headers.index = None;
        }
        if conflict.1 {
            headers.content_hash = None;
        }
        headers
    }
}

/// Digits only: no sign, no white space.
fn decimal(text: &str) -> Option<u64> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// A whole reply.
#[derive(Debug, Clone)]
pub struct HttpReply<'a> {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: ReplyHeaders,
    /// Body.
    pub body: &'a [u8],
}

impl<'a> HttpReply<'a> {
    /// The body of a 200.
    ///
    /// # Errors
    /// [`ReplyError::Status`] for any other status (redirects are never followed),
    /// [`ReplyError::Encoding`] if it is compressed, [`ReplyError::TooLarge`].
    pub fn ok(&self, limit: usize) -> Result<&'a [u8], ReplyError> {
        if self.status != 200 {
            let message = excerpt_bytes(self.body);
            return Err(ReplyError::Status {
                status: self.status,
                message,
            });
        }
        if let Some(encoding) = &self.headers.encoding {
            return Err(ReplyError::Encoding {
                encoding: encoding.clone(),
            });
        }
        if self.body.len() > limit {
            return Err(ReplyError::TooLarge { limit });
        }
        Ok(self.body)
    }

    /// The index of a 200; other statuses carry one that means nothing.
    #[must_use]
    pub fn index(&self) -> Option<u64> {
        self.headers.index.filter(|_| self.status == 200)
    }

    /// Whether a Consul agent (or what imitates one) sent this: it puts its ACL default on
    /// every reply of its API, errors included.
    #[must_use]
    pub fn is_consul(&self) -> bool {
        self.headers.default_acl_policy.is_some() || self.headers.index.is_some()
    }

    pub(super) fn json(&self, limit: usize) -> Result<json::Value<'a>, ReplyError> {
        json::document(self.ok(limit)?, limit)
    }
}

/// For writes that answer with an empty body or `true`: only the status counts.
///
/// # Errors
/// [`ReplyError::Status`].
pub fn accepted(reply: &HttpReply<'_>) -> Result<(), ReplyError> {
    reply.ok(usize::MAX).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> ReplyHeaders {
        ReplyHeaders::read(fields.iter().map(|(n, v)| (*n, v.as_bytes())))
    }

    #[test]
    fn headers_are_read_in_any_case_and_junk_counts_as_absent() {
        assert_eq!(read(&[("X-Consul-Index", "42")]).index, Some(42));
        assert_eq!(read(&[("x-consul-index", " 42 ")]).index, Some(42));
        for junk in ["", "-1", "+1", "1.0", "0x1", "18446744073709551616", "1 2"] {
            assert_eq!(read(&[("x-consul-index", junk)]).index, None, "{junk}");
        }
        assert_eq!(
            read(&[("x-consul-index", "1"), ("X-Consul-Index", "2")]).index,
            None
        );
        assert_eq!(
            read(&[("x-consul-index", "2"), ("X-Consul-Index", "2")]).index,
            Some(2)
        );
        let policy = |v| read(&[("X-Consul-Default-ACL-Policy", v)]).default_acl_policy;
        assert_eq!(policy("deny"), Some(AllowDeny::Deny));
        assert_eq!(policy("Allow"), None);
    }

    #[test]
    fn only_a_plain_200_has_a_body_and_an_index() {
        let mut reply = HttpReply {
            status: 403,
            headers: read(&[
                ("x-consul-index", "1"),
                ("x-consul-default-acl-policy", "deny"),
            ]),
            body: b"Permission denied\r\n\x1b[31m\xff",
        };
        assert_eq!(reply.index(), None);
        assert!(reply.is_consul());
        let error = reply.ok(10).unwrap_err();
        assert!(error.is_forbidden());
        assert!(!error.to_string().contains(['\r', '\n', '\x1b']));
        for status in [204, 206, 301, 307, 404, 500] {
            reply.status = status;
            assert_eq!(reply.ok(100).unwrap_err().status(), Some(status));
        }
        reply.status = 200;
        assert_eq!(reply.index(), Some(1));
        assert!(reply.ok(100).is_ok());
        reply.headers.encoding = read(&[("Content-Encoding", "gzip")]).encoding;
        assert!(matches!(reply.ok(100), Err(ReplyError::Encoding { .. })));
    }
}
