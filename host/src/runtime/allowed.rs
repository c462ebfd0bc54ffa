//! What a component may ask the agent: four endpoints of one authority, nothing else.
//!
//! Everything is compared as it would be sent. What would have to be decoded or
//! normalised first to be one of them is none of them.

/// The endpoints, by method and exact path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Roots,
    Match,
    Peerings,
    Authorize,
}

/// Where the agent is, and whose data may be asked for.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// `host:port`, as requests must name it.
    pub(super) authority: String,
    /// Whether requests must say https.
    pub(super) tls: bool,
    pub(super) datacenter: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) partition: Option<String>,
}

/// The longest target: a batch of 128 names fits.
const MAX_TARGET: usize = 64 * 1024;

impl Scope {
    /// The endpoint that a request is for, if it is allowed.
    pub(super) fn endpoint(&self, method: &http::Method, uri: &http::Uri) -> Option<Endpoint> {
        let scheme = if self.tls { "https" } else { "http" };
        let target = uri.path_and_query()?;
        let here = uri.scheme_str() == Some(scheme)
            && uri
                .authority()
                .is_some_and(|authority| authority.as_str() == self.authority)
            && target.as_str().len() <= MAX_TARGET;
        if !here {
            return None;
        }
        let endpoint = match (method.as_str(), target.path()) {
            ("GET", "/v1/agent/connect/ca/roots") => Endpoint::Roots,
            ("GET", "/v1/connect/intentions/match") => Endpoint::Match,
            ("GET", "/v1/peerings") => Endpoint::Peerings,
            ("POST", "/v1/agent/connect/authorize") => Endpoint::Authorize,
            _ => return None,
        };
        self.allows_query(endpoint, target.query())
            .then_some(endpoint)
    }

    fn allows_query(&self, endpoint: Endpoint, query: Option<&str>) -> bool {
        let Some(query) = query else {
            return endpoint != Endpoint::Match;
        };
        let mut seen: Vec<&str> = Vec::new();
        let mut by_destination = false;
        for pair in query.split('&') {
            let (key, value) = pair
                .split_once('=')
                .map_or((pair, None), |(key, value)| (key, Some(value)));
            if key != "name" && seen.contains(&key) {
                return false;
            }
            seen.push(key);
            let fits = match (key, value) {
                ("index", Some(index)) => endpoint != Endpoint::Authorize && number(index),
                ("wait", Some(wait)) => endpoint != Endpoint::Authorize && duration(wait),
                ("stale" | "consistent", None) => endpoint == Endpoint::Match,
                ("by", Some("destination")) => {
                    by_destination = true;
                    endpoint == Endpoint::Match
                }
                ("name", Some(name)) => endpoint == Endpoint::Match && !name.is_empty(),
                ("dc", Some(value)) => self.datacenter.as_deref() == Some(value),
                ("ns", Some(value)) => self.namespace.as_deref() == Some(value),
                ("partition", Some(value)) => self.partition.as_deref() == Some(value),
                _ => false,
            };
            if !fits {
                return false;
            }
        }
        endpoint != Endpoint::Match || by_destination
    }
}

/// Whether the target asks the agent to wait.
pub(super) fn blocks(uri: &http::Uri) -> bool {
    uri.query()
        .is_some_and(|query| query.split('&').any(|pair| pair.starts_with("index=")))
}

