//! What a policy is asked.

/// The client as its certificate names it. The chain is already verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// All URI names of the certificate, in its order. Exactly one is acceptable.
    pub uris: Vec<String>,
    /// The `x-forwarded-client-cert` header, if the TLS peer in `uris` is a mesh gateway.
    pub via_gateway: Option<Vec<u8>>,
}

impl Client {
    /// A client whose certificate has one URI name.
    #[must_use]
    pub fn from_uri(uri: impl Into<String>) -> Self {
        Self {
            uris: vec![uri.into()],
            via_gateway: None,
        }
    }
}

/// Which headers of a request a host must pass to `authorize`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderNeeds {
    /// None: no rule of the target looks at headers.
    None,
    /// Only those with these names (lower case, sorted), every occurrence.
    Named(Vec<String>),
    /// All of them.
    All,
}
