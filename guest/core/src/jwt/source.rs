//! Where a `jwt-provider` entry says that its keys are, and how often to look there.

use serde_json::value::RawValue;

use crate::duration;
use crate::intention::json::{self, At, Fields};

/// The largest key set that is taken.
pub const MAX_KEY_SET: usize = 1024 * 1024;

const SECOND: u64 = 1_000;
/// How long a fetched set is kept where the entry does not say it, as in Envoy.
const CACHED: u64 = 600 * SECOND;
/// No oftener, and no seldomer, whatever the entry says.
const OFTENEST: u64 = SECOND;
const SELDOMEST: u64 = 24 * 3600 * SECOND;
/// How long a fetch may take where the entry does not say it, and at most.
const PATIENCE: u64 = 5 * SECOND;
const MOST_PATIENCE: u64 = 30 * SECOND;
/// How often a file is read again.
const REREAD: u64 = 5 * SECOND;
/// How soon after a failure where the entry does not say it, and at least.
const FIRST: u64 = SECOND;
const SOONEST: u64 = 100;
/// The longest wait after failures where the entry does not say it, and at most.
const LONGEST: u64 = 60 * SECOND;
const LATEST: u64 = 3600 * SECOND;

/// Keys that are not in the entry. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Whose.
    pub provider: String,
    /// Where they are.
    pub place: Place,
    /// How often to look.
    pub every_ms: u64,
    /// How long that may take.
    pub timeout_ms: u64,
    /// How soon after a first failure to look again; doubles.
    pub retry_first_ms: u64,
    /// The longest wait after failures.
    pub retry_longest_ms: u64,
}

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind this URI.
    Remote(String),
    /// In this file on the machine of the host.
    File(String),
}

impl Source {
    /// The source of an entry; none where the keys are in the entry, or it cannot be
    /// read: the policy accepts none of its tokens then, and says why.
    #[must_use]
    pub fn of(entry: &RawValue) -> Option<Self> {
        let at = At::ROOT;
        let mut fields = Fields::of(entry, &at).ok()?;
        let provider = fields.take_text("Name", &at).ok()??.into_owned();
        let mut keys = object(&mut fields, "JSONWebKeySet")??;
        let (local, remote) = (object(&mut keys, "Local")?, object(&mut keys, "Remote")?);
        match (local, remote) {
            (Some(mut local), None) => Some(Self {
                provider,
                place: Place::File(local.take_text("Filename", &at).ok()??.into_owned()),
                every_ms: REREAD,
                timeout_ms: PATIENCE,
                retry_first_ms: FIRST,
                retry_longest_ms: REREAD,
            }),
            (None, Some(mut remote)) => {
                let uri = remote.take_text("URI", &at).ok()??.into_owned();
                let waits = object(&mut remote, "RetryPolicy")?
                    .map(|mut retry| object(&mut retry, "RetryPolicyBackOff"));
                let (first, longest) = match waits {
                    Some(waits) => match waits? {
                        Some(mut waits) => (
                            span(&mut waits, "BaseInterval"),
                            span(&mut waits, "MaxInterval"),
                        ),
                        None => (None, None),
                    },
                    None => (None, None),
                };
                let every = span(&mut remote, "CacheDuration").unwrap_or(CACHED);
                let timeout = match whole(&mut remote, "RequestTimeoutMs") {
                    Some(0) | None => PATIENCE,
                    Some(ms) => ms.min(MOST_PATIENCE),
                };
                let retry_first = first.unwrap_or(FIRST).clamp(SOONEST, LONGEST);
                Some(Self {
                    provider,
                    place: Place::Remote(uri),
                    every_ms: every.clamp(OFTENEST, SELDOMEST),
                    timeout_ms: timeout,
                    retry_first_ms: retry_first,
                    retry_longest_ms: longest.unwrap_or(LONGEST).clamp(retry_first, LATEST),
                })
            }
            _ => None,
        }
    }
}

impl Place {
    /// For people: without a user, and without what stands in a query. Not yet printable.
    #[must_use]
    pub fn bare(&self) -> String {
        match self {
            Self::Remote(uri) => {
                let uri = uri.split(['?', '#']).next().unwrap_or_default();
                match uri.split_once("//") {
                    Some((scheme, rest)) if rest.contains('@') => {
                        let rest = rest.rsplit('@').next().unwrap_or_default();
                        format!("{scheme}//{rest}")
                    }
                    _ => uri.to_owned(),
                }
            }
            Self::File(path) => path.clone(),
        }
    }
}

/// The object under a key; the outer `None` for what is none.
fn object<'a>(fields: &mut Fields<'a>, key: &str) -> Option<Option<Fields<'a>>> {
    match fields.take(key, &At::ROOT).ok()? {
        Some(raw) => Fields::of(raw, &At::ROOT).ok().map(Some),
        None => Some(None),
    }
}

