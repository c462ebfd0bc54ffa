//! What the settings add to every request: datacenter, tenancy, consistency.

use std::fmt::Write as _;

use portcullis_core::agent::{HttpRequest, Method};

use super::config::AgentConfig;

/// Adds what the settings say about datacenter, tenancy and consistency.
pub(super) fn with_scope(asked: &HttpRequest, config: &AgentConfig) -> String {
    let target = asked.path_and_query.as_str();
    let mut out = target.to_owned();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let named = |name: &str| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name))
    };
    let mut add = |name: &str, value: &str| {
        if named(name) {
            return;
        }
        out.push(if out.contains('?') { '&' } else { '?' });
        out.push_str(name);
        out.push_str(value);
    };
    for (name, value) in [
        ("dc", &config.datacenter),
        ("ns", &config.namespace),
        ("partition", &config.partition),
    ] {
        if let Some(value) = value {
            add(name, &format!("={}", percent_encoded(value)));
        }
    }
    let from_servers = [
        "/v1/health/",
        "/v1/catalog/",
        "/v1/connect/intentions/match",
    ];
    if config.stale
        && asked.method == Method::Get
        && from_servers.iter().any(|start| target.starts_with(start))
    {
        add("stale", "");
    }
    out
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte))
            }
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_core::agent::{Query, health, roots};

    #[test]
    fn settings_fill_in_what_a_request_leaves_out() {
        let config = AgentConfig {
            datacenter: Some("d c".to_owned()),
            partition: Some("p&x=1".to_owned()),
            stale: true,
            ..AgentConfig::default()
        };
        let scoped = |request: &HttpRequest| with_scope(request, &config);
        let health = health::request("db", &Query::default()).unwrap();
        assert_eq!(
            scoped(&health),
            "/v1/health/connect/db?dc=d%20c&partition=p%26x%3D1&stale"
        );
        let elsewhere = Query {
            datacenter: Some("dc2".to_owned()),
            ..Query::default()
        };
        let health = health::request("db", &elsewhere).unwrap();
        assert_eq!(
            scoped(&health),
            "/v1/health/connect/db?dc=dc2&partition=p%26x%3D1&stale"
        );
        let roots = roots::request(&Query::default());
        assert!(!scoped(&roots).contains("stale"));
    }
}
