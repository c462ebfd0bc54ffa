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
        let fields: Vec<(&str, &str)> = fields
            .into_iter()
            .map(|(name, value)| (name, std::str::from_utf8(value).unwrap_or_default().trim()))
            .collect();
        let one = |known: &str| {
            let mut values = fields
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case(known));
            let (_, first) = values.next()?;
            values.all(|(_, other)| other == first).then_some(*first)
        };
        Self {
            index: one("x-consul-index").and_then(decimal),
            content_hash: one("x-consul-contenthash")
                .filter(|hash| !hash.is_empty() && hash.len() <= 256)
                .map(str::to_owned),
            default_acl_policy: one("x-consul-default-acl-policy").and_then(AllowDeny::parse),
            known_leader: one("x-consul-knownleader").and_then(|value| value.parse().ok()),
            filtered: one("x-consul-results-filtered-by-acls") == Some("true"),
            retry_after_s: one("retry-after").and_then(decimal),
            // Any one of several counts here.
            encoding: fields
                .iter()
                .find(|(name, value)| {
                    name.eq_ignore_ascii_case("content-encoding")
                        && !value.eq_ignore_ascii_case("identity")
                })
                .map(|(_, value)| excerpt(value)),
        }
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
        let both = [
            ("x-consul-default-acl-policy", "deny"),
            ("X-Consul-Default-ACL-Policy", "allow"),
        ];
        assert_eq!(read(&both).default_acl_policy, None);
        let encoded = [
            ("content-encoding", "identity"),
            ("content-encoding", "gzip"),
        ];
        assert_eq!(read(&encoded).encoding.as_deref(), Some("gzip"));
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
