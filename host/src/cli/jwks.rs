//! The flags about key sets: who may be asked for them.

use std::path::PathBuf;

use portcullis::jwks::{AllowedOrigin, JwksSettings};

use super::failure::Failure;

/// Flags about key sets.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct JwksArgs {
    /// A server that may be asked for keys of JWT providers, by HTTPS, or by HTTP as `http://HOST`; nobody else is asked, whatever a provider's entry says; may be repeated
    #[arg(long, value_name = "HOST[:PORT]")]
    jwks_allow: Vec<AllowedOrigin>,
    /// The CA certificates of those servers, instead of the system's
    #[arg(long, value_name = "FILE")]
    jwks_ca_file: Option<PathBuf>,
}

impl JwksArgs {
    /// From whom key sets are fetched.
    ///
    /// Fails when the CA certificates cannot be used.
    pub(crate) fn settings(&self) -> Result<JwksSettings, Failure> {
        let settings = JwksSettings {
            allowed: self.jwks_allow.clone(),
            ca_file: self.jwks_ca_file.clone(),
        };
        let what = match &self.jwks_ca_file {
            Some(file) => format!("-jwks-ca-file `{}`", file.display()),
            None => "-jwks-allow".to_owned(),
        };
        match settings.check() {
            Ok(()) => Ok(settings),
            Err(error) => Err(Failure::while_doing(what, &error)),
        }
    }
}
