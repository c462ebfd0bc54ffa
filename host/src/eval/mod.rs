//! Questions in, answers out: one JSON object a line, without an agent.
//!
//! To replay traffic against a policy, to test a policy in CI and to compare engines.
//! Every adapter answers the questions of `tests/vectors` in this format.

mod answer;
mod question;

use std::collections::HashMap;

use portcullis_core::chain::VerifyErrorKind;
use portcullis_core::intention::Destination;
use portcullis_core::policy::{Client, Document, LoadProblem, Request};
use portcullis_core::time::Timestamp;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::runtime::{Policy, PolicyError};
use answer::Fields;
use question::{Authorize, Head, ParseId, VerifyPeer};

/// How many meshes are kept compiled.
const MAX_MESHES: usize = 32;
/// How many destinations of one mesh are kept compiled.
const MAX_SERVICES: usize = 1_024;
/// Name of the document that all destinations share.
const MESH: &str = "mesh";

/// A question that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The line is no JSON object with the fields of its question, and no others.
    #[error("the question cannot be read: {0}")]
    Question(String),
    /// The line is not UTF-8.
    #[error("the line is not UTF-8")]
    NotUtf8,
    /// `ask` is missing or none of the three.
    #[error("`ask` is not one of `authorize`, `verify-peer` and `parse-id`")]
    Ask,
    /// `id` is missing, or neither a string nor a number.
    #[error("`id` is missing, or neither a string nor a number")]
    Id,
    /// A field's text does not say what it should.
    #[error("`{field}` {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The policy refuses what the question describes.
    #[error("the policy refuses the question's {document} at `{pointer}`: {text}")]
    Refused {
        /// Name of the document that was made from the question.
        document: String,
        /// Where in it.
        pointer: String,
        /// Why.
        text: String,
    },
    /// The policy itself failed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl From<serde_json::Error> for EvalError {
    /// The line that serde counts is the only one of its text, not that of the file.
    fn from(error: serde_json::Error) -> Self {
        Self::Question(
            error
                .to_string()
                .replace(" at line 1 column ", " at column "),
        )
    }
}

/// Answers questions, and keeps what it compiled for them.
pub struct Evaluator<F> {
    new_policy: F,
    explain: bool,
    meshes: HashMap<Vec<u8>, Mesh>,
}

/// A policy that has one mesh document and some destinations.
struct Mesh {
    policy: Policy,
    services: HashMap<String, Service>,
}

/// A destination's document in force, and what was said about it.
struct Service {
    body: Vec<u8>,
    warnings: Vec<LoadProblem>,
}

/// One line of output.
pub struct Answer {
    /// One JSON object.
    pub json: String,
    /// Whether the question could not be answered.
    pub is_error: bool,
}

impl<F: Fn() -> Result<Policy, PolicyError>> Evaluator<F> {
    /// An evaluator that takes its policies from `new_policy`. With `explain`, answers
    /// to `authorize` carry the whole trace.
    pub fn new(new_policy: F, explain: bool) -> Self {
        Self {
            new_policy,
            explain,
            meshes: HashMap::new(),
        }
    }

    /// Answers one line; `number` counts from 1 and is part of what is said about a
    /// line that cannot be understood.
    pub fn answer(&mut self, number: u64, line: &[u8]) -> Answer {
        let (id, answered) = match std::str::from_utf8(line) {
            Ok(line) => self.answer_text(line),
            Err(_) => (None, Err(EvalError::NotUtf8)),
        };
        let is_error = answered.is_err();
        let fields = answered.unwrap_or_else(|error| Fields::error(&error, number));
        Answer {
            json: written(id, &fields),
            is_error,
        }
    }

