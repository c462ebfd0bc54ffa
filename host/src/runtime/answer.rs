//! Answers of the policy that are texts and codes of the component's own choice.
//!
//! What comes from a component is bounded here; escaping is up to who prints it.

use std::fmt;

use portcullis_core::chain::VerifyErrorKind;

/// The longest text that is taken from a component.
const LONGEST: usize = 4_096;

/// A chain that the policy refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct VerifyError {
    kind: VerifyErrorKind,
    code: String,
    text: String,
}

impl VerifyError {
    pub(super) fn new(
        kind: VerifyErrorKind,
        code: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            code: bounded(code.into()),
            text: bounded(text.into()),
        }
    }

    /// Who must act.
    #[must_use]
    pub const fn kind(&self) -> VerifyErrorKind {
        self.kind
    }

    /// The rule that the chain breaks; names are stable. `policy-failed` if the
    /// policy itself failed.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }
}

impl From<&portcullis_core::chain::VerifyError> for VerifyError {
    fn from(error: &portcullis_core::chain::VerifyError) -> Self {
        Self::new(error.kind(), error.code(), error.to_string())
    }
}

/// A SPIFFE ID that the policy refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct IdentityError {
    code: String,
    text: String,
}

impl IdentityError {
    pub(super) fn new(code: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            code: bounded(code.into()),
            text: bounded(text.into()),
        }
    }

    /// The rule that it breaks; names are stable. `policy-failed` if the policy itself failed.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }
}

impl From<&portcullis_core::identity::IdentityError> for IdentityError {
    fn from(error: &portcullis_core::identity::IdentityError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// At most [`LONGEST`] bytes of `text`.
pub(super) fn bounded(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push('…');
    }
    text
}

/// Why an instance gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure(pub(super) String);

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
