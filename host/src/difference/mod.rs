//! What changes when entries are replaced by others: which known callers, or which
//! requests of a decision log, get another answer.

mod log;
mod probe;

use std::collections::BTreeMap;
use std::io::BufRead;

use portcullis_core::intention::{Decision, Destination, Reason, Rule};
use portcullis_core::policy::{HeaderNeeds, HttpVersion};
use serde_json::{Map, Value, json};

use crate::entries::{Asked, Entries, EntriesError, Judge, JudgeError, Settings};
use crate::lint::version_name;
use crate::runtime::{Policy, PolicyError};

pub use log::{LogError, Logged, Record};

/// Client, destination and request (with whether it came by HTTP/2), and how often.
type Questions = BTreeMap<(String, Destination, Option<(Asked, bool)>), u64>;

/// How many changes are kept one by one.
const MAX_CHANGES: usize = 10_000;

/// Why nothing can be compared.
#[derive(Debug, thiserror::Error)]
pub enum DifferenceError {
    /// Entries cannot be read.
    #[error(transparent)]
    Entries(#[from] EntriesError),
    /// A policy cannot be asked.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// A policy cannot be made.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What one side answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The effect's name.
    pub effect: &'static str,
    /// The reason's name.
    pub code: &'static str,
    /// The decision in one sentence.
    pub text: String,
}

impl Side {
    fn json(&self) -> Value {
        json!({"effect": self.effect, "because": {"code": self.code}, "text": self.text})
    }
}

/// A question with two answers.
#[derive(Clone, Debug)]
pub struct Change {
    /// The client, for people.
    pub source: String,
    /// Its SPIFFE ID.
    pub uri: String,
    /// The service that is called.
    pub destination: String,
    /// The request; none of a connection.
    pub request: Option<(Asked, HttpVersion)>,
    /// What holds now.
    pub before: Side,
    /// What would hold.
    pub after: Side,
    /// How often the log has it.
    pub count: u64,
}

impl Change {
    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("source".to_owned(), json!(self.source));
        fields.insert("client_uris".to_owned(), json!([self.uri]));
        fields.insert("destination".to_owned(), json!(self.destination));
        if let Some((asked, version)) = &self.request {
            fields.insert("request".to_owned(), json!(asked));
            fields.insert("http_version".to_owned(), json!(version_name(*version)));
        }
        fields.insert("before".to_owned(), self.before.json());
        fields.insert("after".to_owned(), self.after.json());
        fields.insert("count".to_owned(), json!(self.count));
        Value::Object(fields)
    }
}

/// All that changes.
#[derive(Clone, Debug, Default)]
pub struct Difference {
    /// Questions with two answers.
    pub changes: Vec<Change>,
    /// Changes beyond those that are kept.
    pub more: u64,
    /// How many questions were asked.
    pub compared: u64,
    /// Records that cannot be asked about again, by why.
    pub left_out: BTreeMap<String, u64>,
    /// Destinations that speak something else on the other side: now, and then.
    pub protocols: Vec<(String, String, String)>,
}

impl Difference {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.changes.is_empty() && self.more == 0
    }
}

