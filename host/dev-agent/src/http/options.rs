//! The query options that most endpoints share, checked as Consul does.

use std::time::Duration;

use super::Request;
use super::reply::Reply;
use crate::duration;

/// Consistency that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    Leader,
    Stale,
    Consistent,
}

impl Consistency {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Stale => "stale",
            Self::Consistent => "consistent",
        }
    }
}

/// What a request asks of a query.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The token's secret, empty for the anonymous one.
    pub(crate) token: String,
    /// Block until the index is higher than this; 0 never blocks.
    pub(crate) index: u64,
    /// How long to block, when it was given and is positive.
    pub(crate) wait: Option<Duration>,
    pub(crate) consistency: Consistency,
    /// Answer from the agent's cache.
    pub(crate) cached: bool,
}

impl Options {
    /// Reads the options of a request to an agent of `datacenter`.
    ///
    /// # Errors
    /// Consul's 400 and 500 replies.
    pub(crate) fn parse(request: &Request, datacenter: &str) -> Result<Self, Reply> {
        let index = match request.param("index").filter(|text| !text.is_empty()) {
            None => 0,
            Some(text) => text
                .parse()
                .map_err(|_| Reply::bad_request("Invalid index"))?,
        };
        let wait = match request.param("wait").filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => {
                let nanos =
                    duration::parse(text).map_err(|_| Reply::bad_request("Invalid wait time"))?;
                u64::try_from(nanos)
                    .ok()
                    .filter(|nanos| *nanos > 0)
                    .map(Duration::from_nanos)
            }
        };
        let flag = |name: &str| request.param(name).is_some();
        let stale = flag("stale") || flag("max_stale");
        if stale && flag("consistent") {
            return Err(Reply::bad_request(
                "Cannot specify ?stale with ?consistent, conflicting semantics.",
            ));
        }
        if flag("cached") && flag("consistent") {
            return Err(Reply::bad_request(
                "Cannot specify ?cached with ?consistent, conflicting semantics.",
            ));
        }
        cache_control(request)?;
        let consistency = match (stale, flag("consistent")) {
            (true, _) => Consistency::Stale,
            (false, true) => Consistency::Consistent,
            (false, false) => Consistency::Leader,
        };
        let asked = request.param("datacenter").filter(|name| !name.is_empty());
        let asked = asked.or_else(|| request.param("dc").filter(|name| !name.is_empty()));
        if asked.is_some_and(|asked| asked != datacenter) {
            return Err(Reply::server_error("No path to datacenter"));
        }
        Ok(Self {
            token: token(request),
            index,
            wait,
            consistency,
            cached: flag("cached"),
        })
    }
}

/// The token of a request: `?token=`, `X-Consul-Token`, or a bearer token.
pub(crate) fn token(request: &Request) -> String {
    if let Some(token) = request.param("token").filter(|token| !token.is_empty()) {
        return token.to_owned();
    }
    if let Some(token) = request
        .header("x-consul-token")
        .filter(|token| !token.is_empty())
    {
        return token.to_owned();
    }
    let words: Vec<&str> = request
        .header("authorization")
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    match words.as_slice() {
        [scheme, token, ..] if scheme.eq_ignore_ascii_case("bearer") => (*token).to_owned(),
        _ => String::new(),
    }
}

/// Namespaces belong to the Enterprise edition: any value is refused.
///
/// # Errors
/// 400 as in the Community Edition.
pub(crate) fn no_namespace(request: &Request) -> Result<(), Reply> {
    no_enterprise(request, "ns", "X-Consul-Namespace", "Namespaces are")
}

/// Partitions belong to the Enterprise edition: any value is refused.
///
/// # Errors
/// 400 as in the Community Edition.
pub(crate) fn no_partition(request: &Request) -> Result<(), Reply> {
    no_enterprise(request, "partition", "X-Consul-Partition", "Partitions are")
}

fn no_enterprise(request: &Request, param: &str, header: &str, feature: &str) -> Result<(), Reply> {
    let refuse = |place: String| {
        Err(Reply::bad_request(format!(
            "Invalid {place} - {feature} a Consul Enterprise feature"
        )))
    };
    if request.param(param).is_some_and(|value| !value.is_empty()) {
        return refuse(format!("query parameter: {param:?}"));
    }
    if request
        .header(header)
        .is_some_and(|value| !value.is_empty())
    {
        return refuse(format!("header: {header:?}"));
    }
    Ok(())
}

fn cache_control(request: &Request) -> Result<(), Reply> {
    let Some(header) = request.header("cache-control") else {
        return Ok(());
    };
    for part in header.split(',') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let name = name.trim().to_ascii_lowercase();
        let numeric = matches!(name.as_str(), "max-age" | "stale-if-error");
        if numeric && value.trim().parse::<u64>().is_err() {
            return Err(Reply::bad_request("Invalid Cache-Control header."));
        }
    }
    Ok(())
}