/// A whole number from 0; Consul stores negative ones, too, which say nothing.
fn whole(fields: &mut Fields<'_>, key: &str) -> Option<u64> {
    let raw = fields.take(key, &At::ROOT).ok()??;
    json::unsigned(raw, &At::ROOT).ok()
}

/// A duration as Go writes it, nanoseconds or text, in milliseconds: none where it says
/// nothing. What is shorter than a millisecond is one.
fn span(fields: &mut Fields<'_>, key: &str) -> Option<u64> {
    let raw = fields.take(key, &At::ROOT).ok()??;
    let nanoseconds = match json::unsigned(raw, &At::ROOT) {
        Ok(nanoseconds) => nanoseconds,
        Err(_) => {
            let text = json::text(raw, &At::ROOT).ok()?;
            u64::try_from(duration::parse(&text).ok()?).ok()?
        }
    };
    (nanoseconds > 0).then(|| (nanoseconds / 1_000_000).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: &str) -> Option<Source> {
        let entry = format!(r#"{{"Name":"okta","JSONWebKeySet":{keys}}}"#);
        Source::of(&RawValue::from_string(entry).unwrap())
    }

    #[test]
    fn times_are_consuls_within_bounds() {
        let every = |cached: &str| {
            let keys = format!(r#"{{"Remote":{{"URI":"https://a/","CacheDuration":{cached}}}}}"#);
            of(&keys).unwrap().every_ms
        };
        assert_eq!(every("1800000000000"), 1_800_000);
        assert_eq!(every("\"1h0m0.5s\""), 3_600_500);
        assert_eq!(every("\"1.5h\""), 5_400_000);
        assert_eq!(every("\".5m\""), 30_000);
        assert_eq!(every("0"), CACHED);
        assert_eq!(every("null"), CACHED);
        assert_eq!(every("\"0s\""), CACHED);
        assert_eq!(every("\"soon\""), CACHED);
        assert_eq!(every("\"1\""), CACHED);
        assert_eq!(every("\".s\""), CACHED);
        assert_eq!(every("\"99999999999999999999h\""), CACHED);
        assert_eq!(every("-5000000000"), CACHED);
        assert_eq!(every("\"-5s\""), CACHED);
        assert_eq!(every("1"), OFTENEST);
        assert_eq!(every("\"9000h\""), SELDOMEST);
        let timeout = |ms: &str| {
            let keys = format!(r#"{{"Remote":{{"URI":"https://a/","RequestTimeoutMs":{ms}}}}}"#);
            of(&keys).unwrap().timeout_ms
        };
        assert_eq!(timeout("-5"), PATIENCE);
        assert_eq!(timeout("9999999"), MOST_PATIENCE);
        let remote = of(r#"{"Remote":{"URI":"https://a/","RequestTimeoutMs":500}}"#).unwrap();
        assert_eq!(remote.timeout_ms, 500);
        assert_eq!(
            of(r#"{"Remote":{"URI":"https://a/"}}"#).unwrap().timeout_ms,
            PATIENCE
        );
    }

    #[test]
    fn waits_after_failures_are_the_entrys_within_bounds() {
        let waits = |base: &str, max: &str| {
            let keys = format!(
                r#"{{"Remote":{{"URI":"https://a/","RetryPolicy":{{"NumRetries":3,"RetryPolicyBackOff":{{"BaseInterval":{base},"MaxInterval":{max}}}}}}}}}"#
            );
            let source = of(&keys).unwrap();
            (source.retry_first_ms, source.retry_longest_ms)
        };
        assert_eq!(waits("2000000000", "\"10s\""), (2_000, 10_000));
        assert_eq!(waits("0", "null"), (FIRST, LONGEST));
        assert_eq!(waits("-1", "-1"), (FIRST, LONGEST));
        assert_eq!(waits("1", "1"), (SOONEST, SOONEST));
        assert_eq!(waits("\"9h\"", "\"9h\""), (LONGEST, LATEST));
        let bare = of(r#"{"Remote":{"URI":"https://a/","RetryPolicy":{}}}"#).unwrap();
        assert_eq!(
            (bare.retry_first_ms, bare.retry_longest_ms),
            (FIRST, LONGEST)
        );
    }

    #[test]
    fn keys_in_the_entry_come_from_nowhere() {
        assert_eq!(of(r#"{"Local":{"JWKS":"e30="}}"#), None);
        assert_eq!(of(r#"{"Local":{"Filename":""}}"#), None);
        assert_eq!(of("{}"), None);
        assert_eq!(of(r#"{"Remote":{"URI":7}}"#), None);
        let file = of(r#"{"Local":{"Filename":"/k.json"}}"#).unwrap();
        assert_eq!(file.place, Place::File("/k.json".into()));
        let remote = Place::Remote("https://a/k?secret=1".to_owned());
        assert_eq!(remote.bare(), "https://a/k");
        let remote = Place::Remote("https://u:s@c@a/k?secret=1".to_owned());
        assert_eq!(remote.bare(), "https://a/k");
    }
}