/// Two sides, and policies that have been told them.
pub struct Comparison<'e> {
    sides: [&'e Entries; 2],
    judges: [Judge<'e>; 2],
    /// Whether rules of either side look at the whole path.
    whole_paths: BTreeMap<Destination, bool>,
    found: Difference,
}

impl<'e> Comparison<'e> {
    /// What holds now, and what would hold.
    ///
    /// # Errors
    /// When a policy refuses the entries or fails.
    pub fn new(
        before: &'e Entries,
        after: &'e Entries,
        settings: [&Settings; 2],
        new_policy: impl Fn() -> Result<Policy, PolicyError>,
    ) -> Result<Self, DifferenceError> {
        let [now, then] = settings;
        Ok(Self {
            sides: [before, after],
            judges: [
                Judge::new(new_policy()?, before, now.clone())?,
                Judge::new(new_policy()?, after, then.clone())?,
            ],
            whole_paths: BTreeMap::new(),
            found: Difference::default(),
        })
    }

    /// Asks about known callers and the requests that rules speak of.
    ///
    /// # Errors
    /// When entries cannot be read as lists of intentions, or a policy fails.
    pub fn probe(mut self) -> Result<Difference, DifferenceError> {
        let callers = probe::callers(self.sides, &self.judges[1].settings);
        for target in probe::destinations(self.sides) {
            let [now, then] = self.sides.map(|side| side.supposed_protocol(&target));
            if now != then {
                let protocols = (target.to_string(), now.to_owned(), then.to_owned());
                self.found.protocols.push(protocols);
            }
            let is_http = now != "tcp" || then != "tcp";
            let (before, _) = self.sides[0].decode(&target)?;
            let (after, _) = self.sides[1].decode(&target)?;
            let requests = match is_http {
                true => probe::asked([&before, &after]),
                false => Vec::new(),
            };
            for (shown, uri) in &callers {
                if !is_http {
                    self.compare(shown, uri, &target, None, 1)?;
                }
                for asked in &requests {
                    let request = Some((asked, HttpVersion::Http1));
                    self.compare(shown, uri, &target, request, 1)?;
                }
            }
        }
        Ok(self.found)
    }

    /// Asks about the requests of a decision log.
    ///
    /// # Errors
    /// When the log cannot be read, or a policy fails.
    pub fn replay(mut self, mut reader: impl BufRead) -> Result<Difference, DifferenceError> {
        let mut line = 0;
        // The same question comes often.
        let mut questions = Questions::new();
        while let Some(record) = log::next(&mut reader, &mut line)? {
            if let Some(dropped) = record.dropped {
                *self.left("the log left them out") += dropped;
                continue;
            }
            let Ok(target) = Destination::parse(&record.destination) else {
                *self.left("the destination is no service's name") += 1;
                continue;
            };
            if record.source.is_empty() {
                *self.left("the client had no identity: always denied") += 1;
                continue;
            }
            let own = format!("spiffe://{}/", self.judges[0].settings.trust_domain);
            if !record.source.starts_with(&own) {
                let why = "the client is not of this mesh: say its trust domain by --trust-domain";
                *self.left(why) += 1;
                continue;
            }
            if let Some(withheld) = self.withheld(&record, &target)? {
                *self.left(&format!(
                    "rules look at header `{withheld}`, which is withheld"
                )) += 1;
                continue;
            }
            let without_query = record.request.as_ref().is_some_and(Logged::withholds_query);
            if without_query && self.looks_at_whole_path(&target)? {
                let why = "rules look at `:path`, and of the query values are withheld";
                *self.left(why) += 1;
                continue;
            }
            let is_http2 = record.version() == HttpVersion::Http2;
            let asked = record
                .request
                .as_ref()
                .map(|logged| (logged.asked(), is_http2));
            *questions.entry((record.source, target, asked)).or_default() += 1;
            if questions.len() >= 100_000 {
                self.flush(&mut questions)?;
            }
        }
        self.flush(&mut questions)?;
        Ok(self.found)
    }

    fn flush(&mut self, questions: &mut Questions) -> Result<(), DifferenceError> {
        for ((uri, target, asked), count) in std::mem::take(questions) {
            let version = |is_http2: bool| match is_http2 {
                true => HttpVersion::Http2,
                false => HttpVersion::Http1,
            };
            let request = asked
                .as_ref()
                .map(|(asked, http2)| (asked, version(*http2)));
            self.compare(&uri, &uri, &target, request, count)?;
        }
        Ok(())
    }

    fn left(&mut self, why: &str) -> &mut u64 {
        self.found.left_out.entry(why.to_owned()).or_default()
    }

    /// A withheld header that the rules of either side look at.
    fn withheld(
        &mut self,
        record: &Record,
        target: &Destination,
    ) -> Result<Option<String>, DifferenceError> {
        let Some(logged) = &record.request else {
            return Ok(None);
        };
        let withheld = logged.withheld();
        if withheld.is_empty() {
            return Ok(None);
        }
        for judge in &mut self.judges {
            match judge.needed_headers(target)? {
                HeaderNeeds::None => {}
                HeaderNeeds::All => return Ok(withheld.into_iter().next()),
                HeaderNeeds::Named(names) => {
                    let found = withheld.iter().find(|name| names.contains(name));
                    if let Some(name) = found {
                        return Ok(Some(name.clone()));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Whether a rule of either side looks at the path with its query.
    fn looks_at_whole_path(&mut self, target: &Destination) -> Result<bool, DifferenceError> {
        if let Some(known) = self.whole_paths.get(target) {
            return Ok(*known);
        }
        let mut found = false;
        for side in self.sides {
            let (rules, _) = side.decode(target)?;
            found |= rules.intentions().iter().any(|intention| {
                let Rule::Requests { permissions, .. } = &intention.rule else {
                    return false;
                };
                let mut headers = permissions.iter().flat_map(|one| &one.http.headers);
                headers.any(|header| header.name.eq_ignore_ascii_case(":path"))
            });
        }
        self.whole_paths.insert(target.clone(), found);
        Ok(found)
    }

    fn compare(
        &mut self,
        shown: &str,
        uri: &str,
        target: &Destination,
        request: Option<(&Asked, HttpVersion)>,
        count: u64,
    ) -> Result<(), DifferenceError> {
        let [now, then] = &mut self.judges;
        let (Some(before), Some(after)) = (
            now.decide(target, uri, request)?,
            then.decide(target, uri, request)?,
        ) else {
            *self.left("a character above U+00FF is no byte") += count;
            return Ok(());
        };
        let needs_token = |decision: &Decision| {
            matches!(decision.code, Reason::JwtNotSatisfied | Reason::JwtOnTcp)
        };
        if answer(&before) == answer(&after) {
            // Tokens are in no log and in no rule.
            match needs_token(&before) || needs_token(&after) {
                true => *self.left("the answer may depend on a JWT, which is not logged") += count,
                false => self.found.compared += count,
            }
            return Ok(());
        }
        self.found.compared += count;
        if self.found.changes.len() >= MAX_CHANGES {
            self.found.more += count;
            return Ok(());
        }
        let side = |judge: &Judge<'_>, decision: &Decision| Side {
            effect: decision.effect.code(),
            code: decision.code.code(),
            text: judge.describe(target, decision),
        };
        self.found.changes.push(Change {
            source: shown.to_owned(),
            uri: uri.to_owned(),
            destination: target.to_string(),
            request: request.map(|(asked, version)| (asked.clone(), version)),
            before: side(now, &before),
            after: side(then, &after),
            count,
        });
        Ok(())
    }
}

/// What a client sees of a decision: the effect, and what goes upstream.
fn answer(decision: &Decision) -> (&'static str, Option<&[u8]>) {
    (decision.effect.code(), decision.path.as_deref())
}
