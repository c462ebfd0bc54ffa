//! Why a request was refused, for what stands around the layer.

use portcullis_core::intention::Decision;

/// Why the layer answered a request itself: in the extensions of that answer, for what
/// stands around the layer (traces, error pages, tests). It is never sent to the client.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub(super) code: String,
    pub(super) reason: String,
    pub(super) decision: Option<Decision>,
}

impl Refusal {
    /// The reason's name, of the same list as in the access log: `permission`,
    /// `no-permission-matched`, `bad-request`, `no-identity`.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The reason in a sentence, as the access log has it. It may name intentions: nothing
    /// for clients.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The policy's decision, where it was asked; it names intention and permission.
    #[must_use]
    pub fn decision(&self) -> Option<&Decision> {
        self.decision.as_ref()
    }
}
