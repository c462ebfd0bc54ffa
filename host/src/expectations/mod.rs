//! Expectations beside intentions: questions in the form of `portcullis eval`, and what
//! their answers should be.
//!
//! A field that a question leaves out is taken from the entries: intentions, protocol,
//! normalisation, JWT providers. What answers is the [`Evaluator`] of `eval`.

mod read;
mod schema;

use std::path::PathBuf;

use portcullis_core::intention::{Destination, Effect, Reason};
use serde_json::{Map, Value, json};

use crate::definitions::DefinitionError;
use crate::entries::{Entries, Place, Settings, service_uri};
use crate::eval::Evaluator;
use crate::runtime::{Policy, PolicyError};

pub use read::read;

/// Expectations of one file.
#[derive(Clone, Debug, Default)]
pub struct Suite {
    /// The files with entries that it names, relative to itself already.
    pub intentions: Vec<PathBuf>,
    /// The tests, in order.
    pub tests: Vec<Test>,
}

/// One question and what is expected.
#[derive(Clone, Debug)]
pub struct Test {
    /// Its name.
    pub id: String,
    /// Where it stands.
    pub place: Place,
    /// The fields of the question, those of `defaults` included.
    pub question: Map<String, Value>,
    /// What is expected.
    pub expect: Expect,
}

/// What is expected of an answer. What is not named is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// The effect's name.
    pub effect: Option<String>,
    /// The reason's name.
    pub code: Option<String>,
    /// The deciding intention's place.
    pub intention: Option<u64>,
    /// The deciding permission's place.
    pub permission: Option<u64>,
    /// The target that goes upstream, or a redirect's location.
    pub forwarded_path: Option<String>,
}

impl Expect {
    /// What is expected, by the names of `eval`'s answers.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, Value)> {
        let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
        let number = |number: Option<u64>| number.map(|number| json!(number));
        [
            ("effect", text(&self.effect)),
            ("code", text(&self.code)),
            ("intention", number(self.intention)),
            ("permission", number(self.permission)),
            ("forwarded_path", text(&self.forwarded_path)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }

    /// What is wrong with it by itself.
    fn problem(&self) -> Option<String> {
        if self == &Self::default() {
            return Some("expects nothing: write `expect = \"allow\"` or \"deny\"".to_owned());
        }
        if let Some(effect) = &self.effect
            && !effects().contains(&effect.as_str())
        {
            return Some(format!(
                "expects `{effect}`, which is none of {}",
                effects().join(", ")
            ));
        }
        let code = self.code.as_ref()?;
        Reason::from_code(code).is_none().then(|| {
            format!("expects the code `{code}`, which is none of `reason` in wit/types.wit")
        })
    }
}

fn effects() -> [&'static str; 4] {
    [
        Effect::Allow,
        Effect::Deny,
        Effect::BadRequest,
        Effect::Redirect,
    ]
    .map(Effect::code)
}

/// A test's answer, compared.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The answer of `eval`, with its trace.
    pub answer: Map<String, Value>,
    /// What differs: name, expected, got.
    pub differences: Vec<(&'static str, Value, Value)>,
}

/// Why tests cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ExpectationError {
    /// A file cannot be read, or says what cannot be.
    #[error(transparent)]
    File(#[from] DefinitionError),
    /// A question cannot be asked.
    #[error("{place}: test `{id}`: {problem}")]
    Question {
        /// Where it stands.
        place: Place,
        /// Its name.
        id: String,
        /// Why.
        problem: String,
    },
}

/// Runs tests against entries.
pub struct Runner<'e, F> {
    entries: &'e Entries,
    settings: &'e Settings,
    /// Whether the default policy is one that somebody gave.
    default_known: bool,
    evaluator: Evaluator<F>,
    number: u64,
}

impl<'e, F: Fn() -> Result<Policy, PolicyError>> Runner<'e, F> {
    /// A runner whose policies come from `new_policy`. Without `default_known` a test has
    /// to say itself what holds when nothing matches.
    pub fn new(
        entries: &'e Entries,
        settings: &'e Settings,
        default_known: bool,
        new_policy: F,
    ) -> Self {
        Self {
            entries,
            settings,
            default_known,
            evaluator: Evaluator::new(new_policy, true),
            number: 0,
        }
    }

