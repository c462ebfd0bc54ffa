//! What Envoy is told.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use envoy_types::pb::google::rpc;
use portcullis_core::chain::VerifiedPeer;
use portcullis_core::intention::{Decision, Effect};
use tonic::Code;

/// A decision in words.
pub(super) struct Verdict {
    pub(super) effect: Effect,
    /// The reason's name.
    pub(super) code: String,
    /// The reason in one sentence.
    pub(super) text: String,
    /// Who it is about, if that is proved.
    pub(super) peer: Option<Arc<VerifiedPeer>>,
    /// Where a redirect leads.
    location: Option<Vec<u8>>,
    /// What changes in the headers of what is allowed: name and value, or none to take it out.
    changes: Vec<(String, Option<Vec<u8>>)>,
}

impl Verdict {
    fn new(effect: Effect, code: &str, text: &str) -> Self {
        Self {
            effect,
            code: code.to_owned(),
            text: text.to_owned(),
            peer: None,
            location: None,
            changes: Vec::new(),
        }
    }

    /// A refusal before the policy was asked.
    pub(super) fn refused(code: &str, text: &str) -> Self {
        Self::new(Effect::Deny, code, text)
    }

    /// What is no request.
    pub(super) fn bad_request(code: &str, text: &str) -> Self {
        Self::new(Effect::BadRequest, code, text)
    }

    /// The policy's decision about `peer`, and the request for `target`.
    pub(super) fn of(
        peer: Arc<VerifiedPeer>,
        decision: Decision,
        text: &str,
        target: Option<&[u8]>,
    ) -> Self {
        let mut verdict = Self::new(decision.effect, decision.code.code(), text);
        verdict.peer = Some(peer);
        match decision.effect {
            // Envoy forwards the path that it has: it must be the one that was judged.
            Effect::Allow if decision.path.is_some() && decision.path.as_deref() != target => {
                verdict.effect = Effect::BadRequest;
                verdict.code = "path-not-normalized".to_owned();
                verdict.text =
                    "the path is not as the mesh normalises it (set `normalize_path: true` and what the mesh entry says), or holds a token that must not go on"
                        .to_owned();
            }
            Effect::Redirect => verdict.location = decision.path,
            _ => {}
        }
        let changes = decision.headers.into_iter();
        verdict.changes = changes.map(|change| (change.name, change.value)).collect();
        verdict
    }

    /// The same for Envoy.
    pub(super) fn response(&self, is_http: bool) -> CheckResponse {
        let (code, http) = match self.effect {
            Effect::Allow => (Code::Ok, HttpResponse::OkResponse(self.changes())),
            Effect::Deny => (Code::PermissionDenied, self.denied(403, &[])),
            Effect::BadRequest => (Code::PermissionDenied, self.denied(400, &[])),
            Effect::Redirect => {
                let location = self.location.clone().unwrap_or_default();
                let headers = [("location", location.as_slice())];
                (Code::PermissionDenied, self.denied(307, &headers))
            }
        };
        let text = |text: &str| Value {
            kind: Some(Kind::StringValue(text.to_owned())),
        };
        let told = [("reason", &self.code), ("description", &self.text)];
        CheckResponse {
            status: Some(rpc::Status {
                code: code.into(),
                message: if code == Code::Ok {
                    String::new()
                } else {
                    self.code.clone()
                },
                ..rpc::Status::default()
            }),
            dynamic_metadata: Some(Struct {
                fields: told
                    .into_iter()
                    .map(|(name, told)| (name.to_owned(), text(told)))
                    .collect(),
            }),
            http_response: is_http.then_some(http),
        }
    }

    fn changes(&self) -> OkHttpResponse {
        let mut response = OkHttpResponse::default();
        for (name, value) in &self.changes {
            match value {
                None => response.headers_to_remove.push(name.clone()),
                Some(value) => response.headers.push(header(name, value)),
            }
        }
        response
    }

    fn denied(&self, status: i32, headers: &[(&str, &[u8])]) -> HttpResponse {
        HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code: status }),
            headers: headers
                .iter()
                .map(|(name, value)| header(name, value))
                .collect(),
            body: String::new(),
        })
    }
}

fn header(name: &str, value: &[u8]) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            raw_value: value.to_vec(),
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}