fn number(text: &str) -> bool {
    (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `300s`, `5m`, `2000ms`.
fn duration(text: &str) -> bool {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
    number(digits) && digits.len() <= 7 && matches!(&text[digits.len()..], "ms" | "s" | "m")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope {
            authority: "127.0.0.1:8500".to_owned(),
            tls: false,
            datacenter: Some("dc1".to_owned()),
            namespace: None,
            partition: None,
        }
    }

    fn ask(method: &str, uri: &str) -> Option<Endpoint> {
        scope().endpoint(&method.parse().unwrap(), &uri.parse().ok()?)
    }

    const ROOTS: &str = "http://127.0.0.1:8500/v1/agent/connect/ca/roots";
    const MATCH: &str = "http://127.0.0.1:8500/v1/connect/intentions/match";
    const AUTHORIZE: &str = "http://127.0.0.1:8500/v1/agent/connect/authorize";

    #[test]
    fn the_four_endpoints_are_allowed() {
        assert_eq!(ask("GET", ROOTS), Some(Endpoint::Roots));
        assert_eq!(
            ask("GET", &format!("{ROOTS}?index=12&wait=300s&dc=dc1")),
            Some(Endpoint::Roots)
        );
        let query = "by=destination&name=db&name=team%2Fweb&index=7&wait=10000ms&stale";
        assert_eq!(
            ask("GET", &format!("{MATCH}?{query}")),
            Some(Endpoint::Match)
        );
        let peerings = "http://127.0.0.1:8500/v1/peerings";
        let blocking = format!("{peerings}?index=7&wait=60s");
        assert_eq!(ask("GET", peerings), Some(Endpoint::Peerings));
        assert_eq!(ask("GET", &blocking), Some(Endpoint::Peerings));
        assert_eq!(ask("POST", AUTHORIZE), Some(Endpoint::Authorize));
    }

    #[test]
    fn nothing_else_is() {
        for (method, uri) in [
            // other methods and endpoints, private keys first
            ("GET", "http://127.0.0.1:8500/v1/agent/connect/ca/leaf/web"),
            ("PUT", ROOTS),
            ("POST", MATCH),
            ("GET", AUTHORIZE),
            ("HEAD", ROOTS),
            ("get", ROOTS),
            ("GET", "http://127.0.0.1:8500/"),
            ("GET", "http://127.0.0.1:8500"),
            // a peering by its name, and what makes one
            ("GET", "http://127.0.0.1:8500/v1/peering/a"),
            ("POST", "http://127.0.0.1:8500/v1/peerings"),
            ("POST", "http://127.0.0.1:8500/v1/peering/token"),
            ("GET", "http://127.0.0.1:8500/v1/peerings?name=x"),
            // ways to write one endpoint as another
            (
                "GET",
                "http://127.0.0.1:8500/v1/agent/connect/ca/roots/../leaf/web",
            ),
            (
                "GET",
                "http://127.0.0.1:8500/v1/agent/connect/ca/roots/%2e%2e/leaf/web",
            ),
            (
                "GET",
                "http://127.0.0.1:8500/v1/agent/connect/ca/%2e%2e/ca/roots",
            ),
            ("GET", "http://127.0.0.1:8500//v1/agent/connect/ca/roots"),
            ("GET", "http://127.0.0.1:8500/v1/agent/connect/ca/roots/"),
            ("GET", "http://127.0.0.1:8500/v1/agent/connect//ca/roots"),
            ("GET", "http://127.0.0.1:8500/v1/agent/connect/ca/Roots"),
            ("GET", "http://127.0.0.1:8500/v1/agent/connect/ca/r%6fots"),
            ("GET", "http://127.0.0.1:8500/v1/agent/connect/ca/roots;x"),
            (
                "GET",
                "http://127.0.0.1:8500/http://127.0.0.1:8500/v1/agent/connect/ca/roots",
            ),
            // other places
            ("GET", "http://127.0.0.1:8501/v1/agent/connect/ca/roots"),
            ("GET", "http://localhost:8500/v1/agent/connect/ca/roots"),
            ("GET", "http://127.0.0.1/v1/agent/connect/ca/roots"),
            ("GET", "http://x@127.0.0.1:8500/v1/agent/connect/ca/roots"),
            (
                "GET",
                "http://127.0.0.1:8500.evil.example/v1/agent/connect/ca/roots",
            ),
            ("GET", "https://127.0.0.1:8500/v1/agent/connect/ca/roots"),
            ("GET", "/v1/agent/connect/ca/roots"),
        ] {
            assert_eq!(ask(method, uri), None, "{method} {uri}");
        }
    }

    #[test]
    fn queries_are_a_closed_list_too() {
        for query in [
            "token=x",
            "dc=dc2",
            "dc",
            "dc=",
            "dc=dc1&dc=dc2",
            "dc=dc1&dc=dc1",
            "ns=default",
            "partition=default",
            "d%63=dc2",
            "index=1&index=2",
            "index=-1",
            "index=",
            "wait=1h",
            "wait=99999999s",
            "wait=s",
            "pem",
            "pem=true",
            "filter=x",
            "",
            "&",
            "stale",
            "name=x",
            "near=_agent",
            "cached",
            "peer=x",
        ] {
            assert_eq!(ask("GET", &format!("{ROOTS}?{query}")), None, "{query}");
        }
        for query in [
            "",
            "name=db",
            "by=source&name=db",
            "by=destination&name=",
            "by=destination&by=source",
            "by=destination&token=x",
            "by=destination&ns=x",
        ] {
            assert_eq!(ask("GET", &format!("{MATCH}?{query}")), None, "{query}");
        }
        assert_eq!(ask("GET", MATCH), None);
        for query in ["index=1", "token=x", "wait=1s", "stale"] {
            assert_eq!(
                ask("POST", &format!("{AUTHORIZE}?{query}")),
                None,
                "{query}"
            );
        }
        let long = format!("{MATCH}?by=destination&name={}", "a".repeat(MAX_TARGET));
        assert_eq!(ask("GET", &long), None);
    }

    #[test]
    fn without_a_datacenter_none_may_be_named() {
        let scope = Scope {
            datacenter: None,
            ..scope()
        };
        let uri = format!("{ROOTS}?dc=dc1").parse().unwrap();
        assert_eq!(scope.endpoint(&http::Method::GET, &uri), None);
    }
}