    /// Asks one question and compares the answer.
    ///
    /// # Errors
    /// When the question cannot be asked.
    pub fn run(&mut self, test: &Test) -> Result<Outcome, ExpectationError> {
        let wrong = |problem: String| ExpectationError::Question {
            place: test.place.clone(),
            id: test.id.clone(),
            problem,
        };
        let question = self.question(test).map_err(wrong)?;
        self.number = self.number.saturating_add(1);
        let line = Value::Object(question).to_string();
        let answer = self.evaluator.answer(self.number, line.as_bytes());
        let answer = match serde_json::from_str(&answer.json) {
            Ok(Value::Object(answer)) => answer,
            _ => return Err(wrong("the answer cannot be read".to_owned())),
        };
        if let Some(Value::String(error)) = answer.get("error") {
            return Err(wrong(error.clone()));
        }
        let got = |name: &str| match name {
            "effect" | "forwarded_path" => answer.get(name).cloned().unwrap_or_default(),
            other => answer
                .get("because")
                .and_then(|because| because.get(other))
                .cloned()
                .unwrap_or_default(),
        };
        let differences = test
            .expect
            .pairs()
            .into_iter()
            .map(|(name, expected)| (name, expected, got(name)))
            .filter(|(_, expected, got)| expected != got)
            .collect();
        Ok(Outcome {
            answer,
            differences,
        })
    }

    /// The whole question of `eval`.
    fn question(&self, test: &Test) -> Result<Map<String, Value>, String> {
        let mut question = test.question.clone();
        let text = |question: &Map<String, Value>, key: &str| {
            let value = question.get(key).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        let or_default = |text: String| {
            if text.is_empty() {
                "default".to_owned()
            } else {
                text
            }
        };
        let target = text(&question, "target");
        if target.is_empty() {
            return Err("has no `target`".to_owned());
        }
        let key = format!(
            "{}/{}/{target}",
            or_default(text(&question, "target_partition")),
            or_default(text(&question, "target_namespace"))
        );
        let target = Destination::parse(&key).ok();
        let mut set = |key: &str, value: Value| {
            question.entry(key.to_owned()).or_insert(value);
        };
        set("id", json!(test.id));
        set("ask", json!("authorize"));
        set("trust_domain", json!(self.settings.trust_domain));
        set("matching", json!(self.settings.matching.code()));
        if self.default_known {
            set("default_policy", json!(self.settings.default_policy.code()));
        }
        set("peers", self.settings.peers());
        if let Some(normalization) = self.entries.normalization() {
            set("request_normalization", normalization.clone());
        }
        set("jwt_providers", json!(self.entries.providers()));
        if let Some(target) = &target {
            set("protocol", json!(self.entries.supposed_protocol(target)));
            set("intentions", self.entries.list(target));
        }
        set("intentions", Value::Null);
        if !question.contains_key("default_policy") {
            return Err(
                "does not know what holds when nothing matches: write `default_policy`, or give -default-intention-policy"
                    .to_owned(),
            );
        }
        let trust_domain = text(&question, "trust_domain");
        if let Some(source) = question.remove("source") {
            let source = source.as_str().unwrap_or_default();
            let uri = self.uri(&trust_domain, source)?;
            question.insert("client_uris".to_owned(), json!([uri]));
        }
        if !question.contains_key("client_uris") {
            return Err("has neither `source` nor `client_uris`".to_owned());
        }
        Ok(question)
    }

    /// The identity of `name`, `namespace/name`, `partition/namespace/name`, or
    /// `peer:PEER/name`; or a SPIFFE ID as it is.
    fn uri(&self, trust_domain: &str, source: &str) -> Result<String, String> {
        if source.contains("://") {
            return Ok(source.to_owned());
        }
        let none = || format!("`source` `{source}` names no service");
        if let Some(rest) = source.strip_prefix("peer:") {
            let (peer, name) = rest.split_once('/').ok_or_else(none)?;
            let domain = self.settings.peer_domain(peer);
            let domain = domain
                .ok_or_else(|| format!("no intention names the peer `{peer}` of `source`"))?;
            return service_uri(&domain, "default", "default", name).ok_or_else(none);
        }
        let parts: Vec<&str> = source.split('/').collect();
        let (partition, namespace, name) = match parts[..] {
            [name] => ("default", "default", name),
            [namespace, name] => ("default", namespace, name),
            [partition, namespace, name] => (partition, namespace, name),
            _ => return Err(none()),
        };
        service_uri(trust_domain, partition, namespace, name).ok_or_else(none)
    }
}
