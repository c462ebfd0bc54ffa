//! One stream: what Envoy asks for, what it was sent, and whether it took it.
//!
//! The protocol is the state of the world: each answer has all that is asked for, and the
//! next question says by its nonce whether the answer was taken (ACK) or not (NACK).
//!
//! <https://www.envoyproxy.io/docs/envoy/v1.38.0/api-docs/xds_protocol>

use std::sync::Arc;
use std::sync::atomic::Ordering;

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use prost::Name as _;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::secrets::{LEAF, ROOTS, Secrets};
use super::{BUNDLES, Counted};
use crate::escape::visible;

/// How much of Envoy's reason is repeated.
const REASON: usize = 400;

/// What a stream is about.
pub(super) struct Subscription {
    secrets: Secrets,
    counts: Arc<Counted>,
    progress: Progress,
}

/// How far a stream has come.
#[derive(Debug, Default)]
struct Progress {
    /// What is asked for; empty before the first question.
    names: Vec<&'static str>,
    /// Nonce and version of the last answer.
    sent: Option<(String, String)>,
    /// Answers so far.
    count: u64,
}

/// What a question means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// These secrets, please.
    Wants,
    /// The last answer was taken.
    Accepts,
    /// The last answer was not taken, because of this.
    Refuses(String),
    /// About an answer that another one has overtaken.
    Late,
}

impl Subscription {
    pub(super) fn new(secrets: Secrets, counts: Arc<Counted>) -> Self {
        counts.streams.fetch_add(1, Ordering::Relaxed);
        Self {
            secrets,
            counts,
            progress: Progress::default(),
        }
    }

    /// Serves until the client ends.
    ///
    /// Fails for a question that has no answer here.
    pub(super) async fn run(
        mut self,
        mut questions: Streaming<DiscoveryRequest>,
        answers: &mpsc::Sender<Result<DiscoveryResponse, Status>>,
    ) -> Result<(), Status> {
        loop {
            tokio::select! {
                question = questions.message() => {
                    // A client that breaks off has nothing left to be told.
                    let Ok(Some(question)) = question else { return Ok(()) };
                    match self.progress.take(&question)? {
                        Meaning::Wants => self.answer(answers).await,
                        Meaning::Accepts => {
                            self.counts.accepted.fetch_add(1, Ordering::Relaxed);
                            tracing::debug!(secrets = self.progress.names.join(","), version = question.version_info, "Envoy has taken it");
                        }
                        Meaning::Refuses(because) => {
                            self.counts.refused.fetch_add(1, Ordering::Relaxed);
                            tracing::warn!(secrets = self.progress.names.join(","), because, "Envoy refuses what it was sent, and goes on with what it had");
                        }
                        Meaning::Late => {}
                    }
                }
                () = self.secrets.changed(), if !self.progress.names.is_empty() => self.answer(answers).await,
            }
        }
    }