    /// The question's `id`, and its answer.
    fn answer_text<'q>(&mut self, line: &'q str) -> (Option<&'q str>, Result<Fields, EvalError>) {
        // Nearly all are of this kind, and are read once. What else it may be, or why it
        // cannot be read, is found out by looking at each field alone.
        let unread = match serde_json::from_str::<Authorize<'q>>(line) {
            Ok(question) if question.is_asked() && is_scalar(question.id.get()) => {
                return (Some(question.id.get()), self.authorize(&question));
            }
            Ok(_) => None,
            Err(error) => Some(error),
        };
        let head = match serde_json::from_str::<Head<'q>>(line) {
            Ok(head) => head,
            Err(error) => return (None, Err(error.into())),
        };
        let id = head.id.map(RawValue::get).filter(|id| is_scalar(id));
        let answered = match (id, head.ask.as_deref(), unread) {
            (None, ..) => Err(EvalError::Id),
            (_, Some("authorize"), Some(error)) => Err(error.into()),
            (_, Some("verify-peer"), _) => serde_json::from_str(line)
                .map_err(EvalError::from)
                .and_then(|question| self.verify_peer(&question)),
            (_, Some("parse-id"), _) => serde_json::from_str(line)
                .map_err(EvalError::from)
                .and_then(|question| self.parse_id(&question)),
            _ => Err(EvalError::Ask),
        };
        (id, answered)
    }

    fn authorize(&mut self, question: &Authorize<'_>) -> Result<Fields, EvalError> {
        let (client, request) = (question.client()?, question.request()?);
        let (target, now) = (question.target(), question.at());
        let explain = self.explain;
        let mesh = self.mesh(question.mesh()?)?;
        // A target that cannot name a service has no document; the policy says so.
        if let Ok(destination) = Destination::parse(&target) {
            mesh.load(destination.document(), question.service()?)?;
        }
        let decision = mesh
            .policy
            .authorize(&target, &client, request.as_ref(), now);
        let text = mesh.policy.describe(&target, &decision);
        let trace = match explain {
            true => Some(mesh.trace(&target, &client, request.as_ref(), now)?),
            false => None,
        };
        let decided = answer::decision(decision, text, request, trace);
        Ok(Fields::Decision(decided))
    }

    fn verify_peer(&mut self, question: &VerifyPeer) -> Result<Fields, EvalError> {
        let chain = question.chain()?;
        let mesh = match self.mesh(question.mesh()?) {
            Ok(mesh) => mesh,
            // No root can be used: a host would have none.
            Err(EvalError::Refused { pointer, text, .. }) if pointer == "/roots" => {
                return Ok(answer::rejected(
                    VerifyErrorKind::NotReady,
                    "roots-not-loaded",
                    &text,
                ));
            }
            Err(error) => return Err(error),
        };
        let expected = question.expect_uri.as_deref();
        let result = mesh
            .policy
            .verify_peer(&chain, question.usage(), expected, question.at);
        Ok(answer::verified(result))
    }

    fn parse_id(&mut self, question: &ParseId) -> Result<Fields, EvalError> {
        // Any policy will do.
        let trust_domain =
            br#"{"trust_domain":"parse-id","default_policy":"deny","max_stale_ms":0}"#;
        let mesh = self.mesh(trust_domain.to_vec())?;
        Ok(answer::parsed(mesh.policy.parse_id(&question.uri)))
    }

    /// The policy that has this mesh document.
    fn mesh(&mut self, body: Vec<u8>) -> Result<&mut Mesh, EvalError> {
        if self.meshes.len() >= MAX_MESHES && !self.meshes.contains_key(&body) {
            self.meshes.clear();
        }
        if self
            .meshes
            .get(&body)
            .is_none_or(|mesh| mesh.services.len() >= MAX_SERVICES)
        {
            let mut mesh = Mesh {
                policy: (self.new_policy)()?,
                services: HashMap::new(),
            };
            mesh.load(MESH.to_owned(), body.clone())?;
            mesh.services.clear();
            self.meshes.insert(body.clone(), mesh);
        }
        self.meshes.get_mut(&body).ok_or(EvalError::Ask)
    }
}

