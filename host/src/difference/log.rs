//! Reads a decision log: one JSON object a line, as `host/DECISIONS-LOG.md` describes it.

use std::io::{self, BufRead};

use portcullis_core::policy::HttpVersion;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::entries::Asked;

/// The longest line that is read.
const LONGEST: usize = 1 << 20;

/// What stands for a value in a query.
const WITHHELD: &str = "withheld";

/// One decision, as far as it can be asked about again. Fields that are not listed here
/// are passed over: the log may say more.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    /// The client's SPIFFE ID; empty where it had none.
    #[serde(default)]
    pub source: String,
    /// The service that was called: `name`, `namespace/name` or `partition/namespace/name`.
    #[serde(default)]
    pub destination: String,
    /// The request; none of a connection.
    #[serde(default)]
    pub request: Option<Logged>,
    /// `1.1` or `2`.
    #[serde(default)]
    pub http_version: Option<String>,
    /// What was decided.
    #[serde(default)]
    pub effect: Option<String>,
    /// How many records were left out before this one; such a line is no decision.
    #[serde(default)]
    pub dropped: Option<u64>,
}

/// A request in the log.
#[derive(Clone, Debug, Deserialize)]
pub struct Logged {
    /// Method, verbatim.
    pub method: String,
    /// Request target, verbatim.
    pub path: String,
    /// Headers that rules look at, in order; the value is `null` where it is withheld.
    #[serde(default)]
    pub headers: Vec<(String, Option<String>)>,
    /// `:authority`.
    #[serde(default)]
    pub authority: Option<String>,
    /// Scheme of the connection.
    #[serde(default)]
    pub scheme: Option<String>,
}

impl Logged {
    /// Names of headers whose value is withheld, in lower case.
    #[must_use]
    pub fn withheld(&self) -> Vec<String> {
        let without = self.headers.iter().filter(|(_, value)| value.is_none());
        without.map(|(name, _)| name.to_ascii_lowercase()).collect()
    }

    /// Whether a value in the query is withheld.
    #[must_use]
    pub fn withholds_query(&self) -> bool {
        let query = self.path.split_once('?').map_or("", |(_, query)| query);
        query.split('&').any(|part| {
            let value = part.split_once('=').map_or(part, |(_, value)| value);
            value == WITHHELD
        })
    }

    /// The request, as far as it is logged.
    #[must_use]
    pub fn asked(&self) -> Asked {
        let headers = self.headers.iter();
        Asked {
            method: self.method.clone(),
            path: self.path.clone(),
            headers: headers
                .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
                .collect(),
            authority: self.authority.clone(),
            scheme: self.scheme.clone(),
        }
    }
}

impl Record {
    /// The version of HTTP.
    #[must_use]
    pub fn version(&self) -> HttpVersion {
        match self.http_version.as_deref() {
            Some("2") => HttpVersion::Http2,
            _ => HttpVersion::Http1,
        }
    }
}

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It cannot be read.
    #[error("the decision log cannot be read: {0}")]
    Read(#[from] io::Error),
    /// A line is no record.
    #[error("the decision log cannot be read at line {line}: {problem}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// Why.
        problem: String,
    },
}

/// Reads the next record; `None` at the end. `line` counts.
///
/// # Errors
/// When the log cannot be read, or the line is no record.
pub(super) fn next(reader: &mut dyn BufRead, line: &mut usize) -> Result<Option<Record>, LogError> {
    let mut text = Vec::new();
    loop {
        text.clear();
        let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX);
        let read = io::Read::take(&mut *reader, limit).read_until(b'\n', &mut text)?;
        if read == 0 {
            return Ok(None);
        }
        *line += 1;
        let wrong = |problem: String| LogError::Line {
            line: *line,
            problem,
        };
        if text.len() >= LONGEST && text.last() != Some(&b'\n') {
            return Err(wrong(format!("it is longer than {LONGEST} bytes")));
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let record: Record =
            serde_json::from_slice(&text).map_err(|error| wrong(problem(&text, &error)))?;
        if record.dropped.is_none() && record.destination.is_empty() {
            return Err(wrong("it has no `destination`".to_owned()));
        }
        return Ok(Some(record));
    }
}

/// What is wrong with a line, with the field that it is about.
fn problem(line: &[u8], error: &serde_json::Error) -> String {
    let text = error
        .to_string()
        .replace(" at line 1 column ", " at column ");
    let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(line) else {
        return text;
    };
    let is_wrong = |(name, value): &(String, Value)| {
        let alone = Value::Object([(name.clone(), value.clone())].into_iter().collect());
        serde_json::from_value::<Record>(alone).is_err()
    };
    match fields.into_iter().find(is_wrong) {
        Some((name, _)) => format!("`{name}`: {text}"),
        None => text,
    }
}
