//! Where a `jwt-provider` entry says that its keys are.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

/// How long a fetched set is kept where the entry does not say it, as in Envoy.
const CACHED: Duration = Duration::from_secs(600);
/// No oftener, and no seldomer, whatever the entry says.
const OFTENEST: Duration = Duration::from_secs(1);
const SELDOMEST: Duration = Duration::from_secs(24 * 3600);
/// How long a fetch may take where the entry does not say it, and at most.
const PATIENCE: Duration = Duration::from_secs(5);
const MOST_PATIENCE: Duration = Duration::from_secs(30);
/// How often a file is read again.
const REREAD: Duration = Duration::from_secs(5);
/// How soon after a failure where the entry does not say it, and at least.
const FIRST: Duration = Duration::from_secs(1);
const SOONEST: Duration = Duration::from_millis(100);
/// The longest wait after failures where the entry does not say it, and at most.
const LONGEST: Duration = Duration::from_secs(60);
const LATEST: Duration = Duration::from_secs(3600);

/// Keys that are not in the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Whose.
    pub provider: String,
    /// Where they are.
    pub place: Place,
    /// How often to look.
    pub every: Duration,
    /// How long that may take.
    pub timeout: Duration,
    /// How soon after a first failure to look again; doubles.
    pub retry_first: Duration,
    /// The longest wait after failures.
    pub retry_longest: Duration,
}

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind this URI.
    Remote(String),
    /// In this file on our machine.
    File(PathBuf),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    name: String,
    #[serde(rename = "JSONWebKeySet")]
    keys: Keys,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Keys {
    local: Option<Local>,
    remote: Option<Remote>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Local {
    #[serde(default)]
    filename: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Remote {
    #[serde(rename = "URI")]
    uri: String,
    #[serde(default)]
    request_timeout_ms: i64,
    #[serde(default)]
    cache_duration: Span,
    #[serde(default)]
    retry_policy: Option<RetryPolicy>,
}

/// How often is not looked at: a set is wanted for as long as its provider is.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RetryPolicy {
    #[serde(default)]
    retry_policy_back_off: Option<BackOff>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct BackOff {
    #[serde(default)]
    base_interval: Span,
    #[serde(default)]
    max_interval: Span,
}

/// A duration as Go writes it: nanoseconds, or text. Consul stores negative ones, too.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Span {
    Nanoseconds(i64),
    Text(String),
    #[default]
    Absent,
}

impl Source {
    /// The source of an entry; none where the keys are in the entry, or it cannot be
    /// read: the policy accepts none of its tokens then, and says why.
    #[must_use]
    pub fn of(entry: &RawValue) -> Option<Self> {
        let entry: Entry = serde_json::from_str(entry.get()).ok()?;
        let file = |path: String| Self {
            provider: entry.name.clone(),
            place: Place::File(path.into()),
            every: REREAD,
            timeout: PATIENCE,
            retry_first: FIRST,
            retry_longest: REREAD,
        };
        match (entry.keys.local, entry.keys.remote) {
            (Some(local), None) if !local.filename.is_empty() => Some(file(local.filename)),
            (None, Some(remote)) => {
                let waits = remote
                    .retry_policy
                    .and_then(|retry| retry.retry_policy_back_off);
                let waits = waits.unwrap_or_default();
                let first = waits.base_interval.duration().unwrap_or(FIRST);
                let longest = waits.max_interval.duration().unwrap_or(LONGEST);
                let every = remote.cache_duration.duration().unwrap_or(CACHED);
                let timeout = match u64::try_from(remote.request_timeout_ms) {
                    Ok(0) | Err(_) => PATIENCE,
                    Ok(ms) => Duration::from_millis(ms).min(MOST_PATIENCE),
                };
                let retry_first = first.clamp(SOONEST, LONGEST);
                Some(Self {
                    provider: entry.name,
                    place: Place::Remote(remote.uri),
                    every: every.clamp(OFTENEST, SELDOMEST),
                    timeout,
                    retry_first,
                    retry_longest: longest.clamp(retry_first, LATEST),
                })
            }
            _ => None,
        }
    }
}

impl Place {
    /// For people: without a user, and without what stands in a query.
    #[must_use]
    pub fn shown(&self) -> String {
        let text = match self {
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
            Self::File(path) => path.display().to_string(),
        };
        crate::escape::visible(&text, 200)
    }
}

impl Span {
    fn duration(&self) -> Option<Duration> {
        let found = match self {
            Self::Nanoseconds(count) => Duration::from_nanos(u64::try_from(*count).ok()?),
            Self::Text(text) => go_duration(text)?,
            Self::Absent => return None,
        };
        (!found.is_zero()).then_some(found)
    }
}

/// `1h10m0.5s`; `None` for what is none.
fn go_duration(text: &str) -> Option<Duration> {
    let mut seconds = 0.0;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(end)?;
        let factor = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok()
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
            of(&keys).unwrap().every
        };
        assert_eq!(every("1800000000000"), Duration::from_secs(1_800));
        assert_eq!(every("\"1h0m0.5s\""), Duration::from_millis(3_600_500));
        assert_eq!(every("0"), CACHED);
        assert_eq!(every("null"), CACHED);
        assert_eq!(every("\"0s\""), CACHED);
        assert_eq!(every("\"soon\""), CACHED);
        assert_eq!(every("-5000000000"), CACHED);
        assert_eq!(every("\"-5s\""), CACHED);
        assert_eq!(every("1"), OFTENEST);
        assert_eq!(every("\"9000h\""), SELDOMEST);
        let timeout = |ms: &str| {
            let keys = format!(r#"{{"Remote":{{"URI":"https://a/","RequestTimeoutMs":{ms}}}}}"#);
            of(&keys).unwrap().timeout
        };
        assert_eq!(timeout("-5"), PATIENCE);
        assert_eq!(timeout("9999999"), MOST_PATIENCE);
        let remote = of(r#"{"Remote":{"URI":"https://a/","RequestTimeoutMs":500}}"#).unwrap();
        assert_eq!(remote.timeout, Duration::from_millis(500));
        assert_eq!(
            of(r#"{"Remote":{"URI":"https://a/"}}"#).unwrap().timeout,
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
            (source.retry_first, source.retry_longest)
        };
        let seconds = Duration::from_secs;
        assert_eq!(waits("2000000000", "\"10s\""), (seconds(2), seconds(10)));
        assert_eq!(waits("0", "null"), (FIRST, LONGEST));
        assert_eq!(waits("-1", "-1"), (FIRST, LONGEST));
        assert_eq!(waits("1", "1"), (SOONEST, SOONEST));
        assert_eq!(waits("\"9h\"", "\"9h\""), (LONGEST, LATEST));
        let bare = of(r#"{"Remote":{"URI":"https://a/","RetryPolicy":{}}}"#).unwrap();
        assert_eq!((bare.retry_first, bare.retry_longest), (FIRST, LONGEST));
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
        assert_eq!(remote.shown(), "https://a/k");
        let remote = Place::Remote("https://u:s@c@a/k?secret=1".to_owned());
        assert_eq!(remote.shown(), "https://a/k");
    }
}
