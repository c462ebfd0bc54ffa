//! Key sets of JWT providers: where they come from, and how they are fetched.
//!
//! The addresses stand in config entries, which are the mesh's word and not this machine's.
//! So only what its own allow-list names is asked, redirects are never followed, and size
//! and time are bounded. No token ever causes a fetch.

mod allowed;
mod fetch;

use std::path::PathBuf;

pub use allowed::AllowedOrigin;
pub use fetch::{FetchError, fetch};
pub use portcullis_core::jwt::{MAX_KEY_SET, Place, Source};

/// From whom key sets are fetched.
#[derive(Clone, Debug, Default)]
pub struct JwksSettings {
    /// Who may be asked; nobody by default.
    pub allowed: Vec<AllowedOrigin>,
    /// The CA certificates of servers behind HTTPS; the system's if absent.
    pub ca_file: Option<PathBuf>,
}

impl JwksSettings {
    /// Whether HTTPS to the servers can be verified, so that a wrong file is told at once.
    ///
    /// # Errors
    /// When the CA certificates cannot be read or used.
    pub fn check(&self) -> Result<(), FetchError> {
        if self.ca_file.is_some() || self.allowed.iter().any(AllowedOrigin::is_https) {
            fetch::tls_config(self)?;
        }
        Ok(())
    }
}

/// Where keys are, for people: without a user, and without what stands in a query.
#[must_use]
pub fn shown(place: &Place) -> String {
    crate::escape::visible(&place.bare(), 200)
}