    /// Sends what there is, unless it was sent already.
    async fn answer(&mut self, answers: &mpsc::Sender<Result<DiscoveryResponse, Status>>) {
        let found = self.secrets.current(&self.progress.names);
        if found.is_empty() || self.progress.has(&found.version) {
            return;
        }
        let nonce = self.progress.sends(&found.version);
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(
            secrets = self.progress.names.join(","),
            version = found.version,
            nonce,
            "sent to Envoy"
        );
        let _ = answers.send(Ok(found.response(nonce))).await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.counts.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Progress {
    /// Reads a question.
    fn take(&mut self, question: &DiscoveryRequest) -> Result<Meaning, Status> {
        let wanted = names(question)?;
        let is_last = self
            .sent
            .as_ref()
            .is_some_and(|(nonce, _)| *nonce == question.response_nonce);
        // A nonce of another stream or of an older answer.
        if !question.response_nonce.is_empty() && self.sent.is_some() && !is_last {
            return Ok(Meaning::Late);
        }
        let others = wanted != self.names;
        self.names = wanted;
        if let Some(error) = question.error_detail.as_ref().filter(|_| is_last) {
            return Ok(Meaning::Refuses(visible(&error.message, REASON)));
        }
        if others {
            // Whatever was sent was for other names.
            if let Some((_, version)) = &mut self.sent {
                version.clear();
            }
            return Ok(Meaning::Wants);
        }
        Ok(if is_last {
            Meaning::Accepts
        } else {
            Meaning::Wants
        })
    }

    /// Whether the last answer had this version.
    fn has(&self, version: &str) -> bool {
        self.sent.as_ref().is_some_and(|(_, sent)| sent == version)
    }

    /// The nonce of the next answer.
    fn sends(&mut self, version: &str) -> String {
        self.count += 1;
        let nonce = self.count.to_string();
        self.sent = Some((nonce.clone(), version.to_owned()));
        nonce
    }
}

/// The secrets that a question names, in our order.
///
/// Fails for another type, no name, and one that there will never be: Envoy would wait for
/// it silently, but logs why a stream ended.
pub(super) fn names(question: &DiscoveryRequest) -> Result<Vec<&'static str>, Status> {
    if !question.type_url.is_empty() && question.type_url != Secret::type_url() {
        return Err(Status::invalid_argument(format!(
            "`type_url` is `{}`: only secrets are served here",
            visible(&question.type_url, REASON)
        )));
    }
    if question.resource_names.is_empty() {
        return Err(Status::invalid_argument(format!(
            "`resource_names` is empty: ask for `{LEAF}`, `{ROOTS}` or `{BUNDLES}`"
        )));
    }
    let known = [LEAF, ROOTS, BUNDLES];
    let is_known = |name: &&String| !known.contains(&name.as_str());
    if let Some(unknown) = question.resource_names.iter().find(is_known) {
        return Err(Status::invalid_argument(format!(
            "there is no secret `{}` here: the `name` in `tls_certificate_sds_secret_configs` is `{LEAF}`, in `validation_context_sds_secret_config` `{ROOTS}`, or `{BUNDLES}` where callers of peers come",
            visible(unknown, REASON)
        )));
    }
    let wanted = |name: &&str| question.resource_names.iter().any(|wanted| wanted == name);
    Ok(known.into_iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::google::rpc;

    fn question(names: &[&str], nonce: &str) -> DiscoveryRequest {
        DiscoveryRequest {
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            type_url: Secret::type_url(),
            response_nonce: nonce.to_owned(),
            ..DiscoveryRequest::default()
        }
    }

    #[test]
    fn nonces_tell_what_a_question_is_about() {
        let mut progress = Progress::default();
        let take = |progress: &mut Progress, question: &DiscoveryRequest| {
            progress.take(question).map_err(|status| status.code())
        };
        assert_eq!(
            take(&mut progress, &question(&[LEAF], "")),
            Ok(Meaning::Wants)
        );
        let first = progress.sends("v1");
        assert!(progress.has("v1") && !progress.has("v2"));
        assert_eq!(
            take(&mut progress, &question(&[LEAF], &first)),
            Ok(Meaning::Accepts)
        );
        let second = progress.sends("v2");
        assert_ne!(first, second);
        assert_eq!(
            take(&mut progress, &question(&[LEAF], &first)),
            Ok(Meaning::Late)
        );
        let refusal = DiscoveryRequest {
            error_detail: Some(rpc::Status {
                message: "bad\u{1b}[31m".to_owned(),
                ..rpc::Status::default()
            }),
            ..question(&[LEAF], &second)
        };
        let Ok(Meaning::Refuses(because)) = take(&mut progress, &refusal) else {
            panic!("a refusal");
        };
        assert!(
            because.starts_with("bad") && !because.contains('\u{1b}'),
            "{because}"
        );
        // What was refused is not sent again, until it is another one.
        assert!(progress.has("v2"));
        assert_eq!(
            take(&mut progress, &question(&[ROOTS, LEAF], &second)),
            Ok(Meaning::Wants)
        );
        assert_eq!(progress.names, [LEAF, ROOTS]);
        assert!(!progress.has("v2"), "the answer must have both");
    }

    #[test]
    fn a_client_that_comes_back_is_answered_whatever_it_remembers() {
        let mut progress = Progress::default();
        let again = DiscoveryRequest {
            version_info: "v7".to_owned(),
            ..question(&[ROOTS], "17")
        };
        assert_eq!(progress.take(&again).ok(), Some(Meaning::Wants));
    }

    #[test]
    fn what_will_never_come_is_refused_by_name() {
        let other = DiscoveryRequest {
            type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
            ..question(&[LEAF], "")
        };
        for (question, part) in [
            (other, "type_url"),
            (question(&[], ""), "resource_names"),
            (question(&["leaf", "ROOTCA"], ""), "`ROOTCA`"),
        ] {
            let status = names(&question).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains(part), "{}", status.message());
        }
    }
}
