//! The flags of the decision log and of the candidate in the shadow.

use std::path::PathBuf;

use portcullis::decisions::{DecisionLog, DecisionLogConfig, Decisions, Destination};
use portcullis::runtime::Policy;
use portcullis::shadow::Shadow;

use crate::cli::failure::Failure;
use crate::cli::output::Format;

/// Headers that carry tokens; these are in no log.
const SECRET: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];

/// The parameter that carries tokens (RFC 6750, section 2.3).
const TOKEN: &str = "access_token";

/// Flags of the decision log and of the candidate in the shadow
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Decisions")]
pub(crate) struct DecisionArgs {
    /// Append each decision to this file as a line of JSON, or to standard output with `-`; read it with `portcullis diff -log`
    #[arg(long, value_name = "FILE")]
    decision_log: Option<PathBuf>,
    /// Of what is allowed, log one in N, and nothing of it with 0; what is refused always is
    #[arg(long, value_name = "N", default_value_t = 1, requires = "decision_log")]
    decision_log_allows: u64,
    /// Log the value of this header where a rule looks at it, not its name alone; may be repeated
    #[arg(long, value_name = "NAME", requires = "decision_log", value_parser = header)]
    decision_log_header: Vec<String>,
    /// Log the value of this parameter in queries, not its name alone; may be repeated
    #[arg(long, value_name = "NAME", requires = "decision_log", value_parser = parameter)]
    decision_log_query: Vec<String>,
    /// Ask these config entries beside the live ones about everything, enforce nothing of it, and count and log what would differ: a file or directory as `lint` reads it; may be repeated
    #[arg(long, value_name = "FILE")]
    shadow_intentions: Vec<PathBuf>,
}

/// The name of a header, in lower case.
fn header(text: &str) -> Result<String, String> {
    let name = text.to_ascii_lowercase();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err("it is no name of a header; write it like `x-tenant`".to_owned());
    }
    if SECRET.contains(&name.as_str()) {
        return Err("it carries tokens, which are never logged: leave it out".to_owned());
    }
    Ok(name)
}

/// The name of a parameter, as it stands in a query.
fn parameter(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(['&', '=', '?', '#', ' ']) {
        return Err("it is no name of a parameter; write it as it stands in a query".to_owned());
    }
    if text.eq_ignore_ascii_case(TOKEN) {
        return Err("it carries tokens, which are never logged: leave it out".to_owned());
    }
    Ok(text.to_owned())
}

impl DecisionArgs {
    /// Opens the log and reads the candidate. One that cannot be read is no reason not to
    /// start: it is read again when it changes.
    ///
    /// Fails when the log cannot be opened.
    pub(crate) fn decisions(
        &self,
        output: Format,
        policy: &Policy,
        service: &str,
    ) -> Result<Decisions, Failure> {
        let log = match &self.decision_log {
            None => None,
            Some(path) => {
                let destination = match path.as_os_str() == "-" {
                    true => Destination::StandardOutput,
                    false => Destination::File(path.clone()),
                };
                if destination == Destination::StandardOutput && output == Format::Json {
                    return Err(Failure::usage(
                        "-decision-log - and -output json both write to standard output: give -decision-log a file",
                    ));
                }
                let log = DecisionLog::open(DecisionLogConfig {
                    destination,
                    allows: self.decision_log_allows,
                    headers: self.decision_log_header.clone(),
                    queries: self.decision_log_query.clone(),
                });
                Some(log.map_err(|error| Failure::from_error(&error))?)
            }
        };
        let shadow = (!self.shadow_intentions.is_empty())
            .then(|| Shadow::new(self.shadow_intentions.clone(), policy.clone(), service));
        if let Some(Err(error)) = shadow.as_ref().map(Shadow::read) {
            tracing::error!(%error, "there is no candidate in the shadow until its files change");
        }
        Ok(Decisions { log, shadow })
    }

    /// Where decisions are logged.
    pub(crate) fn log(&self) -> Option<&PathBuf> {
        self.decision_log.as_ref()
    }

    /// Where the candidate is.
    pub(crate) fn shadow(&self) -> &[PathBuf] {
        &self.shadow_intentions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carries_tokens_is_not_asked_for() {
        assert_eq!(header("X-Tenant"), Ok("x-tenant".to_owned()));
        for name in ["", "a b", "x:", "Authorization", "cookie"] {
            assert!(header(name).is_err(), "{name}");
        }
        assert_eq!(parameter("x"), Ok("x".to_owned()));
        for name in ["", "a=b", "Access_Token"] {
            assert!(parameter(name).is_err(), "{name}");
        }
    }
}
