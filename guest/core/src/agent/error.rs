//! What can be wrong with a request's arguments or with an agent's reply.

/// A request that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} `{value}` {problem}")]
pub struct RequestError {
    /// Which argument.
    pub field: &'static str,
    /// The argument, shortened.
    pub value: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// A reply that cannot be used. Field names are JSON pointers (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Any status but 200.
    #[error("the agent answered {status}: `{message}`")]
    Status {
        /// HTTP status.
        status: u16,
        /// The start of the body, printable, without line breaks.
        message: String,
    },
    /// The body is over the limit of its kind.
    #[error("the reply is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The body is compressed, which was not asked for.
    #[error("the reply has the content encoding `{encoding}`, which was not asked for")]
    Encoding {
        /// `Content-Encoding`, shortened.
        encoding: String,
    },
    /// The token does not see everything.
    #[error("the token may not read {what}: it needs {needs}")]
    Hidden {
        /// What it does not see.
        what: &'static str,
        /// The permission that it lacks.
        needs: &'static str,
    },
    /// The body is not JSON, or ends early.
    #[error("the reply is not JSON: {detail}")]
    Syntax {
        /// What the reader says, with line and column.
        detail: String,
    },
    /// The body nests too deep.
    #[error("the reply nests deeper than {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A field that decides is absent or null.
    #[error("`{field}` is missing")]
    Missing {
        /// Which.
        field: String,
    },
    /// A field has another JSON type than Consul gives it.
    #[error("`{field}` is not {expected}")]
    Type {
        /// Which.
        field: String,
        /// The type that it must have.
        expected: &'static str,
    },
    /// A field that decides occurs twice: readers would differ about its value.
    #[error("`{field}` occurs twice")]
    Duplicate {
        /// Which.
        field: String,
    },
    /// A key equals one that decides but for its case: Go would take it, others would not.
    #[error("`{found}` differs from `{field}` only in case")]
    Case {
        /// The field.
        field: String,
        /// The key in the reply.
        found: String,
    },
    /// A field has the right type and an impossible value.
    #[error("`{field}` is invalid: {detail}")]
    Value {
        /// Which.
        field: String,
        /// Why.
        detail: String,
    },
}

impl ReplyError {
    /// The HTTP status, if the agent refused.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The agent answered 403: the token may not do this.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.status() == Some(403)
    }

    /// The agent answered 404.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}

/// `text` as one printable line of at most 200 characters, for error messages.
pub(super) fn excerpt(text: &str) -> String {
    const LIMIT: usize = 200;
    let mut line: String = text
        .trim()
        .chars()
        .take(LIMIT)
        .map(|c| {
            if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
                ' '
            } else {
                c
            }
        })
        .collect();
    if text.trim().chars().nth(LIMIT).is_some() {
        line.push('…');
    }
    line
}

/// The same for bytes that may not be text.
pub(crate) fn excerpt_bytes(bytes: &[u8]) -> String {
    let head = bytes.get(..1024).unwrap_or(bytes);
    excerpt(&String::from_utf8_lossy(head))
}