impl Mesh {
    /// What `--explain` tells.
    fn trace(
        &self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Result<Value, EvalError> {
        let trace = self.policy.explain(target, client, request, now)?;
        let document = Destination::parse(target).map(|destination| destination.document());
        let service = document.ok().and_then(|name| self.services.get(&name));
        let warnings = service
            .map(|service| service.warnings.as_slice())
            .unwrap_or_default();
        Ok(answer::trace(&trace, warnings))
    }

    /// Loads a document unless it is in force already.
    fn load(&mut self, name: String, body: Vec<u8>) -> Result<(), EvalError> {
        if self
            .services
            .get(&name)
            .is_some_and(|service| service.body == body)
        {
            return Ok(());
        }
        let confirmed_at = Timestamp::default();
        let document = Document {
            name: name.clone(),
            body: Some(body.clone()),
            confirmed_at,
        };
        let report = self.policy.load(vec![document])?;
        if let Some(refused) = report.refused.into_iter().next() {
            let LoadProblem {
                document,
                pointer,
                text,
            } = refused;
            return Err(EvalError::Refused {
                document,
                pointer,
                text,
            });
        }
        self.services.insert(
            name,
            Service {
                body,
                warnings: report.warnings,
            },
        );
        Ok(())
    }
}

/// One JSON object, with `id` first where there is one.
fn written(id: Option<&str>, fields: &Fields) -> String {
    let mut json = Vec::with_capacity(256);
    if let Some(id) = id {
        json.extend_from_slice(b"{\"id\":");
        json.extend_from_slice(id.as_bytes());
    }
    let rest = json.len();
    // Neither a field nor memory can refuse to be written.
    let _ = serde_json::to_writer(&mut json, fields);
    if let (1.., Some(open)) = (rest, json.get_mut(rest)) {
        *open = b',';
    }
    String::from_utf8(json).unwrap_or_default()
}

/// Whether the JSON is a string or a number.
fn is_scalar(json: &str) -> bool {
    json.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::runtime::aws_lc;

    fn answer(line: &str) -> (Value, bool) {
        let mut evaluator = Evaluator::new(|| Ok(Policy::native(aws_lc())), false);
        let answer = evaluator.answer(7, line.as_bytes());
        let json = serde_json::from_str(&answer.json).expect("one JSON value");
        (json, answer.is_error)
    }

    /// A good question with `more` fields.
    fn question(more: &str) -> String {
        let uri = "spiffe://t.consul/ns/default/dc/dc1/svc/web";
        format!(
            r#"{{"id":"q","ask":"authorize","intentions":null,"default_policy":"allow","trust_domain":"t.consul","target":"db","client_uris":["{uri}"]{more}}}"#
        )
    }

    #[test]
    fn what_cannot_be_understood_is_an_error_with_its_line_and_id() {
        for more in [
            r#","other":1"#,
            r#","target":"db""#,
            r#","protocol":"udp""#,
            r#","at":"yesterday""#,
            r#","at":null"#,
            r#","matching":"loose""#,
            r#","request":{"method":"GET","path":"/","headers":[["a"]]}"#,
            r#","request":{"method":"GET","path":"/\u0100","headers":[]}"#,
            r#","peers":{"beta":{"trust_domain":"b","roots":[]}}"#,
            r#","request_normalization":7"#,
        ] {
            let (answer, is_error) = answer(&question(more));
            assert!(is_error, "{more}: {answer}");
            assert_eq!(
                (&answer["id"], &answer["line"]),
                (&json!("q"), &json!(7)),
                "{more}"
            );
            let text = answer["error"].as_str().expect("a text");
            assert!(!text.contains("line 1"), "{text}");
            assert_eq!(answer.get("effect"), None);
        }
        for line in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"id":null,"ask":"parse-id","uri":"x"}"#,
            "\u{feff}{}",
        ] {
            let (answer, is_error) = answer(line);
            assert!(is_error && answer.get("id").is_none(), "{line}: {answer}");
        }
        let (asked, _) = answer(r#"{"id":1e2,"ask":"what"}"#);
        assert_eq!(asked["id"], json!(1e2));
    }

    #[test]
    fn a_refused_question_changes_nothing_for_the_next() {
        let mut evaluator = Evaluator::new(|| Ok(Policy::native(aws_lc())), false);
        let mut effect = |line: &str| {
            let answer = evaluator.answer(1, line.as_bytes());
            let json: Value = serde_json::from_str(&answer.json).expect("JSON");
            json["effect"].as_str().map(str::to_owned)
        };
        let open = question("");
        let closed = open.replace(r#""default_policy":"allow""#, r#""default_policy":"deny""#);
        let broken = open.replace(r#""intentions":null"#, r#""intentions":{}"#);
        let rule = r#"[{"SourceName":"web","DestinationName":"db","Action":"deny"}]"#;
        let ruled = open.replace(r#""intentions":null"#, &format!(r#""intentions":{rule}"#));
        for _ in 0..2 {
            assert_eq!(effect(&open).as_deref(), Some("allow"));
            assert_eq!(effect(&broken), None);
            assert_eq!(effect(&ruled).as_deref(), Some("deny"));
            assert_eq!(effect(&broken), None);
            assert_eq!(effect(&closed).as_deref(), Some("deny"));
            assert_eq!(effect(&open).as_deref(), Some("allow"));
        }
    }
}
