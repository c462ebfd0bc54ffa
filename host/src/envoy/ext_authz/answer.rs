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
    location: Option<String>,
    /// What changes in the headers of what is allowed: name and value, or none to take it out.
    changes: Vec<(String, Option<String>)>,
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
        // Envoy takes `HeaderValue.value` here, which is UTF-8, and nothing from `raw_value`.
        let text = |value: Vec<u8>| String::from_utf8(value).ok();
        match decision.effect {
            // Envoy forwards the path that it has: it must be the one that was judged.
            Effect::Allow if decision.path.is_some() && decision.path.as_deref() != target => {
                verdict.effect = Effect::BadRequest;
                verdict.code = "path-not-normalized".to_owned();
                verdict.text =
                    "the path is not as the mesh normalises it (set `normalize_path: true` and what the mesh entry says), or holds a token that must not go on"
                        .to_owned();
            }
            Effect::Redirect => match decision.path.and_then(text) {
                Some(location) => verdict.location = Some(location),
                None => verdict.effect = Effect::BadRequest,
            },
            _ => {}
        }
        for change in decision.headers {
            let (name, value) = (change.name, change.value.map(text));
            match value {
                None => verdict.changes.push((name, None)),
                Some(Some(value)) => verdict.changes.push((name, Some(value))),
                // It cannot be told, so the request cannot go on as it was judged.
                Some(None) => verdict.effect = Effect::Deny,
            }
        }
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
                let headers = [("location", location.as_str())];
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

    fn denied(&self, status: i32, headers: &[(&str, &str)]) -> HttpResponse {
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

fn header(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Verdict {
        Verdict::new(Effect::Allow, "intention", "allowed")
    }

    fn pairs(headers: &[HeaderValueOption]) -> Vec<(&str, &str)> {
        let values = headers.iter().filter_map(|option| option.header.as_ref());
        values
            .map(|header| (header.key.as_str(), header.value.as_str()))
            .collect()
    }

    #[test]
    fn envoy_finds_what_it_is_told_in_the_field_that_it_reads() {
        let mut verdict = allowed();
        verdict.changes = vec![
            ("x-payload".to_owned(), Some("e30".to_owned())),
            ("authorization".to_owned(), None),
        ];
        let Some(HttpResponse::OkResponse(answer)) = verdict.response(true).http_response else {
            panic!("allowed");
        };
        assert_eq!(pairs(&answer.headers), [("x-payload", "e30")]);
        assert_eq!(answer.headers_to_remove, ["authorization"]);

        let mut verdict = allowed();
        verdict.effect = Effect::Redirect;
        verdict.location = Some("/a/b".to_owned());
        let Some(HttpResponse::DeniedResponse(answer)) = verdict.response(true).http_response
        else {
            panic!("redirected");
        };
        assert_eq!(answer.status, Some(HttpStatus { code: 307 }));
        assert_eq!(pairs(&answer.headers), [("location", "/a/b")]);
    }
}
